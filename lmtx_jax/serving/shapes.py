"""Which shapes the service compiles, and which of them a batch is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MAX_WIDTHS = 10  # each costs two compilations or more at the start
_SHORTEST = 32  # tokens; below, a document costs hardly less
_STEP = 4  # sizes go up by this factor


class Shape(NamedTuple):
  """The shape of one batch of the encoder.

  Attributes:
    width: tokens to pad to.
    size: documents to pad to.
  """

  width: int
  size: int


def shapes_of(
  widths: np.ndarray, batch_tokens: int, multiple: int
) -> list[Shape]:
  """All shapes to compile; the first alone can hold any document.

  Args:
    widths: bucket widths of the bundle, ascending; halves of the last one are
      added, for documents that are shorter than those of training.
    batch_tokens: tokens of a batch on one device, padding included.
    multiple: number of devices, which divides every size.
  """
  half = widths[-1] // 2
  while half >= _SHORTEST:
    widths, half = np.union1d(widths, half), half // 2
  if len(widths) > _MAX_WIDTHS:
    kept = np.linspace(0, len(widths) - 1, _MAX_WIDTHS).round().astype(int)
    widths = widths[kept]
  shapes, share = [], 1
  while True:
    more = [
      Shape(int(width), share * multiple)
      for width in widths[::-1]
      if share == 1 or share * width <= batch_tokens
    ]
    if not more:
      return shapes
    shapes += more
    share *= _STEP


def width_for(length: int, shapes: Sequence[Shape]) -> int:
  """The smallest width of any of the shapes that holds `length` tokens."""
  return min(shape.width for shape in shapes if shape.width >= length)


def size_for(waiting: int, width: int, shapes: Sequence[Shape]) -> int:
  """How many documents the next batch holds, padding included.

  As many as wait if there is such a shape; else a smaller one, so that nothing
  is computed in vain, unless a quarter of a larger one at most is padding.

  Args:
    waiting: documents of this width, at least one.
    width: tokens.
    shapes: that are compiled.
  """
  sizes = sorted(shape.size for shape in shapes if shape.width == width)
  good = [size for size in sizes if 3 * size <= 4 * waiting]
  return good[-1] if good else sizes[0]
