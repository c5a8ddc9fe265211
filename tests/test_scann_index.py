"""ScaNN in one part and in many, against the exact index."""

import json
import os
import shutil

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
from mips_fixtures import check_best, clustered, embeddings, recall
import numpy as np
import pytest

from lmtx_jax import scann_index
from lmtx_jax.embeddings import create_embeddings, open_embeddings
from lmtx_jax.exact_index import ExactIndex
from lmtx_jax.scann_index import (
  ScannIndex,
  is_whole,
  part_rows,
  write_index,
)
from lmtx_jax.types import UserError

pytestmark = pytest.mark.skipif(
  not scann_index.is_installed(), reason='ScaNN has no build here'
)


@pytest.mark.parametrize(('num_labels', 'k'), [(1, 3), (5, 20), (900, 40)])
def test_exact_for_few_labels(num_labels, k):
  x, queries = embeddings(num_labels, 16), embeddings(30, 16, seed=1)
  index = ScannIndex.build(x)
  check_best(*index.search(queries, k), x, queries, min(k, num_labels))
  one = index.search(queries[:1], k)
  check_best(*one, x, queries[:1], min(k, num_labels))


def test_no_queries():
  index = ScannIndex.build(embeddings(20))
  labels, scores = index.search(np.zeros((0, 8), np.float32), 4)
  assert labels.shape == scores.shape == (0, 4)


@pytest.fixture(scope='module')
def many(tmp_path_factory):
  """Labels past the bound of brute force, queries, an index in one part."""
  x = clustered(25_000, 64, seed=0)
  folder = str(tmp_path_factory.mktemp('many') / 'scann')
  write_index(folder, x)
  index = ScannIndex.load(folder, len(x))
  return x, clustered(400, 64, seed=1), index, folder


@pytest.mark.parametrize('k', [10, 100])
def test_finds_nearly_all_among_many_labels(many, k):
  x, queries, index, _ = many
  exact, _ = ExactIndex(x).search(queries, k)
  labels, scores = index.search(queries, k)
  assert recall(labels, exact) >= 0.98
  truth = np.einsum('qkd,qd->qk', x[labels], queries)
  np.testing.assert_allclose(scores, truth, rtol=0, atol=1e-5)
  assert np.all(np.diff(scores, axis=1) <= 0)


def test_bfloat16_is_searched_as_it_is_stored(many):
  x, queries, *_ = many
  x = x.astype(jnp.bfloat16)
  exact, exact_scores = ExactIndex(x).search(queries, 10)
  labels, scores = ScannIndex.build(x).search(queries, 10)
  assert recall(labels, exact) >= 0.98
  np.testing.assert_allclose(scores[:, 0], exact_scores[:, 0], atol=2e-3)


@pytest.mark.parametrize('size', ['few', 'many'])
def test_a_saved_index_may_be_moved(tmp_path, many, size):
  x, queries, index, _ = many
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


def test_saving_copies_the_files(tmp_path, many):
  *_, index, folder = many
  index.save(str(tmp_path / 'copy'))
  for parent, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      copy = tmp_path / 'copy' / os.path.relpath(path, folder)
      with open(path, 'rb') as f:
        assert copy.read_bytes() == f.read()


def test_the_same_embeddings_make_the_same_index(tmp_path, many):
  x, _, _, folder = many
  write_index(str(tmp_path / 'again'), x)
  for path in (tmp_path / 'again' / 'part_000').iterdir():
    with open(os.path.join(folder, 'part_000', path.name), 'rb') as f:
      assert path.read_bytes() == f.read(), path.name


def test_the_layout_of_older_bundles_is_read(tmp_path, many):
  x, queries, index, folder = many
  shutil.copytree(os.path.join(folder, 'part_000'), tmp_path / 'scann')
  loaded = ScannIndex.load(str(tmp_path / 'scann'), len(x))
  np.testing.assert_array_equal(
    loaded.search(queries, 7)[0], index.search(queries, 7)[0]
  )
  loaded.save(str(tmp_path / 'new'))
  assert is_whole(str(tmp_path / 'new'))


