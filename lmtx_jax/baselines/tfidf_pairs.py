"""Stage II of MACLR: labels whose words a document has (Xiong et al., 2022).

TF-IDF of scikit-learn: words of two letters or more and pairs of neighbouring
words, cosine. Words are hashed into 31 bits, and counted only if a label has
them: no vocabulary is in memory, and of the documents one block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from lmtx_jax.data.corpus import Texts
from lmtx_jax.types import Ragged, Shortlist

_MAX_DF = 0.98  # share of the texts that a word may be in
_BLOCK = 1024  # texts read at a time
_MAX_SCORES = 2**24  # pairs scored at a time; 8 bytes each, a few times over
_WORDS = HashingVectorizer(
  ngram_range=(1, 2),
  n_features=2**31 - 1,
  norm=None,
  alternate_sign=False,
  dtype=np.float32,
)
_NEVER = np.float32(-1e9)  # score of a pair that is filtered


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
  top_labels = np.full((len(documents), k), -1, np.int32)
  top_scores = np.full((len(documents), k), -np.inf, np.float32)
  words, label_counts = _count_labels(labels)
  if not len(words):
    return top_labels, top_scores
  idf = _idf(documents, words, label_counts)
  of_labels = normalize(_weigh(label_counts, idf), copy=False).T.tocsr()
  num_with = np.diff(of_labels.indptr)  # [num_words], labels that have each
  done = 0
  for block in documents.blocks(_BLOCK):
    vectors = _weigh(_known(_WORDS.transform(block), words), idf)
    vectors = normalize(vectors, copy=False)
    for rows in _parts(vectors, num_with, len(labels)):
      at = slice(done + rows.start, done + rows.stop)
      scores = vectors[rows] @ of_labels  # [docs, num_labels]
      banned = filters.take(np.arange(at.start, at.stop))
      if len(banned.values):
        scores = scores + sp.csr_matrix(
          (np.full(len(banned.values), _NEVER), banned.values, banned.offsets),
          scores.shape,
        )
      top_labels[at], top_scores[at] = _best(scores, k)
    done += len(block)
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


def _count_labels(labels: Texts) -> tuple[np.ndarray, sp.csr_matrix]:
  """Hashes of all words `[num_words]` int32, ascending, and their counts.

  The counts are `[num_labels, num_words]` float32.
  """
  blocks = [_WORDS.transform(block) for block in labels.blocks(_BLOCK)]
  words = np.unique(np.concatenate([np.unique(b.indices) for b in blocks]))
  return words, sp.vstack([_known(b, words) for b in blocks], format='csr')


def _known(counts: sp.csr_matrix, words: np.ndarray) -> sp.csr_matrix:
  """Of hashed words those that labels have: `[num_texts, num_words]`."""
  place = np.minimum(np.searchsorted(words, counts.indices), len(words) - 1)
  known = words[place] == counts.indices
  offsets = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
  return sp.csr_matrix(
    (counts.data[known], place[known], offsets),
    (counts.shape[0], len(words)),
  )


def _idf(
  documents: Texts, words: np.ndarray, label_counts: sp.csr_matrix
) -> np.ndarray:
  """`[num_words]` float32; 0 for words in nearly all texts."""
  num_words = len(words)
  num_with = np.bincount(label_counts.indices, minlength=num_words)
  for block in documents.blocks(_BLOCK):
    known = _known(_WORDS.transform(block), words)
    num_with += np.bincount(known.indices, minlength=num_words)
  num_texts = label_counts.shape[0] + len(documents)
  idf = 1 + np.log((1 + num_texts) / (1 + num_with))
  return np.where(num_with > _MAX_DF * num_texts, 0, idf).astype(np.float32)


def _weigh(counts: sp.csr_matrix, idf: np.ndarray) -> sp.csr_matrix:
  """Counts times their words' weights; in place."""
  counts.data *= idf[counts.indices]
  counts.eliminate_zeros()
  return counts


def _parts(
  vectors: sp.csr_matrix, num_with: np.ndarray, num_labels: int
) -> Iterator[slice]:
  """Rows whose scores fit into memory at once."""
  work = np.concatenate([[0], np.cumsum(num_with[vectors.indices])])
  most = np.minimum(np.diff(work[vectors.indptr]), num_labels)
  total = np.concatenate([[0], np.cumsum(most)])
  start = 0
  while start < len(most):
    stop = int(np.searchsorted(total, total[start] + _MAX_SCORES, 'right')) - 1
    stop = max(start + 1, stop)
    yield slice(start, stop)
    start = stop


def _best(scores: sp.csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
  """Labels and scores `[n, k]` of the highest scores above 0 of each row."""
  num_rows, num_labels = scores.shape
  labels = np.full((num_rows, k), -1, np.int32)
  best = np.full((num_rows, k), -np.inf, np.float32)
  some = np.flatnonzero(np.diff(scores.indptr))
  if not len(some):
    return labels, best
  data, indices = scores.data, scores.indices
  starts = scores.indptr[some]
  place = np.repeat(np.arange(len(some)), np.diff(scores.indptr)[some])
  for column in range(k):
    top = np.maximum.reduceat(data, starts)
    is_top = data == top[place]
    label = np.minimum.reduceat(np.where(is_top, indices, num_labels), starts)
    real = top > 0
    labels[some, column] = np.where(real, label, -1)
    best[some, column] = np.where(real, top, -np.inf)
    data[is_top & (indices == label[place])] = _NEVER
  return labels, best
