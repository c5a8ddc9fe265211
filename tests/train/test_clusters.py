"""Rows that are alike get one number."""

import jax.numpy as jnp
import numpy as np
import pytest

from lmtx_jax import embeddings
from lmtx_jax.embeddings import create_embeddings
from lmtx_jax.train import clusters
from lmtx_jax.train.clusters import cluster


def blobs(num_clusters, each, dim=16, noise=0.05, seed=0):
  """Unit rows about some centres, and the centre of each."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(num_clusters, dim))
  centres /= np.linalg.norm(centres, axis=1, keepdims=True)
  of = rng.permutation(np.repeat(np.arange(num_clusters), each))
  rows = centres[of] + noise * rng.normal(size=(len(of), dim))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return rows.astype(np.float32), of


def is_same_partition(a, b):
  pairs = set(zip(a.tolist(), b.tolist(), strict=True))
  return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize(('num_clusters', 'each'), [(3, 20), (12, 130)])
def test_it_finds_what_is_there(num_clusters, each):
  rows, of = blobs(num_clusters, each)
  found = cluster(rows, num_clusters, seed=0)
  assert found.dtype == np.int32
  assert found.min() >= 0 and found.max() < num_clusters
  assert is_same_partition(found, of)


def test_more_clusters_than_blobs_lie_within_them():
  """And first centres that lie where rows do serve as well."""
  rows, of = blobs(40, 60)
  found = cluster(rows, 1100, seed=0)
  centres = np.zeros((1100, rows.shape[1]))
  np.add.at(centres, found, rows)
  sizes = np.bincount(found, minlength=1100)
  assert np.count_nonzero(sizes) > 800
  mixed = [c for c in np.unique(found) if len(set(of[found == c])) > 1]
  assert len(mixed) < 11


def test_the_seed_decides():
  rows, _ = blobs(30, 30, noise=0.3)
  first = cluster(rows, 25, seed=3)
  assert np.array_equal(first, cluster(rows.copy(), 25, seed=3))
  assert not np.array_equal(first, cluster(rows, 25, seed=4))


@pytest.mark.parametrize('num_clusters', [5, 6, 40_000])
def test_no_more_clusters_than_rows(num_clusters):
  rows, _ = blobs(5, 1)
  assert cluster(rows, num_clusters, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_one_cluster_holds_all():
  assert cluster(blobs(4, 5)[0], 1, seed=0).tolist() == [0] * 20


def test_bfloat16_and_files(tmp_path):
  rows, of = blobs(6, 50)
  file = create_embeddings(str(tmp_path / 'e.npy'), rows.shape, 'bfloat16')
  file[:] = rows.astype(jnp.bfloat16)
  assert is_same_partition(cluster(file, 6, seed=0), of)


def test_few_rows_are_in_memory(tmp_path, monkeypatch):
  rows, of = blobs(10, 2000)
  file = create_embeddings(str(tmp_path / 'e.npy'), rows.shape)
  file[:] = rows
  read = []

  def as_float32(part):
    read.append(len(part))
    return embeddings.as_float32(part)

  monkeypatch.setattr(clusters, 'as_float32', as_float32)
  monkeypatch.setattr(clusters, '_MAX_PASSES', 2)
  monkeypatch.setattr(embeddings, '_BLOCK_BYTES', 4 * 16 * 500)
  assert is_same_partition(cluster(file, 10, seed=0), of)
  assert max(read) == 20_000 // 16
  assert read[-40:] == [500] * 40  # numbered block by block
