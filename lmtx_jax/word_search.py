"""The nearest of many short texts, by vectors of their words.

A block of queries is scored against a block of labels in one dense table, one
addition a word that both have: a word of nearly all labels costs time and no
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
import functools

import numpy as np
import scipy.sparse as sp

from lmtx_jax.best_labels import merge
from lmtx_jax.types import Ragged, Shortlist

_QUERY_BLOCK = 128
_GROUP = 64  # labels of which at first only the best score is looked at
_GROUPS = 512  # scored at once: 16 MiB with a block of queries


class WordSearch:
  """Inner products of sparse vectors of no negative numbers."""

  def __init__(self, labels: sp.csr_matrix):
    """Takes `[num_labels, num_words]` f32, columns ascending within a row."""
    self._labels = labels

  def nearest(
    self, queries: sp.csr_matrix, filters: Ragged, k: int
  ) -> Shortlist:
    """The labels of the largest inner products above 0.

    Args:
      queries: `[n, num_words]` f32, columns ascending within a row.
      filters: row `d` holds labels that query `d` must never be given.
      k: labels a query.

    Returns:
      `[n, k]`, best first, of equal scores the smaller label; -1 and -inf
      where no more labels share a word with the query.
    """
    num_queries = queries.shape[0]
    labels = np.full((num_queries, k), -1, np.int32)
    scores = np.zeros((num_queries, k), np.float32)
    blocks = self._blocks(num_queries)
    for start in range(0, num_queries, _QUERY_BLOCK):
      rows = slice(start, min(start + _QUERY_BLOCK, num_queries))
      part = queries[rows]
      words = np.unique(part.indices)
      place = np.searchsorted(words, part.indices)
      weights = np.zeros((len(words), part.shape[0]), np.float32)
      row = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
      weights[place, row] = part.data
      banned = filters.take(np.arange(rows.start, rows.stop))
      first = 0
      for block in blocks:
        found = block[words].T @ weights  # [labels of the block, queries]
        here = banned.values - first
        inside = (here >= 0) & (here < len(found))
        found[here[inside], banned.row_ids[inside]] = 0
        _pick(labels[rows], scores[rows], found, first)
        first += len(found)
    return Shortlist(labels, np.where(labels < 0, -np.inf, scores))

  def _blocks(self, num_queries: int) -> list[sp.csr_matrix]:
    """`[num_words, labels of a block]` each."""
    few = min(num_queries, _QUERY_BLOCK) * self._labels.shape[0]
    if few <= _QUERY_BLOCK * _GROUPS * _GROUP:
      return [self._whole]
    return list(_turned(self._labels, _GROUPS * _GROUP))

  @functools.cached_property
  def _whole(self) -> sp.csr_matrix:
    """All labels as one block, kept for single queries."""
    return next(_turned(self._labels, max(1, self._labels.shape[0])))


def _turned(labels: sp.csr_matrix, size: int) -> Iterator[sp.csr_matrix]:
  """Labels by word, in blocks that empty labels fill up to whole groups."""
  for start in range(0, max(1, labels.shape[0]), size):
    block = labels[start : start + size].T.tocsr()
    num_groups = -(-block.shape[1] // _GROUP)
    yield sp.csr_matrix(
      (block.data, block.indices, block.indptr),
      (block.shape[0], num_groups * _GROUP),
    )


def _pick(
  labels: np.ndarray, scores: np.ndarray, found: np.ndarray, first: int
) -> None:
  """Merges a block's scores into the best known, in place.

  Args:
    labels: `[n, k]` int32, best first.
    scores: `[n, k]` f32, of those labels, 0 where there are none yet.
    found: `[num_groups * _GROUP, n]` f32.
    first: the label of the first of them, above all that were seen.
  """
  n, k = labels.shape
  groups = found.reshape(-1, _GROUP, n)
  maxima = groups.max(axis=1)  # [num_groups, n]
  worst = scores[:, -1]
  hits = maxima > worst
  if np.count_nonzero(hits, axis=0).max(initial=0) > k:
    hits &= _largest(maxima, k)
  row, group = np.nonzero(hits.T)
  values = groups[group, :, row]  # [num_hits, _GROUP]
  hit, column = np.nonzero(values > worst[row][:, None])
  if not len(hit):
    return
  changed, row_of = np.unique(row[hit], return_inverse=True)
  counts = np.bincount(row_of)
  place = np.arange(len(hit)) - np.repeat(np.cumsum(counts) - counts, counts)
  more_scores = np.full((len(changed), counts.max()), -np.inf, np.float32)
  more_labels = np.full(more_scores.shape, -1, np.int32)
  more_scores[row_of, place] = values[hit, column]
  more_labels[row_of, place] = first + group[hit] * _GROUP + column
  labels[changed], scores[changed] = merge(
    labels[changed], scores[changed], more_labels, more_scores
  )


def _largest(table: np.ndarray, k: int) -> np.ndarray:
  """Bool of `[rows, n]`: the k largest of a column, of equal ones the first.

  There are more rows than k.
  """
  least = np.partition(table, len(table) - k, axis=0)[len(table) - k]
  above, equal = table > least, table == least
  room = k - np.count_nonzero(above, axis=0)
  return above | (equal & (np.cumsum(equal, axis=0, dtype=np.int32) <= room))
