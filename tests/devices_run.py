"""Trains and encodes on however many devices there are; see test_devices."""

import os
import sys

import jax
import numpy as np
import optax

sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'train'))

from train_fixtures import make_task, start_params, tiny_encoder

from lmtx_jax import devices
from lmtx_jax.encode import Encoder
from lmtx_jax.train import losses
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.step import TrainState, p_train_step
from lmtx_jax.train_config import TrainConfig

STEPS = 20
RATE = np.float32(2e-4)


def layout() -> None:
  """Replicating and sharding lose nothing and keep the order."""
  tree = {'a': np.arange(6.0).reshape(2, 3), 'b': np.int32(7)}
  replicated = devices.replicate(tree)
  assert replicated['a'].shape == (devices.count(), 2, 3)
  assert len(replicated['b'].sharding.device_set) == devices.count()
  jax.tree.map(
    np.testing.assert_array_equal, devices.unreplicate(replicated), tree
  )
  rows = np.arange(devices.count() * 6).reshape(-1, 2)
  doubled = devices.p_map(lambda x: 2 * x)(devices.shard(rows))
  np.testing.assert_array_equal(devices.gather(doubled), 2 * rows)
  total = devices.p_map(lambda x: jax.lax.psum(x, devices.AXIS))
  summed = devices.unreplicate(total(devices.replicate(np.float32(1))))
  assert summed == devices.count()


def train() -> tuple[np.ndarray, np.ndarray]:
  """The loss of each step, and all parameters at the end."""
  encoder, task = tiny_encoder(dropout=0.1), make_task(64)
  pairs = PseudoLabelPairs(
    task.documents,
    task.labels,
    task.accepted,
    task.label_key,
    batch_size=32,
    epochs=10,
    seed=(0, 3, 0),
  )
  keys = [pairs.batch(step)['passage_key'] for step in range(STEPS)]
  assert all(len(set(key.tolist())) < 24 for key in keys)  # duplicates
  optimizer = optax.scale_by_adam(eps=1e-6)
  p_step = p_train_step(
    encoder, losses.cycle_loss(TrainConfig(loss='triplet')), optimizer
  )
  params = start_params(encoder)
  state = TrainState(np.int32(0), params, optimizer.init(params))
  state = devices.replicate(jax.tree.map(np.asarray, state))
  found = []
  for step in range(STEPS):
    batch = devices.shard(pairs.batch(step))
    state, metrics = p_step(state, batch, jax.random.key(0), RATE)
    found.append(devices.unreplicate(metrics['loss']))
  leaves = jax.tree.leaves(devices.unreplicate(state.params))
  return np.array(found), np.concatenate([leaf.ravel() for leaf in leaves])


def encode() -> np.ndarray:
  """Embeddings of documents whose number no device count divides."""
  encoder, task = tiny_encoder(), make_task(101)
  return Encoder(encoder, start_params(encoder), 90).encode(
    task.documents, np.array([9])
  )


if __name__ == '__main__':
  count, out = int(sys.argv[1]), sys.argv[2]
  assert devices.count() == count
  layout()
  loss, params = train()
  np.savez(out, embeddings=encode(), loss=loss, params=params)
