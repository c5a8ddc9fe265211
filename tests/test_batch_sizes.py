"""Batches that suit the devices."""

import dataclasses

import jax
import numpy as np
import pytest

from lmtx_jax import batch_sizes, devices
from lmtx_jax.config import TRAINING, Config
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.types import UserError


def config(**flags) -> Config:
  parts = (
    dataclasses.replace(
      part(),
      **{k: v for k, v in flags.items() if k in part.__dataclass_fields__},
    )
    for part in TRAINING
  )
  return Config(*parts)


@pytest.mark.parametrize(('num_pairs', 'size'), [(100, 96), (17, 16), (8, 8)])
def test_a_small_batch_is_the_same_on_1_to_8_devices(
  monkeypatch, num_pairs, size
):
  for total in (1, 2, 4, 8):
    monkeypatch.setattr(devices, 'total', lambda n=total: n)
    assert batch_sizes.small_batch(num_pairs) == size


@pytest.mark.parametrize(
  ('total', 'num_pairs', 'size'),
  [(3, 100, 96), (3, 7, 6), (1, 5, 5), (4, 3, 4)],
)
def test_a_small_batch_divides_among_the_devices(
  monkeypatch, total, num_pairs, size
):
  monkeypatch.setattr(devices, 'total', lambda: total)
  assert batch_sizes.small_batch(num_pairs) == size


def test_a_batch_that_does_not_divide_says_which_would(monkeypatch):
  monkeypatch.setattr(devices, 'total', lambda: 8)
  batch_sizes.check_batch_sizes(config(batch_size=64))
  with pytest.raises(UserError, match='choose 96 or 104'):
    batch_sizes.check_batch_sizes(config(batch_size=100))
  with pytest.raises(UserError, match='--warmup_batch_size=20'):
    batch_sizes.check_batch_sizes(config(warmup_epochs=1, warmup_batch_size=20))


def test_chunks_on_a_cpu_only(monkeypatch):
  assert batch_sizes.cycle_chunk(config()) == Chunk(tokens=2048)
  assert batch_sizes.cycle_chunk(config(grad_cache_chunk=5)) == Chunk(rows=5)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert batch_sizes.cycle_chunk(config()) == Chunk()


@pytest.mark.parametrize(
  ('chunk', 'width', 'rows'),
  [
    (Chunk(), 450, 64),
    (Chunk(rows=5), 450, 5),
    (Chunk(rows=100), 450, 64),
    (Chunk(tokens=2048), 450, 4),
    (Chunk(tokens=2048), 15, 64),
    (Chunk(tokens=2048), 4096, 1),
  ],
)
def test_a_chunk_of_tokens_has_more_rows_of_a_short_side(chunk, width, rows):
  assert chunk.rows_of(np.zeros((64, width))) == rows
