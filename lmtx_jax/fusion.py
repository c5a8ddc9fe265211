"""Two rankings of labels made into one.

`mix` ranks by dense + weight * lexical + prior + votes: candidates are the
labels of either ranking and those with a vote, and each has all scores.
`reciprocal_ranks` looks at places alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np
import scipy.sparse as sp

from lmtx_jax.embeddings import inner_products
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.types import Shortlist

_CONSTANT = 60  # of Cormack, Clarke and Buettcher, 2009
_BLOCK = 8192  # documents whose candidates are held at a time


@dataclasses.dataclass(frozen=True)
class Candidates:
  """Labels that documents may be given, with the scores of both rankings.

  Attributes:
    doc_index: `[p]` int64, ascending.
    label_index: `[p]` int32, ascending within a document.
    dense: `[p]` f32 inner products of embeddings.
    lexical: `[p]` f32 cosines of words, 0 where no word is shared.
    votes: `[p]` f32 what near documents add.
  """

  doc_index: np.ndarray
  label_index: np.ndarray
  dense: np.ndarray
  lexical: np.ndarray
  votes: np.ndarray


def candidates(
  dense: Shortlist,
  lexical: Shortlist,
  embeddings: np.ndarray,
  label_embeddings: np.ndarray,
  index: LexicalIndex,
  vectors: sp.csr_matrix,
  votes: sp.csr_matrix | None = None,
) -> Candidates:
  """The labels of either shortlist and those with a vote, and their scores.

  Args:
    dense: `[num_docs, any]`.
    lexical: `[num_docs, any]` of the same documents, from `index`.
    embeddings: `[num_docs, dim]` f32 or bf16, of the documents.
    label_embeddings: `[num_labels, dim]` f32 or bf16, memory-mapped or not.
    index: of the labels' words.
    vectors: `[num_docs, num_words]`, of the documents' words.
    votes: `[num_docs, num_labels]` what near documents add to a score.
  """
  num_labels = max(1, len(label_embeddings))
  keys, scores = zip(
    *(_pairs(ranking, num_labels) for ranking in (dense, lexical)), strict=True
  )
  voted = np.zeros(0, np.int64)
  if votes is not None:
    votes = votes.tocoo()
    voted = votes.row.astype(np.int64) * num_labels + votes.col
  both = np.unique(np.concatenate([*keys, voted]))
  docs, labels = np.divmod(both, num_labels)
  by_dense, by_words = (np.full(len(both), np.nan, np.float32) for _ in keys)
  by_dense[np.searchsorted(both, keys[0])] = scores[0]
  by_words[np.searchsorted(both, keys[1])] = scores[1]
  by_votes = np.zeros(len(both), np.float32)
  if votes is not None:
    by_votes[np.searchsorted(both, voted)] = votes.data
  missing = np.flatnonzero(np.isnan(by_dense))
  by_dense[missing] = inner_products(
    label_embeddings, labels[missing], embeddings, docs[missing]
  )
  missing = np.flatnonzero(np.isnan(by_words))
  by_words[missing] = index.scores(vectors, docs[missing], labels[missing])
  labels = labels.astype(np.int32)
  return Candidates(docs, labels, by_dense, by_words, by_votes)


def rank(
  found: Candidates,
  num_docs: int,
  weight: float,
  k: int,
  prior: np.ndarray | None = None,
) -> Shortlist:
  """Labels by dense + weight * lexical + prior + votes.

  Of equal scores the smaller label comes first.

  Args:
    found: of the documents.
    num_docs: rows of the result.
    weight: of the lexical score, 0 or above.
    k: labels a document; -1 and -inf where there are no more candidates.
    prior: `[num_labels]` f32, the same for all documents; None: 0.
  """
  scores = found.dense + np.float32(weight) * found.lexical + found.votes
  if prior is not None:
    scores = scores + prior[found.label_index]
  return _best(found.doc_index, found.label_index, scores, num_docs, k)


def mix(
  dense: Shortlist,
  lexical: Shortlist,
  embeddings: np.ndarray,
  label_embeddings: np.ndarray,
  index: LexicalIndex,
  vectors: sp.csr_matrix,
  weight: float,
  k: int,
  prior: np.ndarray | None = None,
  votes: sp.csr_matrix | None = None,
) -> Shortlist:
  """`rank` of `candidates`, whose arguments it takes."""
  return Shortlist.joined(
    rank(
      candidates(
        _rows(dense, rows),
        _rows(lexical, rows),
        embeddings[rows],
        label_embeddings,
        index,
        vectors[rows],
        None if votes is None else votes[rows],
      ),
      len(dense.labels[rows]),
      weight,
      k,
      prior,
    )
    for rows in _blocks(len(dense.labels))
  )


def reciprocal_ranks(
  shortlists: Sequence[Shortlist], k: int, constant: float = _CONSTANT
) -> Shortlist:
  """Reciprocal rank fusion, which needs no comparable scores.

  Args:
    shortlists: of the same documents, of any width each.
    k: labels a document.
    constant: the larger, the less the first places stand out.

  Returns:
    `[num_docs, k]`; a score is the sum of 1 / (constant + rank) over the
    shortlists that have the label, ranks from 1; of equal scores the smaller
    label.
  """
  return Shortlist.joined(
    _add_ranks([_rows(s, rows).labels for s in shortlists], k, constant)
    for rows in _blocks(len(shortlists[0].labels))
  )


def _add_ranks(tables: list[np.ndarray], k: int, constant: float) -> Shortlist:
  """`reciprocal_ranks` of `[num_docs, any]` labels each."""
  base = 1 + max(int(table.max(initial=0)) for table in tables)
  keys, shares = [], []
  for table in tables:
    row, column = np.nonzero(table >= 0)
    keys.append(row * base + table[row, column])
    shares.append(1 / (constant + 1 + column))
  both, place = np.unique(np.concatenate(keys), return_inverse=True)
  sums = np.bincount(place, np.concatenate(shares), minlength=len(both))
  docs, labels = np.divmod(both, base)
  return _best(docs, labels, sums.astype(np.float32), len(tables[0]), k)


def _blocks(num_docs: int) -> Iterator[slice]:
  """Documents whose candidates are held at a time; once even if none."""
  for start in range(0, max(1, num_docs), _BLOCK):
    yield slice(start, start + _BLOCK)


def _rows(ranking: Shortlist, rows: slice) -> Shortlist:
  return Shortlist(ranking.labels[rows], ranking.scores[rows])


def _pairs(ranking: Shortlist, num_labels: int) -> tuple[np.ndarray, ...]:
  """One number for each document and label, and the pairs' scores."""
  row, column = np.nonzero(ranking.labels >= 0)
  labels = ranking.labels[row, column]
  return row * num_labels + labels, ranking.scores[row, column]


def _best(
  docs: np.ndarray,
  labels: np.ndarray,
  scores: np.ndarray,
  num_docs: int,
  k: int,
) -> Shortlist:
  """The k best labels of each document, of pairs in any order."""
  order = np.lexsort((labels, -scores, docs))
  lengths = np.bincount(docs, minlength=num_docs)
  row = docs[order]
  column = np.arange(len(order)) - np.repeat(
    np.cumsum(lengths) - lengths, lengths
  )
  kept = column < k
  row, column, order = row[kept], column[kept], order[kept]
  out = Shortlist(
    np.full((num_docs, k), -1, np.int32),
    np.full((num_docs, k), -np.inf, np.float32),
  )
  out.labels[row, column] = labels[order]
  out.scores[row, column] = scores[order]
  return out
