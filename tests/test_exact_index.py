"""The exact index is sorting, on the host and on devices."""

import os
import subprocess
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import jax.numpy as jnp
from mips_fixtures import check_best, embeddings
import numpy as np
import pytest
from run_fixtures import on_devices

from lmtx_jax import exact_index
from lmtx_jax.embeddings import create_embeddings, open_embeddings
from lmtx_jax.exact_index import ExactIndex

WHERE = pytest.mark.parametrize('on_device', [False, True])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Blocks of 16 labels in groups of 4, and of 4 queries."""
  monkeypatch.setattr(exact_index, '_GROUP', 4)
  monkeypatch.setattr(exact_index, '_LABEL_BLOCK', 16)
  monkeypatch.setattr(exact_index, '_DEVICE_LABEL_BLOCK', 16)
  monkeypatch.setattr(exact_index, '_QUERY_BLOCK', 4)


@WHERE
@pytest.mark.parametrize(
  ('num_labels', 'k'),
  [(1, 1), (7, 3), (16, 5), (17, 5), (37, 20), (37, 37), (5, 9)],
)
def test_is_sorting(num_labels, k, on_device):
  """Blocks that divide neither number."""
  x, queries = embeddings(num_labels), embeddings(9, seed=1)
  found = ExactIndex(x, on_device).search(queries, k)
  check_best(*found, x, queries, min(k, num_labels))


def whole(rows):
  """Small whole numbers: their products are exact, and many are equal."""
  return arrays.arrays(
    np.float32, (rows, 3), elements=st.integers(-2, 2).map(float)
  )


@WHERE
@settings(
  max_examples=40,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_of_equal_scores_the_lower_label_is_first(on_device, data):
  num_labels = data.draw(st.sampled_from([16, 31, 32, 50]))
  k = data.draw(st.sampled_from([1, 4, 20]))
  x, queries = data.draw(whole(num_labels)), data.draw(whole(8))
  x = x.astype(data.draw(st.sampled_from([np.float32, jnp.bfloat16])))
  labels, scores = ExactIndex(x, on_device).search(queries, k)
  truth = queries @ x.astype(np.float32).T
  best = np.argsort(-truth, axis=1, kind='stable')[:, : min(k, num_labels)]
  np.testing.assert_array_equal(labels, best)
  np.testing.assert_array_equal(scores, np.take_along_axis(truth, best, axis=1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_top_k_is_jaxs(data):
  width, k = data.draw(st.sampled_from([(40, 1), (257, 3), (1024, 2), (9, 9)]))
  few = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0])
  scores = data.draw(arrays.arrays(np.float32, (3, width), elements=few))
  scores[:, :k] = 0  # at least k that are no -inf
  found, places = exact_index._top_k(jnp.asarray(scores), k)
  order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
  np.testing.assert_array_equal(places, order)
  np.testing.assert_array_equal(
    found, np.take_along_axis(scores, order, axis=1)
  )


@WHERE
def test_all_labels_are_equal(on_device):
  x = np.repeat(embeddings(1), 50, axis=0)
  labels, _ = ExactIndex(x, on_device).search(embeddings(2, seed=1), 20)
  assert labels.tolist() == [list(range(20))] * 2


@WHERE
def test_a_wide_block_after_a_narrow_list(monkeypatch, on_device):
  """Labels that get better and better, so that each block brings many."""
  monkeypatch.setattr(exact_index, '_LABEL_BLOCK', 64)
  x = np.linspace(-1, 1, 200, dtype=np.float32)[:, None] * embeddings(1)
  labels, _ = ExactIndex(x, on_device).search(embeddings(1), 3)
  assert labels.tolist() == [[199, 198, 197]]


@WHERE
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_reads_a_memory_mapped_file(tmp_path, dtype, on_device):
  path = str(tmp_path / 'x.npy')
  x, queries = embeddings(40, 64), embeddings(6, 64, seed=1)
  out = create_embeddings(path, x.shape, dtype)
  out[:] = x
  out.flush()
  stored = open_embeddings(path)
  found = ExactIndex(stored, on_device).search(queries, 5)
  # Against what is stored, a product is as exact as float32 makes it.
  check_best(*found, stored.astype(np.float32), queries, 5)


def test_queries_may_be_bfloat16(tmp_path):
  x = embeddings(40)
  queries = embeddings(6, seed=1).astype(jnp.bfloat16)
  check_best(*ExactIndex(x).search(queries, 4), x, queries, 4)


@WHERE
def test_no_queries(on_device):
  index = ExactIndex(embeddings(20), on_device)
  labels, scores = index.search(np.zeros((0, 8), np.float32), 4)
  assert labels.shape == scores.shape == (0, 4)


class CountedReads:
  """Embeddings that count the rows that were read of them."""

  def __init__(self, x):
    self._x, self.rows = x, 0
    self.shape, self.nbytes, self.dtype = x.shape, x.nbytes, x.dtype

  def __len__(self):
    return len(self._x)

  def __getitem__(self, rows):
    part = self._x[rows]
    self.rows += len(part)
    return part


@WHERE
def test_one_search_reads_the_labels_once(on_device):
  x = CountedReads(embeddings(64))
  ExactIndex(x, on_device).search(embeddings(40, seed=1), 4)
  assert x.rows == 64


@pytest.mark.parametrize('fits', [False, True])
def test_what_fits_stays_on_the_device(monkeypatch, fits):
  monkeypatch.setattr(exact_index, '_fits', lambda device, size: fits)
  x, queries = CountedReads(embeddings(50)), embeddings(6, seed=1)
  index = ExactIndex(x, on_device=True)
  for _ in range(3):
    check_best(*index.search(queries, 4), x[:], queries, 4)
  x.rows = 0
  index.search(queries, 4)
  assert x.rows == (0 if fits else 64)  # four blocks, the last one overlaps


def test_several_devices_share_the_queries():
  code = """
import numpy as np
from mips_fixtures import check_best, embeddings
from lmtx_jax import exact_index
exact_index._DEVICE_LABEL_BLOCK, exact_index._QUERY_BLOCK = 16, 4
import jax
assert jax.local_device_count() == 3
used = set()
merge = exact_index._merge
def watched(part, *args):
  used.update(part.devices())
  return merge(part, *args)
exact_index._merge = watched
x = embeddings(50)
for n in (3, 9, 40):
  queries = embeddings(n, seed=1)
  found = exact_index.ExactIndex(x, on_device=True).search(queries, 5)
  check_best(*found, x, queries, 5)
assert len(used) == 3
"""
  here = os.path.dirname(__file__)
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=here,
    env=on_devices(3)
    | {'PYTHONPATH': os.pathsep.join([here, os.path.dirname(here)])},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
