"""The best labels of each query, kept while blocks or parts of labels come."""

from __future__ import annotations

import numpy as np


def merge(
  labels: np.ndarray,
  scores: np.ndarray,
  more_labels: np.ndarray,
  more_scores: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """The best of two lists for each query; of equal scores the first list's.

  Args:
    labels: `[n, k]` int32, best first, -1 where there are no more.
    scores: `[n, k]` f32, of those labels, -inf where there are no more.
    more_labels: `[n, any]`, as `labels`, but in any order.
    more_scores: `[n, any]`, of those labels.

  Returns:
    labels and scores, `[n, k]`.
  """
  k = labels.shape[1]
  labels = np.concatenate([labels, more_labels], axis=1)
  scores = np.concatenate([scores, more_scores], axis=1)
  order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
  return (
    np.take_along_axis(labels, order, axis=1),
    np.take_along_axis(scores, order, axis=1),
  )


def pick(
  labels: np.ndarray,
  scores: np.ndarray,
  found: np.ndarray,
  maxima: np.ndarray,
  first: int,
) -> None:
  """Merges a block's scores into the best known, in place.

  Args:
    labels: `[n, k]` int32, best first.
    scores: `[n, k]` f32, of those labels.
    found: `[n, groups * size]` f32, scores of labels not seen before; -inf is
      none.
    maxima: `[n, groups]` f32, the largest of each group of `found`.
    first: the label of the first of them, above all that were seen.
  """
  num_rows, k = labels.shape
  num_groups = maxima.shape[1]
  # Later labels lose against equal scores, so only what is above the worst
  # of the best counts: soon nearly nothing, and nothing is sorted.
  worst = scores[:, -1:]
  hits = np.flatnonzero(maxima > worst)
  least = np.full_like(worst, -np.inf)
  if len(hits) > k * num_rows:  # k groups have one each that is as large
    least = np.partition(maxima, num_groups - k, axis=1)[:, num_groups - k]
    least = least[:, None]
    hits = np.flatnonzero((maxima > worst) & (maxima >= least))
  if not len(hits):
    return
  rows, groups = np.divmod(hits, num_groups)
  groups_found = found.reshape(num_rows * num_groups, -1)[hits]
  size = groups_found.shape[1]
  hits = np.flatnonzero(
    (groups_found > worst[rows]) & (groups_found >= least[rows])
  )
  group, column = np.divmod(hits, size)
  changed, row = np.unique(rows[group], return_inverse=True)
  counts = np.bincount(row)
  starts = np.cumsum(counts) - counts
  place = np.arange(len(hits)) - starts[row]
  more_scores = np.full((len(changed), counts.max()), -np.inf, np.float32)
  more_labels = np.full(more_scores.shape, -1, np.int32)
  more_scores[row, place] = groups_found.ravel()[hits]
  more_labels[row, place] = first + groups[group] * size + column
  labels[changed], scores[changed] = merge(
    labels[changed], scores[changed], more_labels, more_scores
  )
