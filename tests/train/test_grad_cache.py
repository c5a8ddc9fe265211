"""A gradient in the memory of a chunk is the plain gradient."""

import functools

import jax
from loop_fixtures import compilations
import numpy as np
import optax
from plain_loss import plain_gradient
import pytest
from train_fixtures import (
  make_rejected,
  make_task,
  start_params,
  tiny_encoder,
)

from lmtx_jax import devices
from lmtx_jax.train import grad_cache, losses
from lmtx_jax.train.grad_cache import Chunk, Gradient
from lmtx_jax.train.objective import side_of
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.step import TrainState, p_train_step
from lmtx_jax.train_config import TrainConfig

ENCODER = tiny_encoder(dropout=0.2)
PARAMS = start_params(ENCODER)
LOSSES = {
  'triplet_softmax': losses.cycle_loss(TrainConfig()),
  'parts': losses.cycle_loss(TrainConfig()),
  'triplet': losses.cycle_loss(TrainConfig(loss='triplet')),
  'hard_negatives': losses.cycle_loss(TrainConfig(loss='decoupled_softmax')),
}


@functools.lru_cache
def batch(kind, size):
  task = make_task(size, longest_label=12 if kind == 'parts' else 2)
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
  assert ('passage_1_ids' in batch) == (kind == 'parts')
  assert ('passage_7_ids' in batch) == (kind == 'parts' and size == 128)
  return devices.shard(batch)


def taken(kind, chunk):
  return p_train_step(ENCODER, LOSSES[kind], optax.identity(), chunk)


def gradient(kind, size, chunk):
  """The loss, and the whole gradient as one vector."""
  key, step = jax.random.key(5), np.int32(3)
  if chunk is None:
    value, grads = plain_gradient(
      PARAMS,
      batch(kind, size),
      jax.random.fold_in(key, step),
      bi_encoder=ENCODER,
      loss=LOSSES[kind],
    )
  else:
    value, grads = devices.unreplicate(
      taken(kind, chunk).value_and_grad(
        devices.replicate(PARAMS),
        batch(kind, size),
        key,
        devices.replicate(step),
      )
    )
  return value, np.concatenate(
    [leaf.ravel() for leaf in jax.tree.leaves(grads)]
  )


@pytest.mark.parametrize(
  ('kind', 'size', 'chunk'),
  [
    ('triplet', 4096, Chunk(64)),
    ('triplet_softmax', 24, Chunk(5)),  # the last chunk is filled up
    ('hard_negatives', 24, Chunk(5)),
    ('parts', 32, Chunk(tokens=60)),  # of each width other rows
    ('parts', 32, Chunk()),
    ('parts', 128, Chunk()),  # eight of them
    ('hard_negatives', 24, Chunk()),
  ],
)
def test_a_chunk_at_a_time_gives_the_plain_gradient(
  monkeypatch, kind, size, chunk
):
  if kind == 'hard_negatives':  # elsewhere passages are embedded again
    monkeypatch.setattr(grad_cache, '_WORTH_KEEPING', 0)
  value, grads = gradient(kind, size, chunk)
  plain_value, plain = gradient(kind, size, None)
  np.testing.assert_allclose(value, plain_value, rtol=1e-5)
  assert np.linalg.norm(plain) > 1e-3
  error = np.linalg.norm(grads - plain) / np.linalg.norm(plain)
  assert error < 1e-5


def test_memory_grows_with_the_chunk_and_not_with_the_batch():
  def memory(size, chunk):
    """Bytes of each program of a step, and of what leaves the first one."""
    found, key = batch('triplet', size), (jax.random.key(5), np.int32(0), 1)
    gradient = Gradient(ENCODER, LOSSES['triplet'], chunk)
    params = devices.replicate(PARAMS)
    emb = np.zeros((devices.count(), size, ENCODER.dim), np.float32)
    query, passage = side_of(found, 'query'), side_of(found, 'passage')
    keys = [found['passage_key']]
    arguments = {
      'passages': (params, passage),
      'queries': (params, query, found['accepted'], [emb], keys),
      'into_passages': (params, None, params, passage, emb),
    }
    bytes_of = []
    for name, args in arguments.items():
      axes = (*[0] * len(args), None)
      program = devices.p_map(getattr(gradient, name), in_axes=axes)
      analysis = program.lower(*args, key).compile().memory_analysis()
      bytes_of.append(analysis.temp_size_in_bytes)
      if name == 'passages':
        bytes_of.append(analysis.output_size_in_bytes)
    return np.array(bytes_of)

  small, large = memory(1024, Chunk(64)), memory(4096, Chunk(64))
  # Of each document more, embeddings and scores; of the plain gradient, all
  # activations of the encoder.
  assert np.all((large - small) / 3072 < 15 * 4 * ENCODER.dim)
  assert memory(4096, Chunk()).max() > 20 * large.max()


@pytest.mark.parametrize('chunk', [Chunk(4), Chunk()])
def test_a_width_that_is_known_compiles_nothing_on_the_other_side(
  monkeypatch, chunk
):
  """Widths add up, they do not multiply."""
  monkeypatch.setattr(grad_cache, '_WORTH_KEEPING', 0)

  def run(doc_width, label_width):
    ids = np.ones((8, doc_width), np.int32), np.ones((8, label_width), np.int32)
    full = {
      'query_ids': ids[0],
      'query_lengths': np.full(8, doc_width, np.int32),
      'passage_ids': ids[1],
      'passage_lengths': np.full(8, label_width, np.int32),
      'passage_key': np.arange(8, dtype=np.int32),
      'accepted': np.arange(8, dtype=np.int32)[:, None],
    }
    state = TrainState(np.int32(0), PARAMS, ())
    arguments = devices.replicate(state), devices.shard(full), jax.random.key(0)
    with compilations() as found:
      jax.block_until_ready(step(*arguments, np.float32(0)))
    return found

  step = taken('triplet', chunk)
  assert run(9, 4) and run(12, 6)
  assert run(9, 6) == run(12, 4) == []
