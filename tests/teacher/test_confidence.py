"""What is made of p_yes, from the verdicts to the labels that are drawn."""

import contextlib
import json

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


@pytest.mark.parametrize('budget', [(), ('--teacher_budget=192',)])
def test_a_run_draws_by_p_yes_and_refuses_by_sure_noes(tiny, tmp_path, budget):
  flags = (
    *(*tiny, *budget, '--teacher=oracle', '--yes_power=0'),
    *('--oracle_recall=0.7', '--oracle_false_yes=0.1', '--train_on=run'),
    *('--p_yes_power=2', '--hard_negatives=1', '--hard_negative_below=0.1'),
  )
  succeed('main', *flags, f'--run_dir={tmp_path}')
  cycles = json.loads((tmp_path / 'summary.json').read_text())['cycles']
  for cycle in range(len(cycles)):
    found = read_arrays(tmp_path / f'cycle_{cycle:02d}' / 'pseudo_labels.npz')
    weights = found['weights']
    assert len(weights) == len(found['accepted_values'])
    assert 0.25 <= weights.min() < weights.max() <= 1
    assert 0 < len(found['rejected_values']) < cycles[cycle]['pairs']


def test_a_threshold_for_no_hard_negatives_is_an_error(tiny, tmp_path):
  result = call(
    'main', *tiny, '--hard_negative_below=0.1', f'--run_dir={tmp_path}'
  )
  assert '--hard_negative_below goes with --hard_negatives' in result.error
