"""Runs within a budget, as a user starts them."""

import json
import random
import sqlite3

import numpy as np
import pytest
from run_fixtures import (
  NUM_LABELS,
  call,
  made_corpus,
  read_jsonl,
  succeed,
  write_corpus,
)

from lmtx_jax import main
from lmtx_jax.files import read_arrays
from lmtx_jax.types import NO, YES

CYCLES, DEV = 2, 16  # of the small run's flags
BUDGET = 160 + CYCLES * DEV
PLANNED = (
  *('--teacher=oracle', '--shortlist=hybrid', f'--teacher_budget={BUDGET}'),
  *('--plan_candidates=8', '--neighbours=4', '--plan_rounds=3'),
)
# All that gets more from a question.
PLUS = (
  *PLANNED,
  *('--lexical_weight=0.5', '--label_prior=0.05', '--neighbour_weight=0.4'),
)


def judged(run, cycle):
  return read_arrays(run / f'cycle_{cycle:02d}' / 'judged.npz')


@pytest.fixture(scope='module')
def planned(tmp_path_factory, tiny):
  run = tmp_path_factory.mktemp('runs') / 'planned'
  succeed('main', *tiny, *PLANNED, f'--run_dir={run}')
  return run


def test_asks_within_the_budget_and_learns_of_all_cycles(planned):
  summary = json.loads((planned / 'summary.json').read_text())
  pairs, so_far, num_yes = set(), 0, 0
  for cycle, row in enumerate(summary['cycles']):
    found = judged(planned, cycle)
    pairs |= set(zip(found['docs'], found['labels'], strict=True))
    so_far += len(found['docs'])
    assert so_far == len(pairs) == 160 * (cycle + 1) // CYCLES
    assert row['pairs'] == row['asked'] == len(found['docs'])
    num_yes += (found['answers'] == YES).sum()
    assert row['pseudo_labels'] == num_yes
  with sqlite3.connect(planned / 'verdicts.sqlite') as db:
    (count,) = db.execute('SELECT count(*) FROM verdicts').fetchone()
  assert count <= BUDGET
  assert summary['test']['P@1'] > summary['initial']['P@1']


def test_killed_between_rounds(planned, tiny, tmp_path, monkeypatch):
  """The same command goes on, and asks nothing again."""
  run = tmp_path / 'run'
  real, calls = main.JointStore.judge, []

  def judge(store, *args):
    calls.append(len(args))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return real(store, *args)

  monkeypatch.setattr(main.JointStore, 'judge', judge)
  flags = (*tiny, *PLANNED, f'--run_dir={run}')
  assert call('main', *flags).code
  monkeypatch.undo()
  succeed('main', *flags)
  for cycle in range(CYCLES):
    for name, array in judged(planned, cycle).items():
      np.testing.assert_array_equal(judged(run, cycle)[name], array)
  summaries = [
    json.loads((x / 'summary.json').read_text()) for x in (planned, run)
  ]
  for before, after in zip(*(s['cycles'] for s in summaries), strict=True):
    assert before['asked'] == after['asked'] and before['test'] == after['test']


