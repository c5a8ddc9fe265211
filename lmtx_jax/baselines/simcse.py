"""Unsupervised SimCSE: a text is its own passage (Gao et al., EMNLP 2021)."""

from __future__ import annotations

from absl import logging
import numpy as np

from lmtx_jax.data.batches import bucket_widths, epoch_order, width_of
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.train.pair_source import (
  MIN_WASTE,
  Batch,
  LastEpoch,
  max_widths,
  worth_compiling,
)
from lmtx_jax.types import UserError


class SimCsePairs:
  """The same text twice: query and passage differ by dropout alone."""

  def __init__(
    self,
    inputs: TokenView,
    *,
    batch_size: int,
    epochs: int,
    seed: tuple[int, ...],
  ):
    """Takes the texts; empty ones are left out.

    Args:
      inputs: the training documents as the encoder reads them.
      batch_size: texts a step; each epoch's last partial batch is dropped.
      epochs: passes over the texts.
      seed: of the order.

    Raises:
      UserError: fewer than two texts are not empty.
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._rows = np.flatnonzero(inputs.sizes)
    if len(self._rows) < 2:
      raise UserError(
        f'--method=simcse: only {len(self._rows)} of {len(inputs)} training'
        ' documents have a text'
      )
    if len(self._rows) < len(inputs):
      logging.info(
        'simcse: %d of %d documents have no text, and are left out',
        len(inputs) - len(self._rows),
        len(inputs),
      )
    self._inputs, self._seed = inputs, seed
    self._lengths = inputs.lengths[self._rows]
    self.batch_size = batch_size
    self.num_pairs = len(self._rows)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    self._widths = bucket_widths(
      self._lengths,
      int(self._lengths.max()),
      max_widths(self._steps_per_epoch),
      waste=MIN_WASTE,
      min_saved=worth_compiling(
        int(self._lengths.sum()), self._steps_per_epoch, epochs
      ),
    )

  def _make_epoch(self, epoch: int) -> np.ndarray:
    """Order `[steps, batch]`."""
    rng = np.random.default_rng((*self._seed, epoch))
    bucket = np.searchsorted(self._widths, self._lengths)
    return epoch_order(bucket, self.batch_size, rng)

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    epoch, index = divmod(step, self._steps_per_epoch)
    places = self._epochs(epoch)[index]
    width = width_of(self._lengths[places].max(), self._widths)
    ids, lengths = self._inputs.batch(self._rows[places], width)
    key = np.arange(self.batch_size, dtype=np.int32)
    return {
      'query_ids': ids,
      'query_lengths': lengths,
      'passage_ids': ids,
      'passage_lengths': lengths,
      'passage_key': key,
      'accepted': key[:, None],
    }
