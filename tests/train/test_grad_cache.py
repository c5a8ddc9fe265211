"""A gradient in the memory of a chunk is the plain gradient."""

import functools

import jax
import numpy as np
import pytest
from train_fixtures import (
  make_rejected,
  make_task,
  start_params,
  tiny_encoder,
)

from lmtx_jax import devices
from lmtx_jax.config import TrainConfig
from lmtx_jax.train import grad_cache, losses
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train.objective import batch_loss
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs

ENCODER = tiny_encoder(dropout=0.2)
PARAMS = start_params(ENCODER)
LOSSES = {
  'triplet_softmax': losses.cycle_loss(TrainConfig()),
  'halves': losses.cycle_loss(TrainConfig()),
  'triplet': losses.cycle_loss(TrainConfig(loss='triplet')),
  'hard_negatives': losses.cycle_loss(TrainConfig(loss='decoupled_softmax')),
}


@functools.lru_cache
def batch(kind, size):
  task = make_task(size, longest_label=12 if kind == 'halves' else 2)
  pairs = PseudoLabelPairs(
    task.documents,
    task.labels,
    task.accepted,
    task.label_key,
    batch_size=size,
    epochs=1,
    seed=(0, 3),
    rejected=make_rejected(task),
    num_hard=2 if kind == 'hard_negatives' else 0,
  )
  batch = pairs.batch(0)
  assert ('longer_ids' in batch) == (kind == 'halves')
  return devices.shard(batch)


@functools.lru_cache
def compiled(kind, size, chunk):
  """The program that computes loss and gradient, ready to run."""
  loss = LOSSES[kind]
  if chunk:
    function = functools.partial(
      grad_cache.value_and_grad, bi_encoder=ENCODER, loss=loss, chunk=chunk
    )
  else:
    function = jax.value_and_grad(
      functools.partial(batch_loss, bi_encoder=ENCODER, loss=loss)
    )
  p_gradient = devices.p_map(
    lambda *args: jax.lax.pmean(function(*args), devices.AXIS),
    in_axes=(0, 0, None),
  )
  return p_gradient.lower(*arguments(kind, size)).compile()


def arguments(kind, size):
  return devices.replicate(PARAMS), batch(kind, size), jax.random.key(5)


def gradient(kind, size, chunk):
  """The loss, and the whole gradient as one vector."""
  value, grads = devices.unreplicate(
    compiled(kind, size, chunk)(*arguments(kind, size))
  )
  leaves = [leaf.ravel() for leaf in jax.tree.leaves(grads)]
  return value, np.concatenate(leaves)


@pytest.mark.parametrize(
  ('kind', 'size', 'chunk'),
  [
    ('triplet', 4096, Chunk(64)),
    ('triplet_softmax', 24, Chunk(5)),  # the last chunk is filled up
    ('hard_negatives', 24, Chunk(5)),
    ('halves', 24, Chunk(5)),
    ('halves', 24, Chunk(tokens=60)),  # of each width other rows
  ],
)
def test_a_chunk_at_a_time_gives_the_plain_gradient(kind, size, chunk):
  value, grads = gradient(kind, size, chunk)
  plain_value, plain = gradient(kind, size, None)
  np.testing.assert_allclose(value, plain_value, rtol=1e-5)
  assert np.linalg.norm(plain) > 1e-3
  error = np.linalg.norm(grads - plain) / np.linalg.norm(plain)
  assert error < 1e-5


def test_memory_grows_with_the_chunk_and_not_with_the_batch():
  def memory(size, chunk):
    program = compiled('triplet', size, chunk)
    return program.memory_analysis().temp_size_in_bytes

  small, large = memory(1024, Chunk(64)), memory(4096, Chunk(64))
  # Of each document more, embeddings and scores; of the plain gradient, all
  # activations of the encoder.
  assert (large - small) / 3072 < 15 * 4 * ENCODER.dim
  assert memory(4096, None) > 20 * large
