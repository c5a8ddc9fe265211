"""Stage I of MACLR: titles and contents in clusters (Xiong et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
import copy
import dataclasses

from absl import logging
import numpy as np

from lmtx_jax.baselines.sentences import (
  begins_sentence,
  sentence_starts,
  title_occurrences,
  token_kinds,
)
from lmtx_jax.data.batches import epoch_order
from lmtx_jax.data.tokens import Tokens, TokenView
from lmtx_jax.train.pair_shapes import shape_of, training_shapes
from lmtx_jax.train.pair_source import Batch, LastEpoch
from lmtx_jax.types import Ragged, UserError


def clusters_at(
  step: int, counts: Sequence[int], growth_steps: int
) -> int | None:
  """How many clusters the documents are in at a step.

  Args:
    step: of the training.
    counts: numbers of clusters, one after the other.
    growth_steps: steps with each of them.

  Returns:
    a number that may be above that of the documents; None after the last:
    each document is alone.
  """
  place = step // growth_steps
  return counts[place] if place < len(counts) else None


class MaclrPairs:
  """(title, content), positives being all contents of the title's cluster.

  The title is taken out of each sentence of the content with a given
  probability, drawn anew for each sentence each epoch. Passages that are
  nobody's own are the titles again and some random labels, which the loss's
  regulariser reads: their keys are no document's.

  Left out are documents without a title, and of fewer than two sentences.
  """

  def __init__(
    self,
    documents: Tokens,
    labels: TokenView,
    tokenizer,
    *,
    max_title_tokens: int,
    max_content_tokens: int,
    removal_rate: float,
    num_labels: int,
    batch_size: int,
    epochs: int,
    seed: tuple[int, ...],
  ):
    """Each document is alone, until `with_clusters`.

    Args:
      documents: tokens of the training documents.
      labels: the label set.
      tokenizer: that the documents were made with.
      max_title_tokens: longest title or label, special tokens included.
      max_content_tokens: longest content, special tokens included.
      removal_rate: probability that a sentence loses the title.
      num_labels: random labels a batch.
      batch_size: documents a step; each epoch's last partial batch is dropped.
      epochs: passes over the documents.
      seed: of every draw.

    Raises:
      UserError: fewer than two documents have a title and two sentences.
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._documents = documents
    self._labels = dataclasses.replace(
      labels, sizes=np.minimum(labels.sizes, max_title_tokens - 2)
    )
    self._kinds = token_kinds(tokenizer)
    self._cap, self._removal_rate = max_content_tokens - 2, removal_rate
    self._num_labels, self._seed = num_labels, seed
    sentences = sentence_starts(documents, self._kinds).lengths
    self._rows = np.flatnonzero((documents.title_sizes > 0) & (sentences >= 2))
    self._say_what_is_left_out(sentences)
    self._clusters = np.arange(len(sentences), dtype=np.int32)
    self._titles = documents.view(max_title_tokens, content=False)
    content_sizes = documents.ids.lengths - documents.title_sizes
    # Before the title is taken out.
    self._lengths = (
      self._titles.lengths[self._rows],
      np.minimum(content_sizes[self._rows], self._cap) + 2,
    )
    self.batch_size = batch_size
    self.num_pairs = len(self._rows)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    self._shapes = self._make_shapes(
      max_title_tokens, max_content_tokens, epochs
    )

  def with_clusters(self, clusters: np.ndarray) -> MaclrPairs:
    """The same batches, with other positives.

    Args:
      clusters: `[num_docs]` int32 in [0, num_docs), of all documents.
    """
    changed = copy.copy(self)
    changed._clusters = clusters
    return changed

  def _say_what_is_left_out(self, sentences: np.ndarray) -> None:
    """Of `[num_docs]` sentences a document."""
    titled = self._documents.title_sizes > 0
    num_docs = len(titled)
    untitled = num_docs - np.count_nonzero(titled)
    few = np.count_nonzero(titled & (sentences < 2))
    if len(self._rows) < 2:
      raise UserError(
        f'--method=maclr: of {num_docs} training documents {untitled} have no'
        f' title, and {few} others fewer than two sentences; --method=simcse'
        ' and --method=rts need neither, --method=ict no title'
      )
    if untitled or few:
      logging.info(
        'maclr: of %d documents %d have no title, and %d others fewer than two'
        ' sentences: they are left out',
        num_docs,
        untitled,
        few,
      )

  def _make_shapes(
    self, max_title_tokens: int, max_content_tokens: int, epochs: int
  ) -> np.ndarray:
    """`[num_shapes, 2]` widths of titles and of contents."""
    titles, contents = self._lengths
    if self._num_labels:
      # A batch is as wide as its longest label, the longest of some draws.
      rng = np.random.default_rng((*self._seed, 0, 2))
      quantile = rng.random(self.num_pairs) ** (1 / self._num_labels)
      longest = np.sort(self._labels.lengths)
      place = (quantile * len(longest)).astype(np.int64)
      titles = np.maximum(titles, longest[place])
    shapes = training_shapes(
      titles,
      contents,
      max(max_title_tokens, max_content_tokens),
      steps_per_epoch=self._steps_per_epoch,
      epochs=epochs,
    )
    return np.minimum(shapes, [max_title_tokens, max_content_tokens])

  def _make_epoch(self, epoch: int) -> np.ndarray:
    """Order `[steps, batch]`."""
    rng = np.random.default_rng((*self._seed, epoch, 0))
    shape = shape_of(*self._lengths, self._shapes)
    return epoch_order(shape, self.batch_size, rng)

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    epoch, index = divmod(step, self._steps_per_epoch)
    rows = self._rows[self._epochs(epoch)[index]]
    rng = np.random.default_rng((*self._seed, step, 1))
    contents = self._contents(rows, rng)
    labels = rng.choice(
      len(self._labels),
      self._num_labels,
      replace=len(self._labels) < self._num_labels,
    )
    longest = max(
      self._titles.lengths[rows].max(),
      self._labels.lengths[labels].max(initial=2),
    )
    title_width, content_width = self._shapes[
      shape_of(longest, contents.lengths.max(), self._shapes)
    ].tolist()
    titles = self._titles.batch(rows, title_width)
    some_labels = self._labels.batch(labels, title_width)
    passage_ids, passage_lengths = contents.batch(
      np.arange(len(rows)), content_width
    )
    key = self._clusters[rows].astype(np.int32)
    num_extra = len(rows) + len(labels)
    return {
      'query_ids': titles[0],
      'query_lengths': titles[1],
      'passage_ids': passage_ids,
      'passage_lengths': passage_lengths,
      'passage_key': key,
      'extra_ids': np.concatenate([titles[0], some_labels[0]]),
      'extra_lengths': np.concatenate([titles[1], some_labels[1]]),
      'extra_key': len(self._clusters) + np.arange(num_extra, dtype=np.int32),
      'accepted': np.stack([key, np.full_like(key, -1)], axis=1),
    }

  def _contents(self, rows: np.ndarray, rng: np.random.Generator) -> TokenView:
    """Contents without their titles, `[batch]` spans in memory.

    A title that reaches over the end of a sentence is of the one it begins in.
    Of a content that is nothing but its title, all stays.
    """
    docs = self._documents.ids.take(rows)
    title_sizes = self._documents.title_sizes[rows]
    sizes = docs.lengths - title_sizes
    place = np.arange(len(docs.values)) - docs.offsets[docs.row_ids]
    of_title = place < title_sizes[docs.row_ids]
    titles = Ragged(
      docs.values[of_title], np.concatenate([[0], np.cumsum(title_sizes)])
    )
    inside = np.arange(sizes.max())[None, :] < sizes[:, None]
    tokens = np.zeros(inside.shape, docs.values.dtype)  # [batch, width]
    tokens[inside] = docs.values[~of_title]

    sentence = np.cumsum(begins_sentence(self._kinds[tokens]), axis=1)
    loses = rng.random((len(rows), sentence.max() + 1)) < self._removal_rate
    row, first, end = title_occurrences(tokens, sizes, titles, self._kinds)
    lost = loses[row, sentence[row, first]]
    change = np.zeros((len(rows), inside.shape[1] + 1), np.int32)
    np.add.at(change, (row[lost], first[lost]), 1)
    np.add.at(change, (row[lost], end[lost]), -1)
    keep = inside & (np.cumsum(change, axis=1)[:, :-1] == 0)
    keep |= inside & ~keep.any(axis=1, keepdims=True)
    keep &= np.cumsum(keep, axis=1) <= self._cap
    kept = keep.sum(axis=1)
    return TokenView(
      tokens[keep], np.cumsum(kept) - kept, kept, self._documents.special
    )
