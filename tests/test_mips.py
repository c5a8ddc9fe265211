"""The exact index against sorting, and ScaNN against the exact index."""

import importlib.util
import sys

import numpy as np
import pytest

from lmtx_jax import mips
from lmtx_jax.mips import ExactIndex, ScannIndex

scann_only = pytest.mark.skipif(
  sys.platform != 'linux', reason='ScaNN is built for Linux only'
)


def embeddings(num, dim=8, seed=0):
  x = np.random.RandomState(seed).randn(num, dim).astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def check_best(labels, scores, found_from, queries, k):
  """The found labels are the best k, but for the order of equal scores."""
  truth = queries.astype(np.float64) @ found_from.T.astype(np.float64)
  best = -np.sort(-truth, axis=1)[:, :k]
  assert labels.dtype == np.int32 and scores.dtype == np.float32
  assert labels.shape == scores.shape == best.shape
  close = dict(rtol=0, atol=1e-6)
  np.testing.assert_allclose(scores, best, **close)
  np.testing.assert_allclose(
    np.take_along_axis(truth, labels, axis=1), best, **close
  )
  assert all(len(set(row)) == len(row) for row in labels.tolist())


@pytest.mark.parametrize(
  ('num_labels', 'k'),
  [(1, 1), (7, 3), (16, 5), (17, 5), (37, 20), (37, 37), (5, 9)],
)
def test_exact_is_sorting(monkeypatch, num_labels, k):
  """Blocks of 16 labels and 4 queries, that divide neither number."""
  monkeypatch.setattr(mips, '_LABEL_BLOCK', 16)
  monkeypatch.setattr(mips, '_QUERY_BLOCK', 4)
  x, queries = embeddings(num_labels), embeddings(9, seed=1)
  labels, scores = ExactIndex(x).search(queries, k)
  check_best(labels, scores, x, queries, min(k, num_labels))


def test_equal_labels_are_all_found(monkeypatch):
  monkeypatch.setattr(mips, '_LABEL_BLOCK', 4)
  x = np.repeat(embeddings(1), 10, axis=0)
  labels, _ = ExactIndex(x).search(embeddings(2, seed=1), 10)
  assert all(sorted(row) == list(range(10)) for row in labels.tolist())


def test_exact_reads_a_memory_mapped_file(tmp_path):
  x, queries = embeddings(20), embeddings(3, seed=1)
  np.save(tmp_path / 'x.npy', x)
  mapped = np.load(tmp_path / 'x.npy', mmap_mode='r')
  check_best(*ExactIndex(mapped).search(queries, 4), x, queries, 4)


@pytest.mark.parametrize(
  'build', [ExactIndex, pytest.param(ScannIndex.build, marks=scann_only)]
)
def test_no_queries(build):
  labels, scores = build(embeddings(20)).search(np.zeros((0, 8), np.float32), 4)
  assert labels.shape == scores.shape == (0, 4)


def test_auto_is_scann_where_it_is_installed(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert mips.choose_index('auto') == 'exact'
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: find('numpy'))
  assert mips.choose_index('auto') == 'scann'
  assert mips.choose_index('exact') == 'exact'


@scann_only
@pytest.mark.parametrize(('num_labels', 'k'), [(1, 3), (5, 20), (900, 40)])
def test_scann_is_exact_for_few_labels(num_labels, k):
  x, queries = embeddings(num_labels, 16), embeddings(30, 16, seed=1)
  index = ScannIndex.build(x)
  check_best(*index.search(queries, k), x, queries, min(k, num_labels))
  one = index.search(queries[:1], k)
  check_best(*one, x, queries[:1], min(k, num_labels))


def clustered(num, dim, seed):
  """Points about 500 centres, as label texts lie about their topics."""
  draw = np.random.RandomState(seed)
  centres = np.random.RandomState(9).randn(500, dim)
  x = centres[draw.randint(500, size=num)] + 0.5 * draw.randn(num, dim)
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope='module')
def many():
  """Labels past the bound of brute force, queries, and the index."""
  x = clustered(25_000, 64, seed=0)
  return x, clustered(400, 64, seed=1), ScannIndex.build(x)


def recall(labels, exact):
  same = [len(set(a) & set(b)) for a, b in zip(labels, exact, strict=True)]
  return sum(same) / exact.size


@scann_only
@pytest.mark.parametrize('k', [10, 100])
def test_scann_finds_nearly_all_among_many_labels(many, k):
  x, queries, index = many
  exact, _ = ExactIndex(x).search(queries, k)
  labels, scores = index.search(queries, k)
  assert recall(labels, exact) >= 0.98
  truth = np.einsum('qkd,qd->qk', x[labels], queries)
  np.testing.assert_allclose(scores, truth, rtol=0, atol=1e-5)
  assert np.all(np.diff(scores, axis=1) <= 0)


@scann_only
@pytest.mark.parametrize('size', ['few', 'many'])
def test_a_saved_index_may_be_moved(tmp_path, many, size):
  x, queries, index = many
  if size == 'few':
    x = x[:50]
    index = ScannIndex.build(x)
  index.save(str(tmp_path / 'made'))
  (tmp_path / 'made').rename(tmp_path / 'moved')
  loaded = ScannIndex.load(str(tmp_path / 'moved'), len(x))
  for k in (10, 60):
    np.testing.assert_array_equal(
      loaded.search(queries, k)[0], index.search(queries, k)[0]
    )