def test_no_true_label_is_read(planned, tiny, tmp_path, monkeypatch):
  """Random target_ind change nothing for a teacher that knows better."""
  teachers, make = [], main.make_teacher

  def make_and_keep(*args):
    teachers.append(make(*args))
    return teachers[0]

  monkeypatch.setattr(main, 'make_teacher', make_and_keep)
  corpus, rng = made_corpus(), random.Random(1)
  runs = []
  for name in ('true', 'random'):
    folder = write_corpus(tmp_path / name, corpus)
    runs.append(tmp_path / f'run_{name}')
    flags = (*tiny, *PLUS, f'--data_dir={folder}')
    succeed('main', *flags, f'--run_dir={runs[-1]}')
    for document in corpus['trn']:
      document['target_ind'] = rng.sample(range(NUM_LABELS), 2)
  assert len(teachers) == 2
  for cycle in range(CYCLES):
    first, second = (judged(run, cycle) for run in runs)
    for name, array in first.items():
      np.testing.assert_array_equal(second[name], array)
  # Propensities are those of the training set, whoever computes PSP.
  scores = [
    (
      row['dev_p@1'],
      row['pseudo_labels'],
      {k: v for k, v in row['test'].items() if not k.startswith('PSP')},
    )
    for run in runs
    for row in json.loads((run / 'summary.json').read_text())['cycles']
  ]
  assert scores[:CYCLES] == scores[CYCLES:]


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--teacher_budget=20'], ['--teacher_budget=20', '32', '--num_dev_docs']),
    (['--teacher_budget=100000'], ['--teacher_budget=100000', 'more than all']),
    (['--teacher_budget=-1'], ['--teacher_budget=-1']),
    (['--shortlist=fuzzy'], ['--shortlist']),
    (['--method=rts'], ['--teacher_budget', '--method=lmtx']),
    (['--similarity=dot'], ['--similarity=cosine', '--neighbours=0']),
  ],
)
def test_a_mistake_is_one_line(tiny, tmp_path, flags, said):
  result = call('main', *tiny, *PLANNED, *flags, f'--run_dir={tmp_path}/run')
  assert result.code in (1, 2)
  for part in said:
    assert part in result.error
  assert not list((tmp_path / 'run').glob('cycle_*'))


def test_without_neighbours_any_similarity_will_do(tiny, tmp_path):
  flags = (*tiny, *PLANNED, '--neighbours=0', '--similarity=dot')
  found = call('main', *flags, f'--run_dir={tmp_path}/run', '--dry_run')
  assert found.code == 0


@pytest.mark.parametrize('kind', ['lexical', 'hybrid'])
def test_shortlists_without_a_budget(tiny, tmp_path, trained, kind):
  run = tmp_path / 'run'
  flags = ('--teacher=oracle', f'--shortlist={kind}', '--num_cycles=1')
  succeed('main', *tiny, *flags, f'--run_dir={run}')
  found = read_arrays(run / 'cycle_00' / 'shortlist.npz')
  dense = read_arrays(trained / 'cycle_00' / 'shortlist.npz')
  assert found['labels'].shape == dense['labels'].shape
  assert (found['labels'] != dense['labels']).any()
  summaries = [
    json.loads((x / 'summary.json').read_text())['cycles'][0]
    for x in (run, trained)
  ]
  assert summaries[0]['quality'] > summaries[1]['quality']


def test_metrics_tell_the_rounds(planned):
  rows = read_jsonl(planned / 'metrics.jsonl')
  assert any('teach/asked' in row for row in rows)


def test_dry_run_tells_the_budget(tiny, tmp_path):
  flags = (*tiny, *PLANNED, f'--run_dir={tmp_path}/run', '--dry_run')
  out = succeed('main', *flags).out
  first, total = (
    next(line for line in out.splitlines() if line.startswith(name)).split()
    for name in ('first cycle', '2 cycles')
  )
  assert first[2] == first[4] == str(160 // CYCLES)
  assert total[-4] == str(BUDGET) or str(BUDGET) in total


@pytest.mark.parametrize('flags', [('--teacher=oracle',), PLANNED])
def test_hard_negatives_are_all_noes_of_the_run(tiny, tmp_path, flags):
  more = ('--hard_negatives=1', '--train_on=run', '--oracle_recall=0.7')
  succeed('main', *tiny, *flags, *more, f'--run_dir={tmp_path / "run"}')
  found = read_arrays(tmp_path / 'run' / 'cycle_01' / 'pseudo_labels.npz')
  with sqlite3.connect(tmp_path / 'run' / 'verdicts.sqlite') as db:
    count = dict(
      db.execute(
        'SELECT answer, COUNT(*) FROM verdicts JOIN askers'
        " ON askers.id = asked_by WHERE askers.name LIKE '%cycle%'"
        ' GROUP BY answer'
      )
    )
  assert len(found['rejected_values']) == count[NO] > 50
  assert len(found['accepted_values']) == count[YES] > 50
