"""Embeddings come back from disk as they were written."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from lmtx_jax import embeddings as lib
from lmtx_jax.types import UserError

X = np.random.RandomState(0).randn(7, 3).astype(np.float32)


@pytest.fixture(params=lib.DTYPES)
def stored(request, tmp_path):
  path = str(tmp_path / 'x.npy')
  out = lib.create_embeddings(path, X.shape, request.param)
  out[:4] = X[:4]
  out[4:] = X[4:]
  out.flush()
  return path, request.param


def test_come_back(stored):
  path, dtype = stored
  x = lib.open_embeddings(path)
  assert isinstance(x, np.memmap)
  assert x.dtype.name == dtype
  np.testing.assert_array_equal(x, X.astype(x.dtype))
  with pytest.raises(ValueError, match='read-only'):
    x[0] = 0


def test_plain_numpy_reads_them(stored):
  path, dtype = stored
  x = np.load(path, allow_pickle=False)
  if dtype == 'bfloat16':  # the upper half of a float32
    x = (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
  np.testing.assert_allclose(x, X, rtol=2**-8)


def test_are_copied_in_their_type(stored, tmp_path, monkeypatch):
  monkeypatch.setattr(lib, '_BLOCK_BYTES', 24)  # two rows
  path, _ = stored
  copy = tmp_path / 'copy.npy'
  lib.copy_embeddings(lib.open_embeddings(path), str(copy))
  with open(path, 'rb') as f:
    assert copy.read_bytes() == f.read()


def test_blocks_hold_each_row_once(monkeypatch):
  monkeypatch.setattr(lib, '_BLOCK_BYTES', 100)
  rows = [row for block in lib.blocks(23, 8) for row in range(23)[block]]
  assert rows == list(range(23))
  assert len(list(lib.blocks(23, 8))) == 8
  assert len(list(lib.blocks(3, 1000))) == 3  # a row is never cut


def test_float32_of_bfloat16_is_the_same_number():
  x = X.astype(jnp.bfloat16)
  np.testing.assert_array_equal(lib.as_float32(x), x.astype(np.float32))
  assert lib.as_float32(x).dtype == np.float32


def test_float32_is_not_copied(tmp_path):
  np.save(tmp_path / 'x.npy', X)
  mapped = np.load(tmp_path / 'x.npy', mmap_mode='r')
  assert np.shares_memory(lib.as_float32(mapped[2:5]), mapped)


@pytest.mark.parametrize('size', [0, 20, 150])
def test_a_cut_file_is_named(stored, size):
  path, _ = stored
  os.truncate(path, size)
  with pytest.raises(UserError, match='is not a whole array') as e:
    lib.open_embeddings(path)
  assert path in str(e.value)


@pytest.mark.parametrize(
  'other', [np.zeros((2, 3)), np.zeros(3, np.float32), np.zeros((2, 3), 'V4')]
)
def test_something_else_is_named(tmp_path, other):
  path = str(tmp_path / 'x.npy')
  np.save(path, other)
  with pytest.raises(UserError, match='two dimensions of float32 or'):
    lib.open_embeddings(path)


@pytest.mark.skipif(
  not hasattr(os, 'posix_fallocate'), reason='no such call here'
)
def test_embeddings_have_their_space_before_they_are_written(tmp_path):
  path = tmp_path / 'embeddings.npy'
  lib.create_embeddings(str(path), (512, 512))
  assert path.stat().st_blocks * 512 >= 2**20
