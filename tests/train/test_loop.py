"""A training from start to end: it learns, resumes, schedules, and stops."""

import contextlib
import json

import jax
import numpy as np
import pytest
from train_fixtures import make_task, start_params, tiny_encoder

from lmtx_jax.config import TrainConfig
from lmtx_jax.encode import Encoder
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.train import losses
from lmtx_jax.train.loop import FitConfig, fit, learning_rate
from lmtx_jax.train.pairs import PseudoLabelPairs
from lmtx_jax.types import UserError

BATCH, TASK = 16, make_task(160)
CONFIG = FitConfig(
  learning_rate=5e-3,
  lr_warmup_steps=5,
  adam_eps=1e-6,
  weight_decay=0.0,
  checkpoint_steps=20,
)
ENCODER = tiny_encoder(dropout=0.1)  # so that randomness is resumed too


class Killed(Exception):
  pass


class KilledAt:
  """A source that fails at one step, as a killed process would."""

  def __init__(self, pairs, step):
    self._pairs, self._step = pairs, step
    self.num_steps, self.batch_size = pairs.num_steps, pairs.batch_size

  def batch(self, step):
    if step == self._step:
      raise Killed
    return self._pairs.batch(step)


def make_pairs(epochs=5, seed=0, task=TASK):
  return PseudoLabelPairs(
    task.documents,
    task.labels,
    task.accepted,
    task.label_key,
    batch_size=BATCH,
    epochs=epochs,
    seed=(seed, 3, 0),
  )


def train(folder, pairs, config=CONFIG, params=None, cycle=0, encoder=ENCODER):
  writer = MetricWriter(str(folder))
  with contextlib.closing(writer):
    return fit(
      encoder,
      start_params(encoder) if params is None else params,
      pairs,
      losses.cycle_loss(TrainConfig(margin=0.3)),
      config,
      rng=jax.random.key(7),
      cycle=cycle,
      checkpoints_dir=str(folder / 'checkpoints'),
      writer=writer,
      desc='train',
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


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('undisturbed')
  return folder, train(folder, make_pairs())


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_learns_what_it_was_never_shown(undisturbed):
  held_out = make_task(200, seed=1)
  before = precision_at_1(start_params(ENCODER), held_out)
  after = precision_at_1(undisturbed[1], held_out)
  assert before < 0.25
  assert after > 0.75


def test_metrics_are_whole_and_fall(undisturbed):
  found = rows(undisturbed[0])
  assert [row['step'] for row in found] == [0, 10, 20, 30, 40]
  for row in found:
    assert row['cycle'] == 0
    assert row['train/learning_rate'] == learning_rate(CONFIG, row['step'], 50)
    assert row['train/grad_norm'] > 0
  assert found[-1]['train/loss'] < found[0]['train/loss'] / 2


@pytest.mark.parametrize('step', [3, 20, 21, 38, 49])
def test_a_killed_training_goes_on_to_the_same_bits(
  step, undisturbed, tmp_path
):
  with pytest.raises(Killed):
    train(tmp_path, KilledAt(make_pairs(), step))
  redone = []

  class Watched(KilledAt):
    def batch(self, step):
      redone.append(step)
      return super().batch(step)

  params = train(tmp_path, Watched(make_pairs(), None))
  assert_same(params, undisturbed[1])
  assert [row['step'] for row in rows(tmp_path)] == [0, 10, 20, 30, 40]
  strip = lambda row: {k: v for k, v in row.items() if k != 'time_s'}  # noqa: E731
  assert list(map(strip, rows(tmp_path))) == list(
    map(strip, rows(undisturbed[0]))
  )
  # What a checkpoint holds is not done again.
  assert redone[0] == step // 20 * 20


def test_killed_twice(undisturbed, tmp_path):
  for step in (25, 45):
    with pytest.raises(Killed):
      train(tmp_path, KilledAt(make_pairs(), step))
  assert_same(train(tmp_path, make_pairs()), undisturbed[1])
  assert [row['step'] for row in rows(tmp_path)] == [0, 10, 20, 30, 40]


def test_no_cycle_compiles_again(undisturbed, tmp_path):
  del undisturbed  # has compiled what there is to compile
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if 'compile' in name else None
  )
  fewer = make_task(90, seed=2)
  pairs = make_pairs(epochs=2, seed=5, task=fewer)
  params = start_params(ENCODER)
  compiled.clear()
  train(tmp_path, pairs, params=params, cycle=1)
  assert compiled == []
  jax.jit(lambda x: x * 3 + 1)(np.ones(7))
  assert compiled  # the count counts


def test_a_loss_that_is_not_finite_stops_with_one_line(tmp_path):
  params = start_params(ENCODER)
  params['layer_0']['ffn_in']['bias'] = np.full(64, np.nan, np.float32)
  with pytest.raises(UserError, match='not finite at step 0') as e:
    train(tmp_path, make_pairs(), params=params)
  assert '\n' not in str(e.value)
  assert '--compute_dtype' in str(e.value)


def test_fewer_pairs_than_a_batch_train_nothing(tmp_path, caplog):
  params = start_params(ENCODER)
  pairs = make_pairs(task=make_task(BATCH - 1))
  assert train(tmp_path, pairs, params=params) is params
  assert 'no training' in caplog.text


def test_a_batch_that_does_not_divide_among_the_devices(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'local_device_count', lambda: 3)
  with pytest.raises(UserError, match='batch of 16 does not divide'):
    train(tmp_path, make_pairs())


def test_start_parameters_are_left_as_they_are(tmp_path):
  params = start_params(ENCODER)
  before = jax.tree.map(np.copy, params)
  train(tmp_path, make_pairs(epochs=1), params=params)
  assert_same(params, before)


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
  rates = [learning_rate(CONFIG, step, 50) for step in range(51)]
  np.testing.assert_allclose(rates[:6], np.arange(6) * 1e-3)
  np.testing.assert_allclose(rates[5:], np.linspace(5e-3, 0, 46))


@pytest.mark.parametrize('num_steps', [1, 2, 3, 5])
def test_few_steps_are_not_all_warm_up(num_steps):
  rates = [learning_rate(CONFIG, step, num_steps) for step in range(num_steps)]
  assert max(rates) == CONFIG.learning_rate
  assert learning_rate(CONFIG, num_steps, num_steps) == 0
