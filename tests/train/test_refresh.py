"""A training whose pairs follow from its own parameters, now and then."""

import signal
import zlib

import jax
from loop_fixtures import (
  FakeSignalledPairs,
  Killed,
  KilledAt,
  assert_same,
  compilations,
  make_pairs,
  preemptible,
  rows,
  saved_steps,
  train,
)
import numpy as np
import pytest

from lmtx_jax.interrupts import Preempted
from lmtx_jax.train.pair_source import Refresh

STEPS, EVERY, SAVED = 50, 15, 20
BORDERS = [0, 15, 30, 45]


class FakeClusters:
  """Pairs drawn by the parameters; the draw is kept, as a stage keeps it."""

  def __init__(self, kept, killed_at=None, signalled_at=None):
    self.kept, self.asked, self.read = kept, [], []
    self._killed_at, self._signalled_at = killed_at, signalled_at
    self.refresh = Refresh(EVERY, self._pairs)

  def _pairs(self, step, params):
    leaves = jax.tree.leaves(params)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    self.asked.append(step)
    if step not in self.kept:
      if self._signalled_at == ('border', step):
        signal.raise_signal(signal.SIGTERM)
      raw = np.concatenate([leaf.ravel() for leaf in leaves]).tobytes()
      self.kept[step] = zlib.crc32(raw)
    return self._Watched(self, step)

  class _Watched(FakeSignalledPairs):
    def __init__(self, owner, begin):
      pairs = KilledAt(make_pairs(seed=owner.kept[begin]), owner._killed_at)
      kind, step = owner._signalled_at or (None, None)
      super().__init__(pairs, step if kind == 'step' else None, signal.SIGTERM)
      self._owner, self._begin = owner, begin

    def batch(self, step):
      self._owner.read.append((self._begin, step))
      return super().batch(step)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  folder, clusters = tmp_path_factory.mktemp('undisturbed'), FakeClusters({})
  params = train(folder, make_pairs(), refresh=clusters.refresh)
  return folder, clusters, params


def check(folder, clusters, params, undisturbed):
  """It came to the same bits, by the same pairs."""
  assert_same(params, undisturbed[2])
  assert clusters.kept == undisturbed[1].kept
  strip = lambda row: {k: v for k, v in row.items() if k != 'time_s'}  # noqa: E731
  assert [*map(strip, rows(folder))] == [*map(strip, rows(undisturbed[0]))]


def test_each_segment_reads_its_own_pairs(undisturbed):
  _, clusters, _ = undisturbed
  assert clusters.asked == BORDERS
  assert clusters.read == [
    (step // EVERY * EVERY, step) for step in range(STEPS)
  ]
  assert len(set(clusters.kept.values())) == 4  # other parameters each time


def test_pairs_that_stay_the_same_train_as_without(tmp_path):
  plain, refreshed = tmp_path / 'plain', tmp_path / 'refreshed'
  refresh = Refresh(7, lambda *_: make_pairs())
  assert_same(
    train(refreshed, make_pairs(), refresh=refresh),
    train(plain, make_pairs()),
  )


@pytest.mark.parametrize('step', [3, 15, 16, 29, 30, 41, 49])
def test_a_killed_training_goes_on_to_the_same_bits(
  step, undisturbed, tmp_path
):
  kept = {}
  with pytest.raises(Killed):
    clusters = FakeClusters(kept, killed_at=step)
    train(tmp_path, make_pairs(), refresh=clusters.refresh)
  clusters = FakeClusters(kept)
  params = train(tmp_path, make_pairs(), refresh=clusters.refresh)
  check(tmp_path, clusters, params, undisturbed)
  # What a checkpoint holds is not done again; at a border there is one.
  first = max(step // SAVED * SAVED, step // EVERY * EVERY)
  assert clusters.read[0] == (first // EVERY * EVERY, first)


def test_a_signal_while_pairs_are_made_ends_it_at_once(undisturbed, tmp_path):
  kept = {}
  clusters = FakeClusters(kept, signalled_at=('border', 30))
  with preemptible(), pytest.raises(Preempted):
    train(tmp_path, make_pairs(), refresh=clusters.refresh)
  assert saved_steps(tmp_path) == [30]
  assert [*kept] == [0, 15]
  clusters = FakeClusters(kept)
  params = train(tmp_path, make_pairs(), refresh=clusters.refresh)
  assert clusters.asked == [30, 45]
  check(tmp_path, clusters, params, undisturbed)


@pytest.mark.parametrize('step', [28, 29])
def test_a_signal_before_a_border_leaves_the_pairs_for_later(
  step, undisturbed, tmp_path
):
  kept = {}
  clusters = FakeClusters(kept, signalled_at=('step', step))
  with preemptible(), pytest.raises(Preempted):
    train(tmp_path, make_pairs(), refresh=clusters.refresh)
  assert clusters.asked == [0, 15]
  (saved,) = saved_steps(tmp_path)
  assert step <= saved <= 30
  clusters = FakeClusters(kept)
  params = train(tmp_path, make_pairs(), refresh=clusters.refresh)
  check(tmp_path, clusters, params, undisturbed)


def test_nothing_compiles_at_a_border(undisturbed, tmp_path):
  del undisturbed  # has compiled what there is to compile
  with compilations() as compiled:
    train(tmp_path, make_pairs(), refresh=FakeClusters({}).refresh)
    assert compiled == []
