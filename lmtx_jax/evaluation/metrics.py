"""Scores of extreme classification, all in percent, as papers print them."""

from __future__ import annotations

import numpy as np

from lmtx_jax.types import Ragged

_PRECISION_AT = (1, 3, 5)
_RECALL_AT = (1, 3, 5, 10, 100)
_NDCG_AT = 5
_PSP_AT = (1, 5)


def metrics(
  labels: np.ndarray,
  targets: Ragged,
  *,
  num_labels: int,
  train_targets: Ragged | None,
  propensity: tuple[float, float],
) -> dict[str, float | None]:
  """P@k, R@k, nDCG@k and PSP@k, averaged over the documents with truth.

  For one document with true labels T and the set S_k of its first k predicted
  labels: P@k = |S_k & T| / k, R@k = |S_k & T| / |T|, nDCG@k = sum of
  1 / log2(rank + 1) over hits, divided by the best sum that |T| labels allow.
  PSP@k is the sum of 1/p_l over hits of all documents, divided by the largest
  such sum that any prediction could reach (Jain, Prabhu and Varma, KDD 2016,
  as normalised by the extreme classification repository).

  Args:
    labels: `[num_docs, k]` int32 predicted labels, distinct, best first, -1
      where there are no more.
    targets: true labels of each document; documents without are left out.
    num_labels: size of the label set.
    train_targets: true labels of the training documents, which give the
      propensities; None if they are not known.
    propensity: constants A and B.

  Returns:
    Percentages by name; None where there is nothing to compute it from (PSP@k
    without training truth, everything without truth).
  """
  names = [f'P@{k}' for k in _PRECISION_AT] + [f'R@{k}' for k in _RECALL_AT]
  names += [f'nDCG@{_NDCG_AT}'] + [f'PSP@{k}' for k in _PSP_AT]
  scores: dict[str, float | None] = dict.fromkeys(names)
  truth, _ = _unique(targets, num_labels)
  if not len(truth):
    return scores
  hits = _contains(truth, labels, num_labels)
  for name, of_each in _of_each_document(hits, truth, num_labels).items():
    scores[name] = 100 * float(of_each.mean())
  if train_targets is not None and len(train_targets.values):
    weights = inverse_propensity(train_targets, num_labels, propensity)
    for k in _PSP_AT:
      reached = (hits[:, :k] * weights[labels[:, :k]]).sum()
      best = _largest_sums(truth, weights[truth % num_labels], num_labels, k)
      scores[f'PSP@{k}'] = 100 * float(reached / best)
  return scores


def per_document(
  labels: np.ndarray, targets: Ragged, num_labels: int
) -> dict[str, np.ndarray]:
  """The scores whose means `metrics` gives, for each document with truth.

  PSP@k is not among them: it is a ratio of two sums over all documents.

  Args:
    labels: `[num_docs, k]` int32 predicted labels, as for `metrics`.
    targets: true labels of each document; documents without are left out.
    num_labels: size of the label set.

  Returns:
    By name, `[num_scored_docs]` float32 in percent, in the order of the
    documents.
  """
  truth, _ = _unique(targets, num_labels)
  hits = _contains(truth, labels, num_labels)
  return {
    name: (100 * of_each).astype(np.float32)
    for name, of_each in _of_each_document(hits, truth, num_labels).items()
  }


def inverse_propensity(
  train_targets: Ragged, num_labels: int, propensity: tuple[float, float]
) -> np.ndarray:
  """How much a hit of each label weighs: rare labels are often left out.

  1 / p_l = 1 + C (n_l + B)^-A with C = (ln N - 1) (B + 1)^A, where n_l of the N
  training documents have the label (Jain, Prabhu and Varma, section 3).

  Returns:
    `[num_labels]` float64.
  """
  a, b = propensity
  _, values = _unique(train_targets, num_labels)
  counts = np.bincount(values, minlength=num_labels)
  c = (np.log(len(train_targets)) - 1) * (b + 1) ** a
  return 1 + c * (counts + b) ** -a


def pseudo_label_quality(
  accepted: Ragged, truth: Ragged, num_labels: int
) -> tuple[float | None, float | None]:
  """How good pseudo labels are, over the documents whose truth is known.

  Args:
    accepted: pseudo labels of each document.
    truth: true labels of the same documents; documents without are left out.
    num_labels: size of the label set.

  Returns:
    Precision, |pseudo & true| / |pseudo|, and quality (figure 6 of LMTX),
    |pseudo & true| / |true|, as fractions; None where nothing is divided by.
  """
  true, _ = _unique(truth, num_labels)
  given, _ = _unique(accepted, num_labels)
  given = given[truth.lengths[given // num_labels] > 0]
  common = len(np.intersect1d(given, true, assume_unique=True))
  return (
    common / len(given) if len(given) else None,
    common / len(true) if len(true) else None,
  )


def _unique(ragged: Ragged, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
  """Sorted distinct `row * num_labels + value`, and the values alone."""
  keys = np.unique(ragged.row_ids * num_labels + ragged.values)
  return keys, keys % num_labels


def _contains(
  truth: np.ndarray, labels: np.ndarray, num_labels: int
) -> np.ndarray:
  """`[num_docs, k]` bool, which predicted labels are true."""
  rows = np.arange(len(labels), dtype=np.int64)[:, None]
  keys = rows * num_labels + labels
  if not len(truth):
    return np.zeros(labels.shape, bool)
  place = np.minimum(np.searchsorted(truth, keys), len(truth) - 1)
  return (truth[place] == keys) & (labels >= 0)


def _of_each_document(
  hits: np.ndarray, truth: np.ndarray, num_labels: int
) -> dict[str, np.ndarray]:
  """P@k, R@k and nDCG@k of the documents with truth, as fractions.

  Args:
    hits: `[num_docs, k]` bool, which predicted labels are true.
    truth: `[num_true]` int64, sorted `row * num_labels + label`.
    num_labels: size of the label set.

  Returns:
    By name, `[num_scored_docs]` float64.
  """
  num_true = np.bincount(truth // num_labels, minlength=len(hits))
  scored = num_true > 0
  hits, num_true = hits[scored], num_true[scored]
  scores = {f'P@{k}': hits[:, :k].sum(axis=1) / k for k in _PRECISION_AT}
  for k in _RECALL_AT:
    scores[f'R@{k}'] = hits[:, :k].sum(axis=1) / num_true
  scores[f'nDCG@{_NDCG_AT}'] = _ndcg(hits, num_true, _NDCG_AT)
  return scores


def _ndcg(hits: np.ndarray, num_true: np.ndarray, k: int) -> np.ndarray:
  """`[num_docs]` float64, nDCG@k of each document."""
  discounts = 1 / np.log2(np.arange(2, k + 2))
  top = hits[:, :k]
  ideal = np.cumsum(discounts)[np.minimum(num_true, k) - 1]
  return top @ discounts[: top.shape[1]] / ideal


def _largest_sums(
  truth: np.ndarray, weights: np.ndarray, num_labels: int, k: int
) -> float:
  """Sum over documents of the k largest weights of their true labels.

  Args:
    truth: `[num_true]` int64, `row * num_labels + label`.
    weights: `[num_true]` float64.
    num_labels: size of the label set.
    k: how many count.
  """
  rows = truth // num_labels
  order = np.lexsort((-weights, rows))
  starts = np.searchsorted(rows, rows)  # rows are sorted already
  rank = np.arange(len(rows)) - starts
  return float(weights[order][rank < k].sum())
