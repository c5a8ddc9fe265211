"""Labels found by the words that they share with a document.

TF-IDF of single words as scikit-learn has it, with sublinear counts: a word
weighs (1 + ln count) * (1 + ln((1 + texts) / (1 + texts with it))), a score is
the cosine over the words that labels have.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import os

import numpy as np
import scipy.sparse as sp

from lmtx_jax.data.corpus import Texts
from lmtx_jax.files import read_json, write_json
from lmtx_jax.hashed_words import BLOCK, WordCounts, WordHasher, known
from lmtx_jax.types import Ragged, Shortlist, UserError
from lmtx_jax.word_search import WordSearch

FORMAT = 1  # raised when a folder changes so that old programs misread it
_HASHER = WordHasher(longest=1)
_ABOUT = 'lexical.json'
_MAX_ENTRIES = 2**20  # words of labels whose weights are looked up at a time
_ARRAYS = {  # files of a folder, and what is in them
  'counted_words': np.int32,
  'texts_with_word': np.int32,
  'words': np.int32,
  'label_words': np.int32,
  'label_weights': np.float32,
  'label_offsets': np.int32,
}


@dataclasses.dataclass(frozen=True)
class LexicalIndex:
  """Labels as vectors of words; changes make another index.

  Attributes:
    counts: texts with each word, which stay as they were built.
    words: `[num_words]` int32 hashes of the words that labels have, ascending.
    labels: `[num_labels, num_words]` f32, unit rows, or 0 without words.
  """

  counts: WordCounts
  words: np.ndarray
  labels: sp.csr_matrix

  def __len__(self) -> int:
    return self.labels.shape[0]

  @classmethod
  def build(cls, labels: Texts, documents: Texts) -> LexicalIndex:
    """Counts words in labels and documents, each read in blocks."""
    words, counts_of_labels = _HASHER.count_all(labels)
    counts = WordCounts.of(_HASHER, labels, documents)
    return cls(counts, words, _weigh(counts_of_labels, counts.idf(words)))

  def with_labels(
    self, kept: np.ndarray, added: Sequence[str] = ()
  ) -> LexicalIndex:
    """The same counts with other labels.

    Args:
      kept: `[any]` int, labels that stay, in their new order.
      added: texts of labels that come behind them.
    """
    hashed = _HASHER.count(added) if len(added) else None
    kept = self.labels[np.asarray(kept, np.int64)]
    had = self.words[np.unique(kept.indices)]
    words = had
    if hashed is not None:
      words = np.unique(np.concatenate([had, hashed.indices]))
    place = np.searchsorted(words, self.words)  # of a dropped word: never used
    rows = sp.csr_matrix(
      (kept.data, place[kept.indices].astype(np.int32), kept.indptr),
      (kept.shape[0], len(words)),
    )
    if hashed is not None:
      new = _weigh(known(hashed, words), self.counts.idf(words))
      rows = sp.vstack([rows, new], format='csr')
    return LexicalIndex(self.counts, words, rows)

  def vectors(self, texts: Sequence[str]) -> sp.csr_matrix:
    """`[n, num_words]` f32, unit rows; 0 where a text has none of the words."""
    if not len(texts):
      return sp.csr_matrix((0, len(self.words)), dtype=np.float32)
    return _weigh(known(_HASHER.count(texts), self.words), self._idf)

  def search(self, documents: Texts, filters: Ragged, k: int) -> Shortlist:
    """The labels nearest to each document, read in blocks.

    Args:
      documents: any number.
      filters: row `d` holds labels that document `d` must never be given.
      k: labels a document.

    Returns:
      `[num_docs, k]` labels and cosines above 0, best first, of equal scores
      the smaller label; -1 and -inf where no more labels share a word with
      the document.
    """
    labels = np.full((len(documents), k), -1, np.int32)
    scores = np.full((len(documents), k), -np.inf, np.float32)
    done = 0
    for block in documents.blocks(BLOCK):
      rows = np.arange(done, done + len(block))
      best = self.nearest(self.vectors(block), filters.take(rows), k)
      labels[rows], scores[rows] = best.labels, best.scores
      done += len(block)
    return Shortlist(labels, scores)

  def nearest(
    self, vectors: sp.csr_matrix, filters: Ragged, k: int
  ) -> Shortlist:
    """As `search`, for documents whose vectors are known."""
    return self._search.nearest(vectors, filters, k)

  def scores(
    self,
    vectors: sp.csr_matrix,
    doc_index: np.ndarray,
    label_index: np.ndarray,
  ) -> np.ndarray:
    """Cosines of pairs.

    Args:
      vectors: `[n, num_words]` of documents.
      doc_index: `[p]` int, rows of `vectors`.
      label_index: `[p]` int, labels.

    Returns:
      `[p]` f32, 0 where the two share no word.
    """
    offsets = np.asarray(self.labels.indptr, np.int64)
    starts = offsets[label_index]
    lengths = offsets[np.asarray(label_index) + 1] - starts
    ends = np.cumsum(lengths)
    out = np.zeros(len(lengths), np.float32)
    first = 0
    while first < len(out):
      before = ends[first] - lengths[first]
      last = int(np.searchsorted(ends, before + _MAX_ENTRIES, 'right'))
      pairs = slice(first, max(first + 1, last))
      size = lengths[pairs]
      begin = ends[pairs] - size - before
      total = int(ends[pairs.stop - 1] - before)
      entry = np.arange(total) + np.repeat(starts[pairs] - begin, size)
      values = vectors[
        np.repeat(doc_index[pairs], size), self.labels.indices[entry]
      ]
      products = np.asarray(values).ravel() * self.labels.data[entry]
      pair = np.repeat(np.arange(len(size)), size)
      out[pairs] = np.bincount(pair, products, minlength=len(size))
      first = pairs.stop
    return out

  def save(self, folder: str) -> None:
    """Writes arrays (.npy) into a folder, which is made if it is not there."""
    os.makedirs(folder, exist_ok=True)
    arrays = (
      self.counts.hashes,
      self.counts.num_with,
      self.words,
      self.labels.indices,
      self.labels.data,
      self.labels.indptr,
    )
    for (name, dtype), array in zip(_ARRAYS.items(), arrays, strict=True):
      np.save(os.path.join(folder, f'{name}.npy'), np.asarray(array, dtype))
    about = {'format': FORMAT, 'num_texts': self.counts.num_texts}
    write_json(os.path.join(folder, _ABOUT), about)

  @classmethod
  def load(cls, folder: str) -> LexicalIndex:
    """Opens what `save` wrote, the arrays memory-mapped.

    Raises:
      UserError: something is missing, damaged or of a later format.
    """
    path = os.path.join(folder, _ABOUT)
    try:
      about = read_json(path)
      version, num_texts = int(about['format']), int(about['num_texts'])
    except (OSError, ValueError, KeyError, TypeError) as e:
      raise UserError(f'{path} is not a whole lexical index: {e}') from e
    if version != FORMAT:
      raise UserError(f'{path} has format {version}; this program has {FORMAT}')
    arrays = [_open(folder, name, dtype) for name, dtype in _ARRAYS.items()]
    hashes, num_with, words, indices, data, offsets = arrays
    if not (
      len(hashes) == len(num_with)
      and len(indices) == len(data)
      and len(offsets)
      and offsets[0] == 0
      and offsets[-1] == len(data)
      and np.all(np.diff(offsets) >= 0)
      and np.all((indices >= 0) & (indices < len(words)))
    ):
      raise UserError(f'{folder}: the arrays of the lexical index do not agree')
    labels = sp.csr_matrix(
      (data, indices, offsets), (len(offsets) - 1, len(words)), copy=False
    )
    return cls(WordCounts(hashes, num_with, num_texts), words, labels)

  @functools.cached_property
  def _idf(self) -> np.ndarray:
    return self.counts.idf(self.words)

  @functools.cached_property
  def _search(self) -> WordSearch:
    return WordSearch(self.labels)


def _weigh(counts: sp.csr_matrix, idf: np.ndarray) -> sp.csr_matrix:
  """Unit vectors of counts; in place."""
  data = (1 + np.log(counts.data)) * idf[counts.indices]
  row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
  norms = np.sqrt(np.bincount(row, data * data, minlength=counts.shape[0]))
  counts.data = data / norms[row].astype(np.float32)
  return counts


def _open(folder: str, name: str, dtype: type) -> np.ndarray:
  path = os.path.join(folder, f'{name}.npy')
  try:
    array = np.load(path, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError, EOFError) as e:
    raise UserError(f'{path} is not a whole array: {e}') from e
  if array.ndim != 1 or array.dtype != dtype:
    raise UserError(
      f'{path} has shape {array.shape} of {array.dtype}; it takes one'
      f' dimension of {np.dtype(dtype)}'
    )
  return array
