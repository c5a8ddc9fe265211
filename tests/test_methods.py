"""The baselines as whole runs: what they leave, kill and resume, bad input."""

import functools
import json
import pathlib

import kill_and_resume
import numpy as np
import pytest
from run_fixtures import TINY, call, made_corpus, succeed, write_corpus
from test_processes import finish, losses, start

METHODS = {  # flags of a training that learns, and its number of cycles
  'rts': (('--epochs=6', '--min_words=4', '--max_words=8'), 1),
  'ict': (('--epochs=40',), 1),
  'simcse': (('--epochs=30', '--dropout=0.2', '--training_head'), 1),
  'maclr': (
    (
      *('--epochs=1000', '--max_steps=120', '--second_stage_steps=60'),
      *('--cluster_counts=12,24', '--cluster_growth_steps=30'),
      *('--cluster_refresh_steps=15', '--similarity=dot', '--clip_norm=1'),
      *('--projection_dim=24', '--contrast_temperature=0.5'),
    ),
    2,
  ),
}


def in_sentences(corpus: dict) -> dict:
  """The same texts, five words a sentence."""
  for rows in (corpus['trn'], corpus['tst']):
    for row in rows:
      words = row['content'].rstrip('.').split()
      parts = [words[i : i + 5] for i in range(0, len(words), 5)]
      row['content'] = ' '.join(' '.join(part) + '.' for part in parts)
  return corpus


@pytest.fixture(scope='module')
def flags(tmp_path_factory, cache) -> tuple[str, ...]:
  folder = tmp_path_factory.mktemp('sentences') / 'made'
  write_corpus(folder, in_sentences(made_corpus()))
  return (f'--data_dir={folder}', f'--data_cache={cache}', *TINY)


def run_method(flags, method, run, *more) -> dict:
  own, _ = METHODS[method]
  succeed('main', *flags, f'--method={method}', *own, f'--run_dir={run}', *more)
  return json.loads((run / 'summary.json').read_text())


@pytest.fixture(scope='module')
def finished(flags, tmp_path_factory):
  """The run directory and the summary of each method, run once."""

  @functools.cache
  def finished(method):
    run = tmp_path_factory.mktemp(method) / 'run'
    return run, run_method(flags, method, run)

  return finished


@pytest.mark.parametrize('method', METHODS)
def test_learns_and_leaves_what_a_run_leaves(flags, finished, method, tmp_path):
  run, summary = finished(method)
  _, num_cycles = METHODS[method]
  assert summary['method'] == method
  assert len(summary['cycles']) == num_cycles
  assert summary['best_cycle'] == num_cycles - 1  # the last, not the best
  assert summary['test'] == summary['cycles'][-1]['test']
  assert summary['test']['P@1'] > summary['initial']['P@1'] + 10
  per_doc = np.load(run / summary['test_documents'])
  assert per_doc['P@1'].mean() == pytest.approx(summary['test']['P@1'])
  evaluated = succeed(
    *('evaluate', f'--bundle={run / "export"}', *flags[:2]),
    f'--output={tmp_path / "scores.json"}',
  )
  assert evaluated.code == 0
  scores = json.loads((tmp_path / 'scores.json').read_text())['scores']
  assert scores['P@1'] == pytest.approx(summary['test']['P@1'], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
  # Seeds that end the two starts at different shares of their duration.
  ('method', 'seed'),
  [('rts', 5), ('ict', 14), ('simcse', 18), ('maclr', 3)],
)
def test_killed_and_resumed(flags, method, seed, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parent.parent)
  own, _ = METHODS[method]
  code = kill_and_resume.main(
    [
      *('--kills=2', f'--seed={seed}', f'--dir={tmp_path}', *flags, *own),
      *(f'--method={method}', '--checkpoint_steps=7'),
    ]
  )
  assert code == 0, capsys.readouterr().out
  assert '2 kills' in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_of_four_devices(flags, tmp_path):
  own, _ = METHODS['maclr']
  runs = tmp_path / 'one', tmp_path / 'two'
  for run, num, devices in zip(runs, (1, 2), (1, 4), strict=True):
    shared = (*flags, *own, '--method=maclr', f'--run_dir={run}')
    ended = finish(start(*shared, num=num, devices=devices))
    assert [code for code, *_ in ended] == [0] * num, ended
  one, two = map(losses, runs)
  # The first clusters are the same; later ones follow from rounded embeddings.
  np.testing.assert_allclose(one[:2], two[:2], atol=1e-4)
  assert len(one) == len(two)
  scores = [
    json.loads((run / 'summary.json').read_text())['test']['P@1']
    for run in runs
  ]
  assert scores[0] == pytest.approx(scores[1], abs=10)


def test_no_method_reads_a_label_of_a_document(flags, finished, tmp_path):
  corpus = in_sentences(made_corpus())
  rng = np.random.default_rng(0)
  for row in corpus['trn']:
    row['target_ind'] = sorted(rng.choice(24, 3, replace=False).tolist())
  other = write_corpus(tmp_path / 'other', corpus)
  others = (f'--data_dir={other}', *flags[1:])
  found = run_method(others, 'maclr', tmp_path / 'run')
  assert found['test']['R@10'] == finished('maclr')[1]['test']['R@10']


class TestBadInput:
  @pytest.mark.parametrize('method', ['maclr', 'ict'])
  def test_single_sentences(self, cache, tmp_path, method):
    corpus = made_corpus()
    folder = write_corpus(tmp_path / 'data', corpus)
    result = call(
      *('main', f'--data_dir={folder}', f'--data_cache={cache}', *TINY),
      *(f'--method={method}', f'--run_dir={tmp_path / "run"}'),
    )
    assert result.code == 1
    assert '74 ' in result.error
    assert 'fewer than two sentences' in result.error
    assert 'simcse' in result.error

  def test_no_titles(self, cache, tmp_path):
    corpus = in_sentences(made_corpus())
    for row in corpus['trn']:
      row['title'] = ''
    folder = write_corpus(tmp_path / 'data', corpus)
    result = call(
      *('main', f'--data_dir={folder}', f'--data_cache={cache}', *TINY),
      *('--method=maclr', f'--run_dir={tmp_path / "run"}'),
    )
    assert result.code == 1
    assert 'of 74 training documents 74 have no title' in result.error
    assert '--method=ict' in result.error

  @pytest.mark.parametrize(
    ('more', 'message'),
    [
      (('--method=icxml', '--teacher=oracle'), '--teacher=sglang'),
      (('--method=icxml',), '--teacher_url'),
      (('--method=rts', '--dry_run'), '--dry_run'),
      (('--method=rts', '--min_words=9', '--max_words=3'), '--min_words=9'),
      (('--method=maclr', '--cluster_counts=5,x'), '--cluster_counts=5,x'),
      (('--method=ict', '--pooling=max'), '--pooling'),
    ],
  )
  def test_flags(self, flags, tmp_path, more, message):
    result = call('main', *flags, *more, f'--run_dir={tmp_path / "run"}')
    assert result.code in (1, 2)
    assert message in result.error
