"""The shapes of the batches of documents and labels, for all cycles."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lmtx_jax import devices
from lmtx_jax.data.batches import epoch_order
from lmtx_jax.train.pair_shapes import side_shapes
from lmtx_jax.train.pair_source import MAX_SHAPES, MIN_WASTE, worth_compiling

_TRIED = 512  # batches, at least, that shapes are chosen by
_MOST_TRIED = 1024
_RUNS = 4  # of other seeds or teachers, that the kept programs serve
_WORTH_A_SIDE = 0.01  # share of tokens that it must save


@dataclasses.dataclass(frozen=True)
class CycleShapes:
  """What batches are padded to.

  They follow from all documents and labels, not from those of a cycle, so that
  no cycle compiles the step again.

  Attributes:
    batch_size: documents a batch.
    shorter: how many labels of a batch, the shortest, have a width of their
      own; 0: none.
    widths: `[num_shapes, 3]` of documents, of these labels, and of the others,
      by their cost. The last hold every batch.
  """

  batch_size: int
  shorter: int
  widths: np.ndarray

  def order(
    self, doc_lengths: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """`[num_batches, batch]` documents, those of a width at random."""
    doc_widths = np.unique(self.widths[:, 0])
    bucket = np.searchsorted(doc_widths, doc_lengths)
    return epoch_order(bucket, self.batch_size, rng)

  def of(
    self, doc_lengths: np.ndarray, label_lengths: np.ndarray, extra: int = 0
  ) -> list[int]:
    """The three widths of a batch.

    Args:
      doc_lengths: `[batch]` input lengths.
      label_lengths: `[batch]` input lengths.
      extra: the longest of further labels.
    """
    labels = np.sort(label_lengths)
    some = labels[self.shorter - 1] if self.shorter else 0
    longest = [doc_lengths.max(), some, max(labels[-1], extra)]
    fits = (self.widths >= longest).all(axis=1)
    return self.widths[fits.argmax()].tolist()


def cycle_shapes(
  doc_lengths: np.ndarray,
  label_lengths: np.ndarray,
  batch_size: int,
  epochs: int,
  *,
  num_hard: int = 0,
  clustered: bool = False,
) -> CycleShapes:
  """The shapes that waste the fewest tokens on batches as they will come.

  Batches are drawn, of any labels, and their longest inputs looked at.

  Args:
    doc_lengths: `[num_docs]` input lengths.
    label_lengths: `[num_labels]` input lengths.
    batch_size: documents a batch.
    epochs: of all trainings that have these shapes.
    num_hard: further labels a document.
    clustered: whether documents of all lengths meet in a batch.
  """
  docs, labels, extra = _drawn(
    doc_lengths, label_lengths, batch_size, num_hard, clustered
  )
  most = np.maximum(labels[:, -1], extra)
  all_labels = (1 + num_hard) * batch_size
  tokens = batch_size * docs.sum() + all_labels * most.sum()
  # Another side is more to compile, so it must save something. On 1 to 8
  # devices, which divide the batch, it is the same one.
  unit, shorter, best = math.lcm(8, devices.total()), 0, _WORTH_A_SIDE * tokens
  for rows in range(unit, batch_size // unit * unit, unit):
    saved = rows * (most - labels[:, rows - 1]).sum()
    if batch_size % unit == 0 and saved > best:
      shorter, best = rows, saved
  some = labels[:, shorter - 1] if shorter else 0 * most
  rows = np.array([batch_size, shorter, all_labels - shorter])
  longest_label = int(label_lengths.max(initial=3))
  widths = side_shapes(
    (docs, some, most),
    rows,
    (
      int(doc_lengths.max(initial=3)),
      longest_label if shorter else 0,
      longest_label,
    ),
    MAX_SHAPES,
    waste=MIN_WASTE,
    min_saved=worth_compiling(
      int(tokens), len(doc_lengths) // batch_size, epochs * _RUNS
    ),
  )
  by_cost = np.argsort(widths @ rows, kind='stable')
  return CycleShapes(batch_size, shorter, widths[by_cost])


def _drawn(
  doc_lengths: np.ndarray,
  label_lengths: np.ndarray,
  batch_size: int,
  num_hard: int,
  clustered: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lengths in batches that could come.

  Returns:
    `[batches]` of the longest document; `[batches, batch_size]` of the labels,
    ascending; `[batches]` of the longest further label.
  """
  rng = np.random.default_rng(0)
  num_batches = len(doc_lengths) // batch_size
  if not num_batches or not len(label_lengths):
    return (
      np.zeros(0, np.int64),
      np.zeros((0, batch_size), np.int64),
      np.zeros(0, np.int64),
    )
  docs = []
  for _ in range(-(-_TRIED // num_batches)):
    place = np.zeros(len(doc_lengths)) if clustered else doc_lengths
    order = epoch_order(place, batch_size, rng)[:_MOST_TRIED]
    docs.append(doc_lengths[order].max(axis=1))
  docs = np.concatenate(docs)
  labels = rng.choice(label_lengths, (len(docs), batch_size))
  extra = rng.choice(label_lengths, (len(docs), num_hard * batch_size))
  return docs, np.sort(labels, axis=1), extra.max(axis=1, initial=0)
