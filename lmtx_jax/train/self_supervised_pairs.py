"""Training pairs from the texts alone, for a warm-up without any label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lmtx_jax.data.batches import epoch_order
from lmtx_jax.data.tokens import Tokens, TokenView
from lmtx_jax.train.pair_shapes import shape_of, training_shapes
from lmtx_jax.train.pair_source import Batch, LastEpoch

_BLOCK = 4096  # documents whose words are looked for at a time


class _Epoch(NamedTuple):
  """Pairs of spans of tokens; labels lie behind the tokens of all documents.

  Attributes:
    starts: `[num_spans]` int64, where each span begins.
    sizes: `[num_spans]` int32, its tokens.
    queries: `[...]` int32, spans.
    passages: `[...]` int32, the span that goes with each query.
  """

  starts: np.ndarray
  sizes: np.ndarray
  queries: np.ndarray
  passages: np.ndarray


class SelfSupervisedPairs:
  """RTS pairs and (title, content) pairs, for a warm-up without any label.

  Of each document: (title, title) and, for labels, (label, label), which
  differ by dropout; (title, content); (title, every segment); and (segment,
  segment) from a random permutation. Segments are windows of words whose
  length is uniform in [min_words, max_words]; a tail shorter than half of
  min_words joins the window before (RTS; Zhang et al., EMNLP 2022).

  In memory are spans only, a few a document; tokens are read as needed.
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
    with_contents: bool = True,
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
      with_contents: whether there are (title, content) pairs; RTS as published
        has none.
    """
    self._epochs = LastEpoch(self._make_epoch)
    self._documents, self._labels = documents, labels
    self._starts_word, self._with_contents = starts_word, with_contents
    self._cap = max_tokens - 2
    self._min_words, self._max_words = min_words, max_words
    most = max((len_.max(initial=0) for *_, len_ in self._words()), default=0)
    self._max_windows = -(-int(most) // min_words)
    self._seed, self.batch_size = seed, batch_size
    # Each epoch draws other windows, so it may have a batch more or less: all
    # take as many steps as the first.
    first = self._draw(0)
    self.num_pairs = len(first.queries)
    self._steps_per_epoch = self.num_pairs // batch_size
    self.num_steps = self._steps_per_epoch * epochs
    lengths = [self._lengths(first, s) for s in (first.queries, first.passages)]
    self._shapes = training_shapes(
      *lengths,
      max_tokens,
      steps_per_epoch=self._steps_per_epoch,
      epochs=epochs,
    )

  def _lengths(self, epoch: _Epoch, spans: np.ndarray) -> np.ndarray:
    """Input lengths of spans."""
    return np.minimum(epoch.sizes[spans], self._cap) + 2

  def _make_epoch(self, epoch: int) -> _Epoch:
    """An epoch whose queries and passages are `[steps, batch]`."""
    drawn = self._draw(epoch)
    shape = shape_of(
      self._lengths(drawn, drawn.queries),
      self._lengths(drawn, drawn.passages),
      self._shapes,
    )
    # Drawn windows vary in number: pairs that are missing come twice.
    needed = self._steps_per_epoch * self.batch_size
    rows = np.resize(np.arange(len(shape)), max(len(shape), needed))
    rng = np.random.default_rng((*self._seed, epoch, 1))
    order = epoch_order(shape[rows], self.batch_size, rng)
    order = rows[order[: self._steps_per_epoch]]
    return drawn._replace(
      queries=drawn.queries[order], passages=drawn.passages[order]
    )

  def _draw(self, epoch: int) -> _Epoch:
    """All pairs of an epoch, `[num_pairs]`."""
    rng = np.random.default_rng((*self._seed, epoch, 0))
    starts, sizes, owner = self._windows(rng)
    ids, title_sizes = self._documents.ids, self._documents.title_sizes
    title_starts = ids.offsets[:-1]
    content_sizes = ids.lengths - title_sizes
    # Spans, one after the other: titles, contents, labels, windows.
    num_docs, num_labels = len(title_sizes), len(self._labels)
    title = np.arange(num_docs, dtype=np.int32)
    label = 2 * num_docs + np.arange(num_labels, dtype=np.int32)
    window = 2 * num_docs + num_labels + np.arange(len(owner), dtype=np.int32)
    titled = title[title_sizes > 0]
    both = (title_sizes > 0) & (content_sizes > 0) & self._with_contents
    both = title[both]
    of_titled = title_sizes[owner] > 0
    first, second = _segment_pairs(owner, rng)
    return _Epoch(
      np.concatenate(
        [
          title_starts,
          title_starts + title_sizes,
          self._labels.starts + len(ids.values),
          starts,
        ]
      ),
      np.concatenate(
        [title_sizes, content_sizes, self._labels.sizes, sizes],
        dtype=np.int32,
        casting='unsafe',
      ),
      np.concatenate([titled, label, both, owner[of_titled], window[first]]),
      np.concatenate(
        [titled, label, both + num_docs, window[of_titled], window[second]],
        dtype=np.int32,
      ),
    )

  def _words(self) -> Iterator[tuple[np.ndarray, ...]]:
    """Where words of contents begin, some documents at a time.

    Yields:
      `[docs]` int64, where each content ends; `[words + 1]` int64, where words
      of these documents begin, and the end of the last; `[docs]` the place in
      it of each content's first word; `[docs]` words of each content.
    """
    offsets = self._documents.ids.offsets
    for start in range(0, len(offsets) - 1, _BLOCK):
      block = slice(start, min(start + _BLOCK, len(offsets) - 1))
      begin, end = offsets[block.start], offsets[block.stop]
      values = self._documents.ids.values[begin:end]
      word = begin + np.flatnonzero(self._starts_word[values])
      content = offsets[block] + self._documents.title_sizes[block]
      content_end = offsets[block.start + 1 : block.stop + 1]
      first = np.searchsorted(word, content)
      count = np.searchsorted(word, content_end) - first
      yield content_end, np.append(word, end), first, count

  def _windows(
    self, rng: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of all contents: `[n]` starts, sizes and (int32) documents."""
    none = np.zeros(0, np.int64)
    found, done = [(none, none, none.astype(np.int32))], 0
    for content_end, word_start, first, count in self._words():
      start, end, row = self._cut(count, rng)
      begin = word_start[first[row] + start]
      stop = np.minimum(word_start[first[row] + end], content_end[row])
      found.append((begin, stop - begin, (done + row).astype(np.int32)))
      done += len(count)
    starts, sizes, owner = map(np.concatenate, zip(*found, strict=True))
    return starts, sizes, owner

  def _cut(
    self, num_words: np.ndarray, rng: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts contents into windows of words.

    Args:
      num_words: `[docs]` words of each content.
      rng: source of randomness.

    Returns:
      first word, end and document of each window, three `[n]` arrays.
    """
    low, high = self._min_words, self._max_words
    size = rng.integers(low, high + 1, (len(num_words), self._max_windows))
    end = np.cumsum(size, axis=1)
    start = end - size
    words = num_words[:, None]
    # A tail of fewer than low / 2 words belongs to the window before it.
    real = (start < words) & ((start == 0) | (words - start >= low / 2))
    following = np.zeros_like(real)
    following[:, :-1] = real[:, 1:]
    end = np.where(following, end, words)
    return start[real], end[real], np.nonzero(real)[0]

  def batch(self, step: int) -> Batch:
    """See PairSource."""
    number, index = divmod(step, self._steps_per_epoch)
    epoch = self._epochs(number)
    sides = epoch.queries[index], epoch.passages[index]
    longest = [self._lengths(epoch, spans).max() for spans in sides]
    widths = self._shapes[shape_of(*longest, self._shapes)]
    key = np.arange(self.batch_size, dtype=np.int32)
    batch = {'passage_key': key, 'accepted': key[:, None]}
    for name, spans, width in zip(
      ('query', 'passage'), sides, widths, strict=True
    ):
      batch[f'{name}_ids'], batch[f'{name}_lengths'] = self._read(
        epoch, spans, int(width)
      )
    return batch

  def _read(
    self, epoch: _Epoch, spans: np.ndarray, width: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `[batch, width]` and lengths `[batch]` of some spans."""
    lengths = self._lengths(epoch, spans)
    ids = np.empty((len(spans), width), np.int32)
    values = self._documents.ids.values
    of_label = epoch.starts[spans] >= len(values)
    for some, tokens, shift in (
      (~of_label, values, 0),
      (of_label, self._labels.values, len(values)),
    ):
      starts = epoch.starts[spans[some]] - shift
      view = TokenView(
        tokens, starts, lengths[some] - 2, self._documents.special
      )
      ids[some], _ = view.batch(np.arange(len(view)), width)
    return ids, lengths.astype(np.int32)


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
