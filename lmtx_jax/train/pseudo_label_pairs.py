"""Training pairs from the teacher's yeses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmtx_jax.data.batches import width_of
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.train.cycle_shapes import cycle_shapes
from lmtx_jax.train.objective import PASSAGES
from lmtx_jax.train.pair_source import Batch, LastEpoch
from lmtx_jax.types import Ragged

# Accepted labels of a document are padded to a power of two; to one that no
# cycle has more than, unless that is a number that costs time.
_LEAST_ACCEPTED, _CHEAP_ACCEPTED = 16, 128


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
    rejected: Ragged | None = None,
    num_hard: int = 0,
    clusters: np.ndarray | None = None,
    trainings: int = 1,
    most_accepted: int = 0,
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
      rejected: row `d` holds labels that are wrong for document `d`; needed
        for `num_hard`.
      num_hard: how many of them, drawn anew each epoch, enter the batch with
        a document as further passages.
      clusters: `[num_docs]` int32, of documents that are to meet in a batch
        (NGAME; Dahiya et al., WSDM 2023); None: those of like length do, which
        saves padding.
      trainings: how many there will be, of other labels of these documents.
      most_accepted: labels that a document may have in any of them.
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._rows = np.flatnonzero(accepted.lengths)
    self._documents, self._labels = documents, labels
    self._accepted = accepted.take(self._rows)
    self._label_key, self._seed = label_key, seed
    self._num_hard, self._rejected = num_hard, None
    if num_hard:
      self._rejected = rejected.take(self._rows)
    self._clusters = None if clusters is None else clusters[self._rows]
    self.batch_size = batch_size
    self._lengths = documents.lengths[self._rows]
    self._shortest = int(labels.lengths.argmin()) if len(labels) else 0
    self.num_pairs = len(self._rows)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    self._shapes = cycle_shapes(
      documents.lengths,
      labels.lengths,
      batch_size,
      epochs * trainings,
      num_hard=num_hard,
      clustered=clusters is not None,
    )
    self._accepted_keys = self._keys(most_accepted)

  def _keys(self, bound: int) -> np.ndarray:
    """`[rows, any]` int32 keys of accepted labels, then -1."""
    most = int(self._accepted.lengths.max(initial=1))
    most = max(most, min(bound, _CHEAP_ACCEPTED - bool(self._num_hard)))
    # With further passages at least one, as theirs may be -1.
    most = max(_LEAST_ACCEPTED, most + bool(self._num_hard))
    width = 1 << (most - 1).bit_length()
    keys = np.full((len(self._rows), width), -1, np.int32)
    inside = np.arange(width)[None, :] < self._accepted.lengths[:, None]
    keys[inside] = self._label_key[self._accepted.values]
    return keys

  def _make_epoch(self, epoch: int) -> _Epoch:
    rng = np.random.default_rng((*self._seed, epoch))
    if self._clusters is None:
      order = self._shapes.order(self._lengths, rng)
    else:
      order = _cluster_order(self._clusters, self.batch_size, rng)
    draw = rng.random(len(self._rows))
    place = (draw * self._accepted.lengths).astype(np.int64)
    positives = self._accepted.values[self._accepted.offsets[:-1] + place]
    refused = np.zeros((len(self._rows), 0), np.int32)
    if self._num_hard:
      refused = _drawn(self._rejected, self._num_hard, rng)
    return _Epoch(order, positives, refused)

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    number, index = divmod(step, self._steps_per_epoch)
    epoch = self._epochs(number)
    rows, shapes = epoch.order[index], self._shapes
    if shapes.parts > 1:
      label_lengths = self._labels.lengths[epoch.positives[rows]]
      rows = rows[np.argsort(label_lengths, kind='stable')]
    query_ids, query_lengths = self._documents.batch(
      self._rows[rows],
      width_of(self._lengths[rows].max(), shapes.doc_widths),
    )
    batch = {
      'query_ids': query_ids,
      'query_lengths': query_lengths,
      'accepted': self._accepted_keys[rows],
    }
    parts = np.split(epoch.positives[rows], shapes.parts)
    for name, labels in zip(PASSAGES[: shapes.parts], parts, strict=True):
      batch |= self._side(name, labels)
    if self._num_hard:
      batch |= self._side('extra', epoch.refused[rows].ravel())
    return batch

  def _side(self, name: str, labels: np.ndarray) -> Batch:
    """Some passages of a batch; label -1 is a short text of key -1."""
    texts = np.where(labels < 0, self._shortest, labels)
    longest = int(self._labels.lengths[texts].max())
    ids, lengths = self._labels.batch(
      texts, width_of(longest, self._shapes.label_widths)
    )
    return {
      f'{name}_ids': ids,
      f'{name}_lengths': lengths,
      f'{name}_key': np.where(labels < 0, -1, self._label_key[labels]),
    }


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


def _drawn(rows: Ragged, count: int, rng: np.random.Generator) -> np.ndarray:
  """`[num_rows, count]` int32 values of each row, drawn apart; -1: no more."""
  order = np.lexsort((rng.random(len(rows.values)), rows.row_ids))
  place = rows.offsets[:-1, None] + np.arange(count)
  real = place < rows.offsets[1:, None]
  drawn = np.full((len(rows), count), -1, np.int32)
  drawn[real] = rows.values[order[place[real]]]
  return drawn
