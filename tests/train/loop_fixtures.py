"""Trainings of a tiny encoder, killed or not, for tests of the loop."""

import contextlib
import json
import signal

import jax
import numpy as np
from train_fixtures import make_task, start_params, tiny_encoder

from lmtx_jax.encode import Encoder
from lmtx_jax.interrupts import raise_when_preempted
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.train import losses
from lmtx_jax.train.loop import fit
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.schedule import FitConfig
from lmtx_jax.train_config import TrainConfig

BATCH, TASK = 16, make_task(160)
CONFIG = FitConfig(
  learning_rate=5e-3,
  lr_warmup_steps=5,
  adam_eps=1e-6,
  weight_decay=0.0,
  checkpoint_steps=20,
)
LOSS = losses.cycle_loss(TrainConfig(margin=0.3))
ENCODER = tiny_encoder(dropout=0.1)  # so that randomness is resumed too


class Killed(Exception):
  pass


class KilledAt:
  """A source that fails at one step, as a killed process would."""

  def __init__(self, pairs, step, error=Killed):
    self._pairs, self._step, self._error = pairs, step, error
    self.num_steps, self.batch_size = pairs.num_steps, pairs.batch_size

  def batch(self, step):
    if step == self._step:
      raise self._error
    return self._pairs.batch(step)


class FakeSignalledPairs(KilledAt):
  """A source at one step of which a signal comes."""

  def __init__(self, pairs, step, number):
    super().__init__(pairs, None)
    self._when, self._number, self.asked = step, number, []

  def batch(self, step):
    self.asked.append(step)
    if step == self._when:
      signal.raise_signal(self._number)
    return super().batch(step)


def make_pairs(epochs=5, seed=0, task=TASK, **kwargs):
  return PseudoLabelPairs(
    task.documents,
    task.labels,
    task.accepted,
    task.label_key,
    batch_size=BATCH,
    epochs=epochs,
    seed=(seed, 3, 0),
    trainings=2,
    most_accepted=20,
    **kwargs,
  )


def train(
  folder,
  pairs,
  config=CONFIG,
  params=None,
  cycle=0,
  encoder=ENCODER,
  loss=LOSS,
  refresh=None,
):
  writer = MetricWriter(str(folder))
  with contextlib.closing(writer):
    return fit(
      encoder,
      start_params(encoder) if params is None else params,
      pairs,
      loss,
      config,
      rng=jax.random.key(7),
      cycle=cycle,
      checkpoints_dir=str(folder / 'checkpoints'),
      writer=writer,
      desc='train',
      refresh=refresh,
    )


def rows(folder):
  return [json.loads(x) for x in (folder / 'metrics.jsonl').open()]


def precision_at_1(params, task):
  encoder = Encoder(ENCODER, params, 2048)
  doc = encoder.encode(task.documents, np.array([9]))
  label = encoder.encode(task.labels, np.array([4]))
  top = task.label_key[(doc @ label.T).argmax(axis=1)]
  return np.mean(
    [
      t in task.label_key[accepted]
      for t, accepted in zip(top, task.accepted, strict=True)
    ]
  )


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def preemptible():
  """As main has it: SIGTERM raises Preempted."""
  old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  raise_when_preempted()
  try:
    yield
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def saved_steps(folder):
  return [int(p.name) for p in (folder / 'checkpoints').iterdir()]


@contextlib.contextmanager
def compilations():
  """Names of what is compiled from now on."""
  found = []
  listener = lambda name, *_, **__: (  # noqa: E731
    found.append(name) if 'compile' in name else None
  )
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)
