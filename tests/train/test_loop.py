"""A training from start to end: it learns, resumes, schedules, and stops."""

import dataclasses
import signal

import jax
from loop_fixtures import (
  BATCH,
  CONFIG,
  ENCODER,
  TASK,
  FakeSignalledPairs,
  Killed,
  KilledAt,
  assert_same,
  compilations,
  make_pairs,
  precision_at_1,
  preemptible,
  rows,
  saved_steps,
  train,
)
import numpy as np
import pytest
from train_fixtures import make_rejected, make_task, start_params

from lmtx_jax.interrupts import Preempted
from lmtx_jax.train import losses
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train.schedule import FitConfig, learning_rate
from lmtx_jax.train.stopping import Agreement
from lmtx_jax.train_config import TrainConfig
from lmtx_jax.types import Ragged, UserError


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('undisturbed')
  return folder, train(folder, make_pairs())


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


@pytest.fixture
def handlers():
  with preemptible():
    yield


@pytest.mark.parametrize(
  ('number', 'error'),
  [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_keeps_all_steps(
  number, error, handlers, undisturbed, tmp_path
):
  del handlers
  with pytest.raises(error):
    train(tmp_path, FakeSignalledPairs(make_pairs(), 24, number))
  (saved,) = saved_steps(tmp_path)
  assert 24 <= saved <= 27
  pairs = FakeSignalledPairs(make_pairs(), None, number)
  assert_same(train(tmp_path, pairs), undisturbed[1])
  assert pairs.asked[0] == saved
  assert [row['step'] for row in rows(tmp_path)] == [0, 10, 20, 30, 40]


def test_a_signal_at_the_last_step_keeps_it_too(
  handlers, undisturbed, tmp_path
):
  del handlers
  with pytest.raises(Preempted):
    train(tmp_path, FakeSignalledPairs(make_pairs(), 49, signal.SIGTERM))
  assert saved_steps(tmp_path) == [50]
  pairs = FakeSignalledPairs(make_pairs(), None, signal.SIGTERM)
  assert_same(train(tmp_path, pairs), undisturbed[1])
  assert pairs.asked == []


def test_a_signal_to_another_process_stops_this_one(
  undisturbed, tmp_path, monkeypatch
):
  """Here the answer of the devices is made up."""
  asked = []

  def stop(self, told):
    del self, told
    asked.append(True)
    return len(asked) == 7

  monkeypatch.setattr(Agreement, 'stop', stop)
  with pytest.raises(Preempted):
    train(tmp_path, make_pairs())
  monkeypatch.undo()
  assert saved_steps(tmp_path) == [7]
  assert_same(train(tmp_path, make_pairs()), undisturbed[1])


def test_all_devices_agree_one_call_later():
  agreement = Agreement()
  told = [False, False, True, False, False]
  assert [agreement.stop(t) for t in told] == [False, False, False, True, False]
  assert Agreement().stop_now(True)
  assert not Agreement().stop_now(False)


@pytest.fixture
def compiled():
  with compilations() as found:
    yield found


def test_nothing_compiles_after_the_first_pass_over_the_widths(
  compiled, tmp_path
):
  """Documents of two widths, three epochs."""
  task = make_task(8 * BATCH)
  sizes = np.where(np.arange(8 * BATCH) % 2, task.documents.sizes, 2)
  documents = dataclasses.replace(task.documents, sizes=sizes)
  pairs = make_pairs(epochs=20, task=task._replace(documents=documents))
  shapes, late = set(), []

  class Watched(KilledAt):
    def batch(self, step):
      batch = super().batch(step)
      shape = batch['query_ids'].shape
      # The step before the last one is over when this one is made.
      if step >= 18:
        late.append(len(compiled))
      shapes.add(shape)
      return batch

  train(tmp_path, Watched(pairs, None))
  assert len(shapes) == 2
  assert late[0] > 0 and late[0] == len(compiled)


def test_no_cycle_compiles_again(undisturbed, compiled, tmp_path):
  del undisturbed  # has compiled what there is to compile
  fewer = make_task(90, seed=2)
  # Yeses of earlier cycles may be among those of a later one.
  most = [np.arange(20) for _ in range(90)]
  fewer = fewer._replace(accepted=Ragged.from_rows(most))
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


@pytest.mark.parametrize(
  'error',
  [
    MemoryError,
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory, 9 GiB'),
  ],
)
def test_out_of_memory_says_which_flags_to_turn(error, tmp_path):
  with pytest.raises(UserError, match='out of memory') as e:
    train(tmp_path, KilledAt(make_pairs(), 3, error))
  for flag in ('--batch_size', '--warmup_batch_size', '--grad_cache_chunk'):
    assert flag in str(e.value)
  assert 'goes on with --grad_cache_chunk=8, or' in str(e.value)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('change', [dict(dim=64), dict(num_layers=2)])
def test_a_checkpoint_of_another_model_is_told(change, tmp_path):
  with pytest.raises(Killed):
    train(tmp_path, KilledAt(make_pairs(), 22))
  encoder = dataclasses.replace(
    ENCODER, config=dataclasses.replace(ENCODER.config, **change)
  )
  with pytest.raises(UserError, match='no checkpoint of this model') as e:
    train(tmp_path, make_pairs(), encoder=encoder)
  assert f'delete {tmp_path / "checkpoints"}' in str(e.value)
  assert '\n' not in str(e.value)


def test_a_batch_in_chunks_trains_alike(undisturbed, tmp_path):
  config = dataclasses.replace(CONFIG, chunk=Chunk(5))
  with pytest.raises(Killed):
    train(tmp_path, KilledAt(make_pairs(), 3), config)
  train(tmp_path, make_pairs(), config)
  for mine, theirs in zip(rows(tmp_path), rows(undisturbed[0]), strict=True):
    np.testing.assert_allclose(
      mine['train/loss'], theirs['train/loss'], rtol=1e-3
    )


def test_fewer_pairs_than_a_batch_train_nothing(tmp_path, caplog):
  params = start_params(ENCODER)
  pairs = make_pairs(task=make_task(BATCH - 1))
  assert train(tmp_path, pairs, params=params) is params
  assert 'no training' in caplog.text


def test_a_batch_that_does_not_divide_among_the_devices(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  with pytest.raises(UserError, match='batch of 16 does not divide'):
    train(tmp_path, make_pairs())


def test_start_parameters_are_left_as_they_are(tmp_path):
  params = start_params(ENCODER)
  before = jax.tree.map(np.copy, params)
  train(tmp_path, make_pairs(epochs=1), params=params)
  assert_same(params, before)


@pytest.mark.parametrize(
  ('options', 'loss', 'clip_norm'),
  [
    (dict(rejected=make_rejected(TASK), num_hard=2), 'decoupled_softmax', 1.0),
    (dict(clusters=np.arange(160, dtype=np.int32) % 20), 'triplet', 0.0),
  ],
)
def test_other_pairs_and_losses_learn_as_well(
  options, loss, clip_norm, tmp_path
):
  config = dataclasses.replace(CONFIG, clip_norm=clip_norm)
  loss = losses.cycle_loss(TrainConfig(loss=loss))
  params = train(tmp_path, make_pairs(**options), config, loss=loss)
  assert precision_at_1(params, make_task(200, seed=1)) > 0.75


def test_a_gradient_is_clipped_but_reported_as_it_was(tmp_path):
  """With so large an epsilon Adam's first step is its gradient."""
  start = np.concatenate(
    [leaf.ravel() for leaf in jax.tree.leaves(start_params(ENCODER))]
  )

  def step(clip_norm):
    folder = tmp_path / str(clip_norm)
    folder.mkdir()
    config = FitConfig(1e3, 0, 1e3, 0.0, 99, max_steps=1, clip_norm=clip_norm)
    params = train(folder, make_pairs(), config)
    moved = start - np.concatenate(
      [leaf.ravel() for leaf in jax.tree.leaves(params)]
    )
    return rows(folder)[0]['train/grad_norm'], moved

  norm, whole = step(0.0)
  np.testing.assert_allclose(np.linalg.norm(whole), norm, rtol=0.01)
  clipped_norm, clipped = step(norm / 4)
  assert clipped_norm == norm
  np.testing.assert_allclose(clipped, whole / 4, rtol=0, atol=norm / 1000)


def test_a_training_cut_short_ends_there(tmp_path):
  config = dataclasses.replace(CONFIG, max_steps=25)
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  pairs = FakeSignalledPairs(make_pairs(), None, None)
  params = train(whole, pairs, config)
  assert pairs.asked == list(range(25))
  for row in rows(whole):
    assert row['train/learning_rate'] == learning_rate(config, row['step'], 25)
  with pytest.raises(Killed):
    train(killed, KilledAt(make_pairs(), 22), config)
  assert_same(train(killed, make_pairs(), config), params)


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
  rates = [learning_rate(CONFIG, step, 50) for step in range(51)]
  np.testing.assert_allclose(rates[:6], np.arange(6) * 1e-3)
  np.testing.assert_allclose(rates[5:], np.linspace(5e-3, 0, 46))


@pytest.mark.parametrize('num_steps', [1, 2, 3, 5])
def test_few_steps_are_not_all_warm_up(num_steps):
  rates = [learning_rate(CONFIG, step, num_steps) for step in range(num_steps)]
  assert max(rates) == CONFIG.learning_rate
  assert learning_rate(CONFIG, num_steps, num_steps) == 0


def test_learning_rate_falls_to_another_end():
  config = dataclasses.replace(CONFIG, final_learning_rate=1e-3)
  rates = [learning_rate(config, step, 50) for step in range(51)]
  np.testing.assert_allclose(rates[5:], np.linspace(5e-3, 1e-3, 46))


@pytest.mark.parametrize(
  ('epochs', 'num_steps', 'expected'),
  [
    (5, 10, [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]),
    (1, 3, [5, 5, 5]),
    (3, 7, [5, 5, 5, 3, 3, 1, 1]),  # cut short by max_steps
  ],
)
def test_learning_rate_of_an_epoch(epochs, num_steps, expected):
  config = dataclasses.replace(
    CONFIG, final_learning_rate=1e-3, by_epoch=True, epochs=epochs
  )
  rates = [learning_rate(config, step, num_steps) for step in range(num_steps)]
  np.testing.assert_allclose(rates, np.array(expected) / 1000)
