"""Parts of a training on however many devices; see test_many_devices."""

import contextlib
import functools
import pathlib
import sys

import jax
import numpy as np
import optax
from plain_loss import plain_gradient
from train_fixtures import (
  make_task,
  start_params,
  tiny_encoder,
  with_texts_again,
)

from lmtx_jax import devices
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.train import losses
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train.loop import fit
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.schedule import FitConfig
from lmtx_jax.train.step import p_train_step
from lmtx_jax.train_config import TrainConfig

# Of labels of many lengths, so that they come in parts.
ENCODER, TASK = tiny_encoder(dropout=0.1), make_task(160, longest_label=12)
LOSS = losses.cycle_loss(TrainConfig(loss='triplet'))
STEPS, SAVED_AT = 10, 5
NUM_LABELS = 8  # of the extra passages
CLUSTER_LOSS = functools.partial(
  losses.cluster_contrast, temperature=0.1, num_labels=NUM_LABELS, weight=0.5
)


class FakeKilledPairs:
  """A source that fails at one step, as a killed process would."""

  def __init__(self, pairs, step):
    self._pairs, self._step = pairs, step
    self.num_steps, self.batch_size = pairs.num_steps, pairs.batch_size

  def batch(self, step):
    if step == self._step:
      raise InterruptedError
    return self._pairs.batch(step)


def make_pairs():
  return PseudoLabelPairs(
    TASK.documents,
    TASK.labels,
    TASK.accepted,
    TASK.label_key,
    batch_size=32,
    epochs=2,
    seed=(0, 3, 0),
  )


def flat(tree):
  return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def train(folder, kill_at=None):
  """All parameters after the last step; None where it is killed before."""
  with contextlib.closing(MetricWriter(str(folder))) as writer:
    try:
      params = fit(
        ENCODER,
        start_params(ENCODER),
        FakeKilledPairs(make_pairs(), kill_at),
        LOSS,
        FitConfig(5e-3, 2, 1e-6, 0.0, SAVED_AT),
        rng=jax.random.key(7),
        cycle=0,
        checkpoints_dir=str(folder / 'checkpoints'),
        writer=writer,
        desc='train',
      )
    except InterruptedError:
      return None
  return flat(params)


def gradients():
  """The plain gradient, and one in chunks of 3 rows a device."""
  batch = make_pairs().batch(0)
  assert 'passage_1_ids' in batch
  batch = with_texts_again(batch, NUM_LABELS)
  batch, params = devices.shard(batch), start_params(ENCODER)
  key, step = jax.random.key(5), np.int32(4)
  _, plain = plain_gradient(
    params,
    batch,
    jax.random.fold_in(key, step),
    bi_encoder=ENCODER,
    loss=CLUSTER_LOSS,
  )
  taken = p_train_step(ENCODER, CLUSTER_LOSS, optax.identity(), Chunk(3))
  _, grads = taken.value_and_grad(
    devices.replicate(params), batch, key, devices.replicate(step)
  )
  mean = devices.p_map(lambda x: jax.lax.pmean(x, devices.AXIS))
  return [flat(plain), flat(devices.unreplicate(mean(grads)))]


def main(count, task, folder):
  """`start` leaves gradients and a checkpoint, `resume` the parameters."""
  assert devices.count() == count
  if task == 'start':
    np.save(folder / f'gradients_{count}.npy', gradients())
    assert train(folder, SAVED_AT + 2) is None
  else:
    np.save(folder / f'params_{count}.npy', train(folder))


if __name__ == '__main__':
  main(int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
