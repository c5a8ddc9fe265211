"""The shapes of the batches of documents and labels, for all cycles."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from lmtx_jax import devices
from lmtx_jax.data.batches import bucket_widths, epoch_order
from lmtx_jax.train.pair_source import (
  MIN_WASTE,
  MOST_WIDTHS,
  max_widths,
  worth_compiling,
)

_TRIED = 512  # batches, at least, that shapes are chosen by
_MOST_TRIED = 1024
_RUNS = 4  # of other seeds or teachers, that the kept programs serve
_LEAST_ROWS = 16  # labels of a part
_WORTH_PARTS = 0.005  # share of tokens that twice as many must save


@dataclasses.dataclass(frozen=True)
class CycleShapes:
  """What batches are padded to.

  They follow from all documents and labels, not from those of a cycle, so that
  no cycle compiles the step again.

  Attributes:
    batch_size: documents a batch.
    parts: in how many parts of one size the labels of a batch come, by length.
    doc_widths: ascending; the last one holds every document.
    label_widths: of a part, the same.
  """

  batch_size: int
  parts: int
  doc_widths: np.ndarray
  label_widths: np.ndarray

  def order(
    self, doc_lengths: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """`[num_batches, batch]` documents, those of a width at random."""
    bucket = np.searchsorted(self.doc_widths, doc_lengths)
    return epoch_order(bucket, self.batch_size, rng)


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
    num_hard: further labels a document, which are a part of their own.
    clustered: whether documents of all lengths meet in a batch.
  """
  docs, labels, extra = _drawn(
    doc_lengths, label_lengths, batch_size, num_hard, clustered
  )
  tokens = batch_size * (docs.sum() + (labels[:, -1] + num_hard * extra).sum())
  parts, longest = _parts(labels, int(tokens))
  steps = len(doc_lengths) // batch_size
  # What a width must save, of the tokens of all batches that were drawn.
  min_saved = worth_compiling(int(tokens), steps, epochs * _RUNS)
  if clustered:
    longest_docs, most_widths, share = docs, MOST_WIDTHS, 1 / batch_size
  else:  # documents of a width meet
    longest_docs, most_widths = doc_lengths, max_widths(steps)
    share = steps / max(1, len(docs))
  doc_widths = bucket_widths(
    longest_docs,
    int(doc_lengths.max(initial=3)),
    most_widths,
    waste=MIN_WASTE,
    min_saved=min_saved * share,
  )
  label_widths = bucket_widths(
    np.append(longest, np.repeat(extra, num_hard * parts)),
    int(label_lengths.max(initial=3)),
    MOST_WIDTHS,
    waste=MIN_WASTE,
    min_saved=min_saved / (batch_size // parts),
  )
  return CycleShapes(batch_size, parts, doc_widths, label_widths)


def _parts(labels: np.ndarray, tokens: int) -> tuple[int, np.ndarray]:
  """How many parts save enough over half as many, and the longest of each.

  On 1 to 8 devices, which divide a part, they are the same ones. Accelerators
  take all labels at once: starting a program of a few hundred tokens takes
  them longer than the padding it would save (an estimate).

  Args:
    labels: `[batches, batch_size]` lengths, ascending.
    tokens: of all batches.
  """
  found, longest = 1, labels[:, -1:]
  if jax.default_backend() != 'cpu':
    return found, longest.ravel()
  batch_size, unit = labels.shape[1], math.lcm(8, devices.total())
  least = _LEAST_ROWS * max(1, devices.total() // 8)
  for parts in (2, 4, 8):
    if batch_size % (parts * unit) or batch_size < parts * least:
      break
    rows = batch_size // parts
    finer = labels[:, rows - 1 :: rows]
    saved = batch_size * (longest.mean(axis=1) - finer.mean(axis=1)).sum()
    if saved <= _WORTH_PARTS * tokens:
      break
    found, longest = parts, finer
  return found, longest.ravel()


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
