"""Inverse cloze task: a sentence and where it stood (Lee et al., ACL 2019)."""

from __future__ import annotations

from typing import NamedTuple

from absl import logging
import numpy as np

from lmtx_jax.baselines.sentences import sentence_starts, token_kinds
from lmtx_jax.data.batches import epoch_order
from lmtx_jax.data.tokens import Tokens, TokenView
from lmtx_jax.train.pair_shapes import shape_of, training_shapes
from lmtx_jax.train.pair_source import Batch, LastEpoch
from lmtx_jax.types import UserError


class _Epoch(NamedTuple):
  """A sentence of each document that has several.

  Attributes:
    starts: `[num_pairs]` int64, where it begins among all tokens.
    sizes: `[num_pairs]` int32, its tokens.
    removed: `[num_pairs]` bool, whether its block lacks it.
    order: `[steps, batch]` int64, pairs of each step.
  """

  starts: np.ndarray
  sizes: np.ndarray
  removed: np.ndarray
  order: np.ndarray


class IctPairs:
  """(a random sentence, the title and the rest of the content).

  The sentence is taken out of its block with a given probability, else it is
  left in, so that words in common are learnt, too. Each document gives one
  pair an epoch; those of fewer than two sentences are left out.
  """

  def __init__(
    self,
    documents: Tokens,
    tokenizer,
    *,
    max_query_tokens: int,
    max_block_tokens: int,
    removal_rate: float,
    batch_size: int,
    epochs: int,
    seed: tuple[int, ...],
  ):
    """Finds the sentences; in memory are their places only.

    Args:
      documents: tokens of the training documents.
      tokenizer: that they were made with.
      max_query_tokens: longest sentence, special tokens included.
      max_block_tokens: longest block, special tokens included.
      removal_rate: probability that a sentence is taken out of its block.
      batch_size: pairs a step; each epoch's last partial batch is dropped.
      epochs: how often a sentence of each document is drawn.
      seed: of every draw.

    Raises:
      UserError: fewer than two documents have two sentences.
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._documents, self._seed = documents, seed
    self._caps = max_query_tokens - 2, max_block_tokens - 2
    self._removal_rate = removal_rate
    self._sentences = sentence_starts(documents, token_kinds(tokenizer))
    self._rows = np.flatnonzero(self._sentences.lengths >= 2)
    self._say_what_is_left_out()
    self.batch_size = batch_size
    self.num_pairs = len(self._rows)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    lengths = self._lengths(self._draw(0))
    shapes = training_shapes(
      *lengths,
      max(max_query_tokens, max_block_tokens),
      steps_per_epoch=self._steps_per_epoch,
      epochs=epochs,
    )
    self._shapes = np.minimum(shapes, [max_query_tokens, max_block_tokens])

  def _say_what_is_left_out(self) -> None:
    num_docs = len(self._sentences)
    few = num_docs - len(self._rows)
    if len(self._rows) < 2:
      raise UserError(
        f'--method=ict: {few} of {num_docs} training documents have fewer than'
        ' two sentences; --method=simcse and --method=rts need none'
      )
    if few:
      logging.info(
        'ict: %d of %d documents have fewer than two sentences, and are left'
        ' out',
        few,
        num_docs,
      )

  def _draw(self, epoch: int) -> _Epoch:
    """A sentence of each document, in no order yet."""
    rng = np.random.default_rng((*self._seed, epoch, 0))
    sentences, offsets = self._sentences, self._documents.ids.offsets
    row_starts, row_ends = offsets[self._rows], offsets[self._rows + 1]
    first, count = sentences.offsets[self._rows], sentences.lengths[self._rows]
    chosen = first + rng.integers(0, count)
    starts = row_starts + sentences.values[chosen]
    following = np.minimum(chosen + 1, len(sentences.values) - 1)
    ends = np.where(
      chosen + 1 < first + count,
      row_starts + sentences.values[following],
      row_ends,
    )
    return _Epoch(
      starts,
      (ends - starts).astype(np.int32),
      rng.random(self.num_pairs) < self._removal_rate,
      np.zeros((0, self.batch_size), np.int64),
    )

  def _lengths(self, epoch: _Epoch) -> tuple[np.ndarray, np.ndarray]:
    """Input lengths of all sentences and of all blocks."""
    whole = self._documents.ids.lengths[self._rows]
    block = whole - epoch.removed * epoch.sizes
    return (
      np.minimum(epoch.sizes, self._caps[0]) + 2,
      np.minimum(block, self._caps[1]) + 2,
    )

  def _make_epoch(self, epoch: int) -> _Epoch:
    drawn = self._draw(epoch)
    rng = np.random.default_rng((*self._seed, epoch, 1))
    shape = shape_of(*self._lengths(drawn), self._shapes)
    return drawn._replace(order=epoch_order(shape, self.batch_size, rng))

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    number, index = divmod(step, self._steps_per_epoch)
    epoch = self._epochs(number)
    pairs = epoch.order[index]
    query, block = (side[pairs] for side in self._lengths(epoch))
    longest = query.max(), block.max()
    widths = self._shapes[shape_of(*longest, self._shapes)]
    ids, special = self._documents.ids, self._documents.special
    starts, sizes = epoch.starts[pairs], epoch.sizes[pairs]
    sentences = TokenView(ids.values, starts, query - 2, special)
    every = np.arange(self.batch_size)
    query_ids, query_lengths = sentences.batch(every, int(widths[0]))
    passage_ids, passage_lengths = self._blocks(
      self._rows[pairs],
      block - 2,
      (starts, np.where(epoch.removed[pairs], sizes, 0)),
      int(widths[1]),
    )
    key = every.astype(np.int32)
    return {
      'query_ids': query_ids,
      'query_lengths': query_lengths,
      'passage_ids': passage_ids,
      'passage_lengths': passage_lengths,
      'passage_key': key,
      'accepted': key[:, None],
    }

  def _blocks(
    self,
    rows: np.ndarray,
    sizes: np.ndarray,
    removed: tuple[np.ndarray, np.ndarray],
    width: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Documents as inputs, each without a span of its tokens.

    Args:
      rows: `[batch]` documents.
      sizes: `[batch]` tokens of each that are read.
      removed: `[batch]` start and size of the span among all tokens.
      width: tokens to pad to.
    """
    ids = self._documents.ids
    column = np.arange(sizes.max(initial=0))[None, :]
    place = ids.offsets[rows][:, None] + column
    place += np.where(place >= removed[0][:, None], removed[1][:, None], 0)
    inside = column < sizes[:, None]
    # What is read lies side by side now, as in a corpus of its own.
    read = TokenView(
      ids.values[place[inside]],
      np.cumsum(sizes) - sizes,
      sizes,
      self._documents.special,
    )
    return read.batch(np.arange(len(rows)), width)
