"""Where training pairs come from: the teacher's yeses, or the texts alone.

A source is pure: `batch(step)` depends on the seed, the cycle and the step
only, so a resumed run needs no stored iterator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from lmtx_jax.data.batches import bucket_widths, epoch_order, width_of
from lmtx_jax.data.tokens import Tokens, TokenView
from lmtx_jax.types import Ragged

Batch = dict[str, np.ndarray]

_WINDOW = 8  # batches whose documents are sorted by length together
_MAX_WIDTHS = 2  # each pair of widths costs one compilation of the train step
_ACCEPTED_MULTIPLE = 16  # accepted labels a document are padded to


class PairSource(Protocol):
  """Batches of (query, passage) pairs for the train step.

  A batch holds query_ids and passage_ids `[batch, width]` int32 with
  query_lengths and passage_lengths `[batch]` int32; passage_key `[batch]`
  int32, equal for equal passages; accepted `[batch, any]` int32, the keys that
  are no negatives of the query (-1: none).
  """

  num_pairs: int  # of the first epoch
  num_steps: int
  batch_size: int

  def batch(self, step: int) -> Batch:
    """The batch of a step."""


class _LastEpoch:
  """Keeps the epoch that was drawn last, for its many batches."""

  def __init__(self, make: Callable[[int], tuple[np.ndarray, np.ndarray]]):
    self._make, self._known = make, None

  def __call__(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    if self._known is None or self._known[0] != epoch:
      self._known = (epoch, self._make(epoch))
    return self._known[1]


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
    self._epochs = _LastEpoch(self._make_epoch)
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
      _MAX_WIDTHS,
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
    order = epoch_order(self._lengths, self.batch_size, rng, _WINDOW)
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


class SelfSupervisedPairs:
  """RTS pairs and (title, content) pairs, for a warm-up without any label.

  Of each document: (title, title) and, for labels, (label, label), which
  differ by dropout; (title, content); (title, every segment); and (segment,
  segment) from a random permutation. Segments are windows of words whose
  length is uniform in [min_words, max_words]; a tail shorter than half of
  min_words joins the window before (RTS; Zhang et al., EMNLP 2022).
  """

  def __init__(
    self,
    documents: Tokens,
    labels: TokenView,
    starts_word: np.ndarray,
    *,
    max_tokens: int,
    min_words: int,
    max_words: int,
    batch_size: int,
    epochs: int,
    seed: tuple[int, ...],
  ):
    """Takes the texts and how to cut them.

    Args:
      documents: tokens of the training documents.
      labels: the label set.
      starts_word: `[vocab_size]` bool, tokens that begin a word.
      max_tokens: longest input, special tokens included.
      min_words: shortest window.
      max_words: longest window.
      batch_size: pairs a step; the last partial batch is dropped.
      epochs: how often the pairs are drawn.
      seed: of every draw.
    """
    self._epochs = _LastEpoch(self._make_epoch)
    ids = documents.ids
    self._values = np.concatenate(
      [ids.values, labels.values.astype(ids.values.dtype)]
    )
    self._special = documents.special
    self._cap = max_tokens - 2
    size = len(ids.values)
    title_start = ids.offsets[:-1]
    self._title = np.stack([title_start, documents.title_sizes])
    self._content = np.stack(
      [
        title_start + documents.title_sizes,
        ids.lengths - documents.title_sizes,
      ]
    )
    self._label = np.stack([labels.starts + size, labels.sizes])
    word = np.flatnonzero(starts_word[ids.values])
    self._word_start = np.append(word, size)
    self._first_word = np.searchsorted(word, self._content[0])
    self._num_words = (
      np.searchsorted(word, self._content.sum(axis=0)) - self._first_word
    )
    self._min_words, self._max_words = min_words, max_words
    self._seed, self.batch_size = seed, batch_size
    # Each epoch draws other windows, so it may have a batch more or less: all
    # take as many steps as the first.
    first = np.stack(self._draw(0))  # [2, num_pairs, 2]
    self.num_pairs = first.shape[1]
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    self._widths = bucket_widths(
      np.minimum(first[..., 1].ravel(), self._cap) + 2, max_tokens, _MAX_WIDTHS
    )

  def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and passages `[steps, batch, 2]` (start, size)."""
    queries, passages = self._draw(epoch)
    lengths = np.minimum(queries[:, 1], self._cap)
    lengths = lengths + np.minimum(passages[:, 1], self._cap)
    # Drawn windows vary in number: pairs that are missing come twice.
    needed = self._steps_per_epoch * self.batch_size
    rows = np.resize(np.arange(len(lengths)), max(len(lengths), needed))
    rng = np.random.default_rng((*self._seed, epoch, 1))
    order = epoch_order(lengths[rows], self.batch_size, rng, _WINDOW)
    order = rows[order[: self._steps_per_epoch]]
    return queries[order], passages[order]

  def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of an epoch: queries and passages `[num_pairs, 2]`."""
    rng = np.random.default_rng((*self._seed, epoch, 0))
    window, owner = self._windows(rng)  # [2, num_windows], [num_windows]
    titled = self._title[1] > 0
    both = titled & (self._content[1] > 0)
    title_of_window = self._title[:, owner]
    first, second = _segment_pairs(owner, rng)
    pairs = [
      (self._title[:, titled], self._title[:, titled]),
      (self._label, self._label),
      (self._title[:, both], self._content[:, both]),
      (title_of_window[:, titled[owner]], window[:, titled[owner]]),
      (window[:, first], window[:, second]),
    ]
    queries = np.concatenate([query for query, _ in pairs], axis=1)
    passages = np.concatenate([passage for _, passage in pairs], axis=1)
    return queries.T, passages.T

  def _windows(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows of all contents: `[2, n]` (start, size), and `[n]` documents."""
    low, high = self._min_words, self._max_words
    columns = -(-int(self._num_words.max(initial=0)) // low)
    size = rng.integers(low, high + 1, (len(self._num_words), columns))
    end = np.cumsum(size, axis=1)
    start = end - size
    words = self._num_words[:, None]
    # A tail of fewer than low / 2 words belongs to the window before it.
    real = (start < words) & ((start == 0) | (words - start >= low / 2))
    following = np.zeros_like(real)
    following[:, :-1] = real[:, 1:]
    end = np.where(following, end, words)
    owner, _ = np.nonzero(real)
    first = self._first_word[owner]
    begin = self._word_start[first + start[real]]
    stop = self._word_start[first + end[real]]
    content_end = self._content.sum(axis=0)[owner]
    return np.stack([begin, np.minimum(stop, content_end) - begin]), owner

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    epoch, index = divmod(step, self._steps_per_epoch)
    queries, passages = self._epochs(epoch)
    key = np.arange(self.batch_size, dtype=np.int32)
    return {
      **self._side('query', queries[index]),
      **self._side('passage', passages[index]),
      'passage_key': key,
      'accepted': key[:, None],
    }

  def _side(self, name: str, spans: np.ndarray) -> Batch:
    sizes = np.minimum(spans[:, 1], self._cap)
    view = TokenView(self._values, spans[:, 0], sizes, self._special)
    width = width_of(int(view.lengths.max()), self._widths)
    ids, lengths = view.batch(np.arange(len(spans)), width)
    return {f'{name}_ids': ids, f'{name}_lengths': lengths}


def _segment_pairs(
  owner: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of segments of one document, from a random permutation of them.

  A segment that is left over is paired with the document's first.

  Args:
    owner: `[num_segments]` document of each segment, ascending.
    rng: source of randomness.

  Returns:
    two `[num_pairs]` arrays of segments.
  """
  order = np.lexsort((rng.random(owner.size), owner))
  first = np.searchsorted(owner, owner)  # the first segment of the document
  place = np.arange(owner.size) - first
  count = np.searchsorted(owner, owner, side='right') - first
  left = np.flatnonzero((place % 2 == 0) & (count > 1))
  alone = place[left] == count[left] - 1
  right = np.where(
    alone, first[left], order[np.minimum(left + 1, owner.size - 1)]
  )
  return order[left], right


def word_starts(tokenizer) -> np.ndarray:
  """Which tokens of a WordPiece tokenizer begin a word.

  Returns:
    `[vocab_size]` bool; continuations ('##') and punctuation are no words.
  """
  vocab = tokenizer.get_vocab()
  starts = np.zeros(max(vocab.values()) + 1, bool)
  for token, index in vocab.items():
    starts[index] = token[:1].isalnum()
  return starts
