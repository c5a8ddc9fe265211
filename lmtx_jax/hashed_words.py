"""Words of texts as hashes: counted in a stream, without a vocabulary.

Words are those of scikit-learn: two letters or more, in lower case. A hash has
31 bits, so of a million words a few hundred share theirs with another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from lmtx_jax.data.corpus import Texts

if TYPE_CHECKING:
  from sklearn.feature_extraction.text import HashingVectorizer

BLOCK = 1024  # texts read at a time
_MAX_PENDING = 2**22  # words of texts held before they are counted


class WordHasher:
  """Counts the words of a text, and runs of them."""

  def __init__(self, longest: int):
    """`longest` is how many neighbouring words are counted as one, at most."""
    self._longest = longest

  @functools.cached_property
  def _vectorizer(self) -> HashingVectorizer:
    # Half a second, which who asks for no words need not wait for.
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
      ngram_range=(1, self._longest),
      n_features=2**31 - 1,
      norm=None,
      alternate_sign=False,
      dtype=np.float32,
    )

  def count(self, texts: Sequence[str]) -> sp.csr_matrix:
    """`[num_texts, 2^31 - 1]` f32, columns ascending within a row."""
    return self._vectorizer.transform(texts)

  def blocks(self, texts: Texts) -> Iterator[sp.csr_matrix]:
    """The counts of all texts in order, some at a time."""
    return map(self.count, texts.blocks(BLOCK))

  def count_all(self, texts: Texts) -> tuple[np.ndarray, sp.csr_matrix]:
    """All counts of texts that are few and short, as labels are.

    Returns:
      Hashes of their words `[num_words]` int32, ascending, and the counts
      `[num_texts, num_words]` f32.
    """
    blocks = list(self.blocks(texts))
    if not blocks:
      return np.zeros(0, np.int32), sp.csr_matrix((0, 0), dtype=np.float32)
    words = np.unique(np.concatenate([np.unique(b.indices) for b in blocks]))
    return words, sp.vstack([known(b, words) for b in blocks], format='csr')


def known(counts: sp.csr_matrix, words: np.ndarray) -> sp.csr_matrix:
  """Of counted words those that are known, and where.

  Args:
    counts: `[num_texts, any]`, its columns being hashes.
    words: `[num_words]` int32 hashes, ascending.

  Returns:
    `[num_texts, num_words]`, of the same type.
  """
  if not len(words):
    return sp.csr_matrix((counts.shape[0], 0), dtype=counts.dtype)
  place = np.minimum(np.searchsorted(words, counts.indices), len(words) - 1)
  is_known = words[place] == counts.indices
  offsets = np.concatenate([[0], np.cumsum(is_known)])[counts.indptr]
  return sp.csr_matrix(
    (
      counts.data[is_known],
      place[is_known].astype(np.int32),
      offsets.astype(np.int32),
    ),
    (counts.shape[0], len(words)),
  )


@dataclasses.dataclass(frozen=True)
class WordCounts:
  """How many texts have each word.

  Attributes:
    hashes: `[num_words]` int32, ascending.
    num_with: `[num_words]` int32, texts that have the word; never 0.
    num_texts: texts that were counted.
  """

  hashes: np.ndarray
  num_with: np.ndarray
  num_texts: int

  @classmethod
  def of(cls, hasher: WordHasher, *corpora: Texts) -> WordCounts:
    """Counts all words of all texts."""
    hashes, num_with = np.zeros(0, np.int32), np.zeros(0, np.int32)
    pending, size = [], 0
    for texts in corpora:
      for block in hasher.blocks(texts):
        pending.append(block.indices)
        size += len(block.indices)
        if size > _MAX_PENDING:
          hashes, num_with = _add(hashes, num_with, pending)
          pending, size = [], 0
    hashes, num_with = _add(hashes, num_with, pending)
    return cls(hashes, num_with, sum(map(len, corpora)))

  def idf(self, words: np.ndarray) -> np.ndarray:
    """Smooth inverse document frequencies, as scikit-learn has them.

    Args:
      words: `[n]` hashes; a word that no text had gets the highest weight.

    Returns:
      `[n]` f32, 1 and above.
    """
    place = np.searchsorted(self.hashes, words)
    seen = np.append(self.hashes, -1)[place] == words
    num_with = np.where(seen, np.append(self.num_with, 0)[place], 0)
    idf = 1 + np.log((1 + self.num_texts) / (1 + num_with))
    return idf.astype(np.float32)


def _add(
  hashes: np.ndarray, num_with: np.ndarray, pending: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Counts, and each pending word once more."""
  new, num_new = np.unique(
    np.concatenate([np.zeros(0, np.int32), *pending]), return_counts=True
  )
  both, place = np.unique(np.concatenate([hashes, new]), return_inverse=True)
  num_both = np.bincount(place, np.concatenate([num_with, num_new]))
  return both, num_both.astype(np.int32)
