"""The few shapes that batches of pairs are padded to, both sides at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmtx_jax.data.batches import allowed_widths

_BLOCK = 512  # shapes that are tried at a time


def pair_shapes(
  query_lengths: np.ndarray,
  passage_lengths: np.ndarray,
  max_tokens: int,
  max_shapes: int,
  *,
  waste: float,
  min_saved: float,
) -> np.ndarray:
  """Shapes that pad pairs of these lengths with few tokens.

  Args:
    query_lengths: `[n]` input lengths.
    passage_lengths: `[n]` input lengths.
    max_tokens: the longest length that can ever come.
    max_shapes: shapes at most, each of which is compiled once.
    waste: share of padding that is not improved on.
    min_saved: tokens of padding that each shape must save.

  Returns:
    `[num_shapes, 2]` widths of query and passage. One of them holds every
    pair; neighbours are alike, as a batch may lie across two.
  """
  return _side_by_side(
    side_shapes(
      (query_lengths, passage_lengths),
      (1, 1),
      (max_tokens, max_tokens),
      max_shapes,
      waste=waste,
      min_saved=min_saved,
    )
  )


def side_shapes(
  lengths: Sequence[np.ndarray],
  rows: Sequence[int],
  max_tokens: Sequence[int],
  max_shapes: int,
  *,
  waste: float,
  min_saved: float,
) -> np.ndarray:
  """Shapes that pad things of several sides with few tokens.

  One shape after the other is added, each time the one that saves the most.

  Args:
    lengths: of each side, `[n]` lengths.
    rows: of each side, how many inputs are as wide as that.
    max_tokens: of each side, the longest length that can ever come.
    max_shapes: shapes at most, each of which is compiled once.
    waste: share of padding that is not improved on.
    min_saved: tokens of padding that each shape must save.

  Returns:
    `[num_shapes, sides]` widths, of which the first hold everything.
  """
  rows, enough, code = np.array(rows), 0.0, 0
  widths = allowed_widths(max(max_tokens))
  for length, count in zip(lengths, rows, strict=True):
    enough += count * length.sum() / (1 - waste)
    code = code * len(widths) + np.searchsorted(widths, length)
  code, counts = np.unique(code, return_counts=True)
  sides = []
  for most in reversed(max_tokens):
    sides.append(np.minimum(widths[code % len(widths)], most))
    code = code // len(widths)
  cells = np.stack(sides[::-1], -1)  # [cells, sides], widths
  tried = np.stack(
    np.meshgrid(*map(np.unique, cells.T), indexing='ij'), -1
  ).reshape(-1, len(rows))
  found = [np.array(max_tokens)]
  cost = np.full(len(cells), rows @ found[0])  # of each cell
  while len(found) < max_shapes and counts @ cost > enough:
    saved = np.concatenate(
      [
        _saved(tried[start : start + _BLOCK], rows, cells, counts, cost)
        for start in range(0, len(tried), _BLOCK)
      ]
    )
    if saved.max() < min_saved:
      break
    found.append(tried[saved.argmax()])
    fits = (cells <= found[-1]).all(axis=1)
    cost = np.where(fits, np.minimum(cost, rows @ found[-1]), cost)
  return np.array(found)


def _saved(
  shapes: np.ndarray,
  rows: np.ndarray,
  cells: np.ndarray,
  counts: np.ndarray,
  cost: np.ndarray,
) -> np.ndarray:
  """`[shapes]` tokens that each would save over the costs `[cells]`."""
  fits = np.logical_and.reduce(
    [
      side[None, :] <= shape[:, None]
      for side, shape in zip(cells.T, shapes.T, strict=True)
    ]
  )
  saved = np.maximum(0, cost - (shapes @ rows)[:, None])
  return np.where(fits, saved, 0) @ counts


def _side_by_side(shapes: np.ndarray) -> np.ndarray:
  """Orders shapes so that two neighbours fit into one that is not large."""
  both = np.maximum(shapes[:, None], shapes[None])  # [shapes, shapes, 2]
  cost = shapes.sum(axis=1)[shape_of(both[..., 0], both[..., 1], shapes)]
  order, left = [0], set(range(1, len(shapes)))
  while left:
    order.append(min(left, key=lambda i: (cost[order[-1], i], i)))
    left.remove(order[-1])
  return shapes[order]


def shape_of(
  query_lengths: np.ndarray, passage_lengths: np.ndarray, shapes: np.ndarray
) -> np.ndarray:
  """Which shape holds each pair with the least padding; the lengths' shape."""
  found = np.zeros(np.shape(query_lengths), np.int64)
  for i in np.argsort(-shapes.sum(axis=1), kind='stable'):
    fits = (query_lengths <= shapes[i, 0]) & (passage_lengths <= shapes[i, 1])
    found = np.where(fits, i, found)
  return found
