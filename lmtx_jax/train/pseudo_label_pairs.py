"""Training pairs from the teacher's yeses."""

from __future__ import annotations

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
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._rows = np.flatnonzero(accepted.lengths)
    self._documents, self._labels = documents, labels
    self._accepted = accepted.take(self._rows)
    self._label_key = label_key
    self._seed = seed
    self.batch_size = batch_size
    self._lengths = documents.lengths[self._rows]
    self.num_pairs = len(self._rows)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    # Shapes follow from all documents, not from those of this cycle, so that
    # no cycle compiles the step again.
    self._widths = bucket_widths(
      documents.lengths,
      int(documents.lengths.max(initial=3)),
      MAX_SHAPES,
      waste=MIN_WASTE,
      min_saved=worth_compiling(
        int(documents.lengths.sum()), len(documents) // batch_size, epochs
      ),
    )
    self._label_width = int(labels.lengths.max(initial=3))
    most = int(self._accepted.lengths.max(initial=1))
    width = -(-most // _ACCEPTED_MULTIPLE) * _ACCEPTED_MULTIPLE
    keys = label_key[self._accepted.values]
    self._accepted_keys = np.full((len(self._rows), width), -1, np.int32)
    inside = np.arange(width)[None, :] < self._accepted.lengths[:, None]
    self._accepted_keys[inside] = keys

  def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Order `[steps, batch]`, and the positive drawn for each document."""
    rng = np.random.default_rng((*self._seed, epoch))
    bucket = np.searchsorted(self._widths, self._lengths)
    order = epoch_order(bucket, self.batch_size, rng)
    draw = rng.random(len(self._rows)) * self._accepted.lengths
    place = self._accepted.offsets[:-1] + draw.astype(np.int64)
    return order, self._accepted.values[place]

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    epoch, index = divmod(step, self._steps_per_epoch)
    order, positives = self._epochs(epoch)
    rows, labels = order[index], positives[order[index]]
    width = width_of(self._lengths[rows].max(), self._widths)
    query_ids, query_lengths = self._documents.batch(self._rows[rows], width)
    passage_ids, passage_lengths = self._labels.batch(labels, self._label_width)
    return {
      'query_ids': query_ids,
      'query_lengths': query_lengths,
      'passage_ids': passage_ids,
      'passage_lengths': passage_lengths,
      'passage_key': self._label_key[labels],
      'accepted': self._accepted_keys[rows],
    }