class TestParts:
  @settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
  )
  @given(
    num_labels=st.integers(1, 60),
    shards=st.integers(1, 9),
    k=st.integers(1, 70),
    repeat=st.booleans(),
    kept=st.booleans(),
    dtype=st.sampled_from(['float32', 'bfloat16']),
  )
  def test_find_what_one_finds(
    self, tmp_path_factory, num_labels, shards, k, repeat, kept, dtype
  ):
    folder = tmp_path_factory.mktemp('parts')
    x = embeddings(num_labels)
    if repeat:
      x = x[np.arange(num_labels) % 3 % num_labels]
    path = str(folder / 'x.npy')
    out = create_embeddings(path, x.shape, dtype)
    out[:] = x
    stored, queries = open_embeddings(path), embeddings(5, seed=1)
    write_index(str(folder / 'scann'), stored, shards)
    index = ScannIndex.load(
      str(folder / 'scann'), num_labels, memory=None if kept else 0
    )
    check_best(
      *index.search(queries, k),
      stored.astype(np.float32),
      queries,
      min(k, num_labels),
      atol=1e-6 if dtype == 'float32' else 4e-3,
    )

  @given(st.integers(1, 1000), st.integers(1, 1000))
  def test_hold_each_label_once(self, num_labels, shards):
    parts = scann_index.num_parts(num_labels, 768, shards)
    rows = [part_rows(num_labels, parts, part) for part in range(parts)]
    labels = [label for part in rows for label in range(num_labels)[part]]
    assert labels == list(range(num_labels))
    sizes = [part.stop - part.start for part in rows]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1

  @pytest.mark.parametrize(
    ('num_labels', 'parts'), [(4_271, 1), (320_000, 1), (3_000_000, 9)]
  )
  def test_are_as_many_as_the_size_asks_for(self, num_labels, parts):
    assert scann_index.num_parts(num_labels, 768) == parts

  def test_are_loaded_once_a_search(self, tmp_path, monkeypatch):
    monkeypatch.setattr(scann_index, '_QUERY_BLOCK', 2)
    folder, x = str(tmp_path / 'scann'), embeddings(30)
    write_index(folder, x, 3)
    index = ScannIndex.load(folder, 30, memory=0)
    opened = []
    monkeypatch.setattr(
      scann_index._Part,
      'open',
      lambda part, real=scann_index._Part.open: (
        opened.append(part.path) or real(part)
      ),
    )
    queries = embeddings(9, seed=1)
    check_best(*index.search(queries, 4), x, queries, 4)
    assert opened == [f'{folder}/part_{i:03d}' for i in range(3)]

  def test_what_a_killed_build_left_is_kept(self, tmp_path, monkeypatch):
    folder, x = str(tmp_path / 'scann'), embeddings(30)
    build, built = scann_index._build, []

    def killed(rows):
      built.append(len(rows))
      if len(built) == 3:
        raise KeyboardInterrupt
      return build(rows)

    monkeypatch.setattr(scann_index, '_build', killed)
    with pytest.raises(KeyboardInterrupt):
      write_index(folder, x, 4)
    assert not is_whole(folder)
    assert sorted(os.listdir(folder)) == ['part_000', 'part_001']
    write_index(folder, x, 4)
    assert is_whole(folder)
    assert len(built) == 3 + 2
    index = ScannIndex.load(folder, 30)
    check_best(*index.search(x, 4), x, x, 4)


class TestBroken:
  @pytest.fixture
  def folder(self, tmp_path):
    path = tmp_path / 'scann'
    write_index(str(path), embeddings(30), 3)
    return path

  def fails(self, folder, match, num_labels=30):
    with pytest.raises(UserError, match=match) as e:
      ScannIndex.load(str(folder), num_labels)
    assert str(folder) in str(e.value)
    assert '\n' not in str(e.value)

  def test_missing_part(self, folder):
    shutil.rmtree(folder / 'part_001')
    self.fails(folder, 'part_001: this part of the index is missing')

  def test_damaged_part(self, folder):
    for path in (folder / 'part_001').iterdir():
      os.truncate(path, 0)
    self.fails(folder, 'part_001 is not a whole ScaNN index')

  def test_part_of_another_index(self, folder, tmp_path):
    write_index(str(tmp_path / 'other'), embeddings(12), 3)
    shutil.rmtree(folder / 'part_001')
    shutil.copytree(tmp_path / 'other' / 'part_001', folder / 'part_001')
    self.fails(folder, 'part_001 is an index of 4 labels, not of 10')

  def test_other_labels(self, folder):
    self.fails(folder, 'an index of 30 labels in 3 parts, not of 31', 31)

  @pytest.mark.parametrize('text', ['', '{', '[]', '{"parts": 3}'])
  def test_damaged_parts_json(self, folder, text):
    (folder / 'parts.json').write_text(text)
    self.fails(folder, r'parts\.json is not what an index has there')

  def test_unfinished(self, folder):
    os.remove(folder / 'parts.json')
    self.fails(folder, r'parts\.json is not what an index has there')

  def test_no_parts(self, folder):
    about = json.loads((folder / 'parts.json').read_text()) | {'parts': 0}
    (folder / 'parts.json').write_text(json.dumps(about))
    self.fails(folder, 'in 0 parts')

  def test_pickle(self, folder):
    (folder / 'part_001' / 'scann_docids.pkl').touch()
    self.fails(folder, 'is a pickle')
