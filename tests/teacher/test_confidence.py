"""What is made of p_yes, from the verdicts to the labels that are drawn."""

import contextlib
import sqlite3

import numpy as np
import pytest
from run_fixtures import call, succeed
from teacher_fakes import fake_documents, fake_labels

from lmtx_jax.config import TeacherConfig
from lmtx_jax.files import read_arrays
from lmtx_jax.teacher.confidence import Confidence
from lmtx_jax.teacher.oracle import OracleTeacher
from lmtx_jax.teacher.teacher import pseudo_labels
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import INVALID, NO, YES, Shortlist, Verdicts

_TRAINING_P_YES = """
  SELECT p_yes FROM verdicts JOIN askers ON askers.id = asked_by
  WHERE askers.name LIKE '%cycle%'
"""
VERDICTS = Verdicts(
  np.array([YES, NO, NO, INVALID, YES], np.int8),
  np.array([0.9, 0.4, 0.01, np.nan, 0.6], np.float32),
)


def test_only_sure_noes_are_rejected():
  assert Confidence().rejected(VERDICTS).tolist() == [0, 1, 1, 0, 0]
  sure = Confidence(no_below=0.1).rejected(VERDICTS)
  assert sure.tolist() == [0, 0, 1, 0, 0]


def test_weights_are_a_power_of_p_yes_and_never_zero():
  p_yes = np.array([0.9, 0.6, 0.0], np.float32)
  assert Confidence().weights(p_yes) is None
  weights = Confidence(power=2).weights(p_yes)
  np.testing.assert_allclose(weights[:2], [0.81, 0.36], rtol=1e-6)
  assert 0 < weights[2] < 1e-9


def test_sure_answers_are_truer(tmp_path):
  """More of the drawn labels are right, and fewer of the refused ones wrong."""
  rng = np.random.default_rng(0)
  truth = rng.random((300, 40)) < 0.2
  documents = fake_documents(
    [f'document {i}' for i in range(300)], [np.flatnonzero(r) for r in truth]
  )
  labels = fake_labels([f'label {i}' for i in range(40)])
  config = TeacherConfig(
    teacher='oracle', oracle_recall=0.6, oracle_false_yes=0.1
  )
  every = np.tile(np.arange(40, dtype=np.int32), (300, 1))
  shortlist = Shortlist(every, np.zeros(every.shape, np.float32))

  def judged(confidence):
    with contextlib.closing(VerdictStore(str(tmp_path / 'store'))) as store:
      found, _ = pseudo_labels(
        store,
        OracleTeacher(config, [documents], labels),
        documents,
        labels,
        shortlist,
        'test',
        confidence=confidence,
      )
    return found

  def share(rows, weights=None):
    return np.average(truth[rows.row_ids, rows.values], weights=weights)

  plain, sure = judged(Confidence()), judged(Confidence(3, 0.02))
  assert plain.weights is None
  np.testing.assert_array_equal(plain.accepted.values, sure.accepted.values)
  assert share(sure.accepted, sure.weights) > share(plain.accepted) + 0.05
  assert 0 < share(sure.rejected) < 0.5 * share(plain.rejected)


@pytest.mark.parametrize('budget', [False, True])
def test_a_run_draws_by_p_yes_and_refuses_by_sure_noes(tiny, tmp_path, budget):
  flags = (
    *(*tiny, '--teacher=oracle', '--oracle_recall=0.7', '--num_cycles=1'),
    *('--oracle_false_yes=0.1', '--hard_negatives=1', '--train_on=run'),
    *(['--teacher_budget=192'] if budget else []),
  )

  def pseudo(*more):
    run = tmp_path / f'run{len(more)}'
    succeed('main', *flags, *more, f'--run_dir={run}')
    with contextlib.closing(sqlite3.connect(run / 'verdicts.sqlite')) as db:
      p_yes = np.array(db.execute(_TRAINING_P_YES).fetchall())[:, 0]
    return p_yes, read_arrays(run / 'cycle_00' / 'pseudo_labels.npz')

  _, plain = pseudo()
  p_yes, sure = pseudo('--p_yes_power=2', '--hard_negative_below=0.1')
  assert len(plain['rejected_values']) == (p_yes < 0.5).sum()
  assert 0 < len(sure['rejected_values']) == (p_yes < 0.1).sum()
  assert (p_yes < 0.1).sum() < (p_yes < 0.5).sum()
  # The planner's weights are multiplied.
  assert ('weights' in plain) == budget
  ratio = sure['weights'] / plain.get('weights', np.float32(1))
  by_teacher = np.float32(p_yes[p_yes > 0.5]) ** 2
  np.testing.assert_allclose(np.sort(ratio), np.sort(by_teacher), rtol=1e-5)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--hard_negative_below=0.1'], 'goes with --hard_negatives above 0'),
    (
      ['--p_yes_power=1', '--teacher=sglang', '--verdict=text'],
      'which --verdict=text has none of',
    ),
    (['--hard_negative_below=0'], 'hard_negative_below'),
    (['--p_yes_power=-1'], 'p_yes_power'),
  ],
)
def test_bad_flags_are_one_line(tiny, tmp_path, flags, message):
  result = call('main', *tiny, *flags, f'--run_dir={tmp_path}')
  assert message in result.error
