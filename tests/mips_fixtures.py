"""Made embeddings, and what a search of them must find."""

from __future__ import annotations

import numpy as np


def embeddings(num: int, dim: int = 8, seed: int = 0) -> np.ndarray:
  """`[num, dim]` f32 of unit norm."""
  x = np.random.RandomState(seed).randn(num, dim).astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered(num: int, dim: int, seed: int) -> np.ndarray:
  """Points about 500 centres, as label texts lie about their topics."""
  draw = np.random.RandomState(seed)
  centres = np.random.RandomState(9).randn(500, dim)
  x = centres[draw.randint(500, size=num)] + 0.5 * draw.randn(num, dim)
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def check_best(labels, scores, found_from, queries, k, atol=1e-6) -> None:
  """The found labels are the best k, but for the order of equal scores."""
  truth = queries.astype(np.float64) @ found_from.T.astype(np.float64)
  best = -np.sort(-truth, axis=1)[:, :k]
  assert labels.dtype == np.int32 and scores.dtype == np.float32
  assert labels.shape == scores.shape == best.shape
  np.testing.assert_allclose(scores, best, rtol=0, atol=atol)
  np.testing.assert_allclose(
    np.take_along_axis(truth, labels, axis=1), best, rtol=0, atol=2 * atol
  )
  assert all(len(set(row)) == len(row) for row in labels.tolist())


def recall(labels: np.ndarray, exact: np.ndarray) -> float:
  """Share of the exact labels that are among those found."""
  same = [len(set(a) & set(b)) for a, b in zip(labels, exact, strict=True)]
  return sum(same) / exact.size
