"""Training pairs from the teacher's yeses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmtx_jax.data.batches import bucket_widths, epoch_order, width_of
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.train.pair_source import (
  MAX_SHAPES,
  MIN_WASTE,
  Batch,
  LastEpoch,
  worth_compiling,
)
from lmtx_jax.types import Ragged

_ACCEPTED_MULTIPLE = 16  # accepted labels a document are padded to


class _Epoch(NamedTuple):
  """What is drawn for an epoch; rows are documents with an accepted label.

  Attributes:
    order: `[steps, batch]` int64 rows.
    positives: `[rows]` int32, a label of each.
    refused: `[rows, num_hard]` int32, other labels of each, -1 for none.
  """

  order: np.ndarray
  positives: np.ndarray
  refused: np.ndarray


class PseudoLabelPairs:
  """(document, one of its accepted labels, drawn anew each epoch)."""

  def __init__(
    self,
    documents: TokenView,
    labels: TokenView,
    accepted: Ragged,
    label_key: np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    seed: tuple[int, ...],
    weights: np.ndarray | None = None,
    rejected: Ragged | None = None,
    num_hard: int = 0,
    clusters: np.ndarray | None = None,
  ):
    """Documents without an accepted label are left out.

    Args:
      documents: the training documents.
      labels: the label set.
      accepted: row `d` holds the accepted labels of document `d`.
      label_key: `[num_labels]` int32, equal for labels of equal text.
      batch_size: documents a step; each epoch's last partial batch is dropped.
      epochs: passes over the documents.
      seed: of every draw.
      weights: `[num_accepted]` f32, in proportion to which one of a
        document's accepted labels is drawn; None: all alike.
      rejected: row `d` holds labels that are wrong for document `d`; needed
        for `num_hard`.
      num_hard: how many of them, drawn anew each epoch, enter the batch with
        a document as further passages.
      clusters: `[num_docs]` int32, of documents that are to meet in a batch
        (NGAME; Dahiya et al., WSDM 2023); None: those of like length do, which
        saves padding.
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._rows = np.flatnonzero(accepted.lengths)
    self._documents, self._labels = documents, labels
    self._accepted = accepted.take(self._rows)
    self._label_key, self._seed = label_key, seed
    self._weights = weights
    self._num_hard, self._rejected = num_hard, None
    if num_hard:
      self._rejected = rejected.take(self._rows)
    self._clusters = None if clusters is None else clusters[self._rows]
    self.batch_size = batch_size
    self._lengths = documents.lengths[self._rows]
    self.num_pairs = len(self._rows)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    self._widths = _widths(
      documents.lengths, batch_size, epochs, clusters is not None
    )
    self._label_width = int(labels.lengths.max(initial=3))
    self._accepted_keys = self._keys()

  def _keys(self) -> np.ndarray:
    """`[rows, any]` int32 keys of accepted labels, then -1."""
    # With further passages at least one, as theirs may be -1.
    most = int(self._accepted.lengths.max(initial=1)) + bool(self._num_hard)
    width = -(-most // _ACCEPTED_MULTIPLE) * _ACCEPTED_MULTIPLE
    keys = np.full((len(self._rows), width), -1, np.int32)
    inside = np.arange(width)[None, :] < self._accepted.lengths[:, None]
    keys[inside] = self._label_key[self._accepted.values]
    return keys

  def _make_epoch(self, epoch: int) -> _Epoch:
    rng = np.random.default_rng((*self._seed, epoch))
    if self._clusters is None:
      bucket = np.searchsorted(self._widths, self._lengths)
      order = epoch_order(bucket, self.batch_size, rng)
    else:
      order = _cluster_order(self._clusters, self.batch_size, rng)
    place = _drawn_one(self._accepted, self._weights, rng)
    refused = np.zeros((len(self._rows), 0), np.int32)
    if self._num_hard:
      refused = _drawn(self._rejected, self._num_hard, rng)
    return _Epoch(order, self._accepted.values[place], refused)

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    number, index = divmod(step, self._steps_per_epoch)
    epoch = self._epochs(number)
    rows = epoch.order[index]
    labels = epoch.positives[rows]
    width = width_of(self._lengths[rows].max(), self._widths)
    query_ids, query_lengths = self._documents.batch(self._rows[rows], width)
    passage_ids, passage_lengths = self._labels.batch(labels, self._label_width)
    batch = {
      'query_ids': query_ids,
      'query_lengths': query_lengths,
      'passage_ids': passage_ids,
      'passage_lengths': passage_lengths,
      'passage_key': self._label_key[labels],
      'accepted': self._accepted_keys[rows],
    }
    if self._num_hard:
      batch |= self._extra(epoch.refused[rows].ravel())
    return batch

  def _extra(self, labels: np.ndarray) -> Batch:
    """The further passages of a batch; label -1 is any text of key -1."""
    some = np.maximum(labels, 0)
    ids, lengths = self._labels.batch(some, self._label_width)
    return {
      'extra_ids': ids,
      'extra_lengths': lengths,
      'extra_key': np.where(labels < 0, -1, self._label_key[some]),
    }


def _widths(
  lengths: np.ndarray, batch_size: int, epochs: int, mixed: bool
) -> np.ndarray:
  """The widths of batches of documents.

  They follow from all documents, not from those of a cycle, so that no cycle
  compiles the step again.

  Args:
    lengths: `[num_docs]` input lengths.
    batch_size: documents a batch.
    epochs: of the training.
    mixed: whether documents of all lengths meet in a batch, which is then as
      wide as the longest of them.
  """
  longest = int(lengths.max(initial=3))
  steps = len(lengths) // batch_size
  if mixed:
    rng = np.random.default_rng(0)
    order = epoch_order(np.zeros(len(lengths)), batch_size, rng)
    lengths = np.repeat(lengths[order].max(axis=1), batch_size)
  return bucket_widths(
    lengths,
    longest,
    MAX_SHAPES,
    waste=MIN_WASTE,
    min_saved=worth_compiling(int(lengths.sum()), steps, epochs),
  )


def _cluster_order(
  clusters: np.ndarray, batch_size: int, rng: np.random.Generator
) -> np.ndarray:
  """A random order in which the documents of a cluster are side by side.

  Clusters are shuffled and laid one behind the other, each shuffled too; this
  row is cut into batches, and the batches are shuffled. What is left over after
  the last whole batch is dropped.

  Args:
    clusters: `[n]` int32.
    batch_size: documents a batch.
    rng: source of randomness.

  Returns:
    `[num_batches, batch_size]` int64 documents.
  """
  num_batches = len(clusters) // batch_size
  place = rng.permutation(clusters.max(initial=-1) + 1)  # of each cluster
  order = rng.permutation(len(clusters))
  order = order[np.argsort(place[clusters[order]], kind='stable')]
  order = order[: num_batches * batch_size]
  return rng.permutation(order.reshape(num_batches, batch_size))


def _drawn_one(
  rows: Ragged, weights: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
  """`[num_rows]` int64, where a value of each row lies; none is empty."""
  draw = rng.random(len(rows))
  if weights is None:
    return rows.offsets[:-1] + (draw * rows.lengths).astype(np.int64)
  total = np.concatenate([[0], np.cumsum(weights, dtype=np.float64)])
  first, end = total[rows.offsets[:-1]], total[rows.offsets[1:]]
  place = np.searchsorted(total, first + draw * (end - first), 'right') - 1
  # What is rounded away does not lead into another row.
  return np.clip(place, rows.offsets[:-1], rows.offsets[1:] - 1)


def _drawn(rows: Ragged, count: int, rng: np.random.Generator) -> np.ndarray:
  """`[num_rows, count]` int32 values of each row, drawn apart; -1: no more."""
  order = np.lexsort((rng.random(len(rows.values)), rows.row_ids))
  place = rows.offsets[:-1, None] + np.arange(count)
  real = place < rows.offsets[1:, None]
  drawn = np.full((len(rows), count), -1, np.int32)
  drawn[real] = rows.values[order[place[real]]]
  return drawn
