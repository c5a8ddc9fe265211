"""Stage II of MACLR: labels whose words a document has (Xiong et al., 2022).

TF-IDF of scikit-learn: words of two letters or more and pairs of neighbouring
words, cosine. They are counted only if a label has them: of the documents one
block is in memory.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lmtx_jax.data.corpus import Texts
from lmtx_jax.hashed_words import WordHasher, known
from lmtx_jax.types import Ragged, Shortlist
from lmtx_jax.word_search import WordSearch

_MAX_DF = 0.98  # share of the texts that a word may be in
_HASHER = WordHasher(longest=2)


def tfidf_top(
  documents: Texts, labels: Texts, filters: Ragged, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """The labels that are most similar to each document.

  Args:
    documents: read twice, in blocks.
    labels: the label set.
    filters: row `d` holds labels that document `d` must never be given.
    k: labels a document.

  Returns:
    Labels `[num_docs, k]` int32 and their scores `[num_docs, k]` f32, best
    first, of equal scores the smaller label; -1 and -inf where there are no
    more that share a word with the document. A score is the cosine over the
    words that labels have.
  """
  from sklearn.preprocessing import normalize  # slow, and only needed here

  top_labels = np.full((len(documents), k), -1, np.int32)
  top_scores = np.full((len(documents), k), -np.inf, np.float32)
  words, label_counts = _HASHER.count_all(labels)
  if not len(words):
    return top_labels, top_scores
  idf = _idf(documents, words, label_counts)
  search = WordSearch(normalize(_weigh(label_counts, idf), copy=False))
  done = 0
  for block in _HASHER.blocks(documents):
    rows = np.arange(done, done + block.shape[0])
    vectors = normalize(_weigh(known(block, words), idf), copy=False)
    best = search.nearest(vectors, filters.take(rows), k)
    top_labels[rows], top_scores[rows] = best.labels, best.scores
    done += len(rows)
  return top_labels, top_scores


def unite(
  by_words: np.ndarray, by_encoder: Shortlist, threshold: float
) -> Ragged:
  """Both labels of each document, as what `PseudoLabelPairs` accepts.

  Args:
    by_words: `[num_docs, any]` int32 labels, only the first of which counts,
      -1 for none.
    by_encoder: the same documents; only the first label counts.
    threshold: score that the encoder's label must pass.

  Returns:
    Ragged of int32, ascending; empty where there is neither.
  """
  passes = by_encoder.scores[:, 0] > threshold
  table = np.stack(
    [by_words[:, 0], np.where(passes, by_encoder.labels[:, 0], -1)], axis=1
  ).astype(np.int32)
  table.sort(axis=1)
  keep = table >= 0
  keep[:, 1] &= table[:, 0] != table[:, 1]
  return Ragged.from_mask(table, keep)


def _idf(
  documents: Texts, words: np.ndarray, label_counts: sp.csr_matrix
) -> np.ndarray:
  """`[num_words]` float32; 0 for words in nearly all texts."""
  num_words = len(words)
  num_with = np.bincount(label_counts.indices, minlength=num_words)
  for block in _HASHER.blocks(documents):
    indices = known(block, words).indices
    num_with += np.bincount(indices, minlength=num_words)
  num_texts = label_counts.shape[0] + len(documents)
  idf = 1 + np.log((1 + num_texts) / (1 + num_with))
  return np.where(num_with > _MAX_DF * num_texts, 0, idf).astype(np.float32)


def _weigh(counts: sp.csr_matrix, idf: np.ndarray) -> sp.csr_matrix:
  """Counts times their words' weights; in place."""
  counts.data *= idf[counts.indices]
  counts.eliminate_zeros()
  return counts
