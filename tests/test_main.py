"""Whole runs on a made corpus."""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess

import kill_and_resume
import numpy as np
import pytest
from run_fixtures import (
  NUM_LABELS,
  TINY,
  call,
  made_corpus,
  read_jsonl,
  spawn,
  succeed,
  wait_for,
  write_corpus,
  write_jsonl,
)
import safetensors.numpy

from lmtx_jax import devices, main
from lmtx_jax.config import SourceConfig, TextConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.corpus import document_texts, label_texts
from lmtx_jax.files import read_arrays
from lmtx_jax.types import Ragged

METRICS = {
  *('P@1', 'P@3', 'P@5', 'R@1', 'R@3', 'R@5', 'R@10', 'R@100'),
  *('nDCG@5', 'PSP@1', 'PSP@5'),
}


def summary_of(run):
  return json.loads((run / 'summary.json').read_text())


def train(run, flags, *more):
  succeed('main', *flags, f'--run_dir={run}', *more)
  return summary_of(run)


class TestTrained:
  """Of the run that all tests share."""

  def test_learns(self, trained):
    summary = summary_of(trained)
    assert summary['initial']['P@1'] < 70
    assert summary['test']['P@1'] > summary['initial']['P@1'] + 15
    assert summary['test']['R@10'] > summary['initial']['R@10'] + 10

  def test_later_pseudo_labels_are_more(self, trained):
    first, last = summary_of(trained)['cycles']
    assert first['quality'] < last['quality']
    assert first['precision'] == last['precision'] == 1  # it is the oracle

  def test_summary_is_complete(self, trained):
    summary = summary_of(trained)
    assert summary.keys() >= {
      *('best_cycle', 'stopped_because', 'seconds', 'cycles', 'test'),
      'initial',
    }
    assert summary['test'].keys() == summary['initial'].keys() == METRICS
    assert [row['cycle'] for row in summary['cycles']] == [0, 1]
    for row in summary['cycles']:
      assert row.keys() >= {
        *('cycle', 'dev_p@1', 'test', 'pseudo_labels', 'yes_rate', 'pairs'),
        *('asked', 'reused', 'invalid', 'seconds'),
      }
      assert row['test'].keys() == METRICS
      stages = {'encode', 'encode_labels', 'teach', 'train'}
      assert row['seconds'].keys() >= stages
      assert row['asked'] + row['reused'] + row['invalid'] == row['pairs']
      assert row['yes_rate'] == pytest.approx(
        row['pseudo_labels'] / row['pairs'], abs=1e-6
      )
    best = summary['cycles'][summary['best_cycle']]
    assert summary['test'] == best['test']
    assert best['dev_p@1'] == max(r['dev_p@1'] for r in summary['cycles'])

  def test_metrics_are_complete(self, trained):
    rows = read_jsonl(trained / 'metrics.jsonl')
    for row in rows:
      assert type(row['cycle']) is int
      assert type(row['step']) is int
      assert row['time_s'] >= 0
      rest = row.keys() - {'cycle', 'step', 'time_s'}
      assert rest
      for name in rest:
        assert re.fullmatch(r'[a-z_]+/[\w@]+', name)
        assert np.isfinite(row[name])
    names = {(row['cycle'], name) for row in rows for name in row}
    for cycle in (0, 1):
      for name in ('train/loss', 'teach/asked', 'dev/P@1', 'test/P@1'):
        assert (cycle, name) in names

  def test_files_are_where_the_contract_says(self, trained):
    for name in (
      *('flags.txt', 'summary.json', 'metrics.jsonl', 'verdicts.sqlite'),
      *('tensorboard', 'export/lmtx.json', 'cycle_00/label_embeddings.npy'),
      *('cycle_00/doc_embeddings.npy', 'cycle_00/shortlist.npz'),
      *('cycle_00/pseudo_labels.npz', 'cycle_00/params'),
      'cycle_00/dev_score.json',
    ):
      assert (trained / name).exists(), name
    assert not list(trained.rglob('.unfinished-*'))

  def test_filtered_pairs_are_never_on_a_shortlist(self, trained, data_dir):
    with np.load(trained / 'cycle_00' / 'shortlist.npz') as arrays:
      labels = arrays['labels']
    assert labels.shape == (74, 10)
    assert (labels >= 0).all()
    for row in labels:
      assert len(set(row.tolist())) == 10
    lines = (data_dir / 'filter_labels_train.txt').read_text().splitlines()
    pairs = {tuple(map(int, line.split())) for line in lines}
    with contextlib.closing(sqlite3.connect(trained / 'verdicts.sqlite')) as db:
      asked = set(db.execute('SELECT document, label FROM verdicts'))
    cache = trained.parent / 'filters'
    source = SourceConfig(data_dir=str(data_dir), data_cache=str(cache))
    data = load_dataset(source)
    docs = document_texts(data.train, TextConfig()).digests
    names = label_texts(data.labels, TextConfig()).digests
    assert pairs
    for doc, label in pairs:
      assert (docs[doc].tobytes(), names[label].tobytes()) not in asked

  def test_prints_the_table_of_cycles(self, trained, tiny):
    out = succeed('main', *tiny, '--teacher=oracle', f'--run_dir={trained}').out
    lines = out.splitlines()
    assert lines[0].split()[:2] == ['cycle', 'dev']
    assert lines[1].split()[0] == 'start'
    assert sum('*' in line for line in lines) == 1
    assert f'bundle: {trained / "export"}' in out


def test_a_shared_store_is_never_asked_again(tiny, trained, tmp_path):
  store = tmp_path / 'store.sqlite'
  shutil.copy(trained / 'verdicts.sqlite', store)
  summary = train(
    tmp_path / 'run', tiny, '--teacher=oracle', f'--verdict_store={store}'
  )
  first = summary_of(trained)
  assert [row['asked'] for row in summary['cycles']] == [0, 0]
  assert [row['dev']['asked'] for row in summary['cycles']] == [0, 0]
  assert all(row['asked'] > 0 for row in first['cycles'])
  assert summary['test'] == first['test']
  assert not (tmp_path / 'run' / 'verdicts.sqlite').exists()
  export = tmp_path / 'run' / 'export'  # a whole second run: the same bytes
  for path in export.rglob('*'):
    if path.is_file():
      same = trained / 'export' / path.relative_to(export)
      assert path.read_bytes() == same.read_bytes(), path


def odd_corpus():
  """What owners of data really have in it."""
  corpus = made_corpus(50, 10)
  corpus['trn'][0] |= {'title': '', 'content': ''}
  corpus['trn'][1] |= {'title': '', 'content': ' \n\t '}
  corpus['trn'][2] |= {'title': '', 'content': 'alone'}
  corpus['trn'][3] |= {'title': 'Ünïcödé 標題 🎈', 'content': 'ﷺ \u202e\u0000'}
  corpus['trn'][4] |= {'content': 'x' * 5000}
  corpus['trn'][5] |= {'content': 'word ' * 20_000}
  corpus['tst'][0] |= {'title': '', 'content': ''}
  corpus['tst'][1]['target_ind'] = []
  corpus['lbl'][1]['title'] = corpus['lbl'][0]['title']
  corpus['lbl'][2]['title'] = '標題 🎈'
  corpus['lbl'][3]['title'] = '?'
  for document in corpus['trn'][6:]:
    del document['target_ind']  # the setting: no annotation at all
  return corpus


def test_odd_records_and_more_asked_for_than_there_is(tmp_path, cache):
  folder = write_corpus(tmp_path / 'odd', odd_corpus())
  run = tmp_path / 'run'
  summary = train(
    run,
    (f'--data_dir={folder}', f'--data_cache={cache}', *TINY),
    '--teacher=lexical',
    '--lexical_threshold=0.2',
    '--num_cycles=1',
    '--epochs=1',
    '--max_doc_tokens=12',
    '--warmup_epochs=1',
    '--warmup_batch_size=16',
    '--warmup_min_words=4',
    '--warmup_max_words=8',
    '--shortlist_size=100',
    '--num_train_docs=1000',
    '--index=exact',
  )
  with np.load(run / 'cycle_00' / 'shortlist.npz') as arrays:
    labels = arrays['labels']
  assert labels.shape == (40, 100)
  assert ((labels >= 0).sum(axis=1) == NUM_LABELS).all()
  cycle = summary['cycles'][0]
  assert cycle['pairs'] == (40 - 2) * NUM_LABELS  # empty ones: never asked of
  assert 0 < cycle['pseudo_labels'] < cycle['pairs']
  assert summary['warmup_seconds']['train'] > 0
  write_jsonl(tmp_path / 'in.jsonl', odd_corpus()['trn'])
  succeed(
    'predict',
    f'--bundle={run / "export"}',
    f'--input={tmp_path / "in.jsonl"}',
    f'--output={tmp_path / "out.jsonl"}',
  )
  rows = read_jsonl(tmp_path / 'out.jsonl')
  assert len(rows) == 50
  counts = [len(row['labels']) for row in rows]
  assert counts == [0, 0] + [10] * 48  # two have no text


def test_titles_alone(tmp_path, cache):
  corpus = made_corpus(40, 10)
  for document in (*corpus['trn'], *corpus['tst']):
    del document['content']
  folder = write_corpus(tmp_path / 'titles', corpus)
  summary = train(
    tmp_path / 'run',
    (f'--data_dir={folder}', f'--data_cache={cache}', *TINY),
    *('--teacher=oracle', '--num_cycles=0', '--max_doc_tokens=8'),
  )
  assert summary['test']['P@1'] > 0


@pytest.mark.parametrize('start', ['warm_start', 'nowarm_start'])
def test_a_saved_encoder_goes_on(tiny, bundle, trained, tmp_path, start):
  run = tmp_path / 'run'
  flags = (*tiny, '--teacher=oracle', '--epochs=4', f'--{start}')
  summary = train(run, flags, f'--encoder={bundle}', '--warmup_epochs=0')
  assert summary['initial'] == pytest.approx(summary_of(trained)['test'])
  cycles = summary['cycles']
  assert cycles[0]['dev_p@1'] > 60
  assert summary['warmup_seconds'].keys() == {'test'}


def test_no_cycle_at_all(tiny, tmp_path):
  run = tmp_path / 'run'
  summary = train(run, (*tiny, '--teacher=oracle'), '--num_cycles=0')
  assert summary['cycles'] == []
  assert summary['best_cycle'] is None
  assert summary['test'] == summary['initial']
  assert (run / 'export' / 'model.safetensors').exists()


def test_stops_when_the_dev_score_does_not_rise(tiny, tmp_path):
  summary = train(
    tmp_path / 'run',
    (*tiny, '--teacher=oracle', '--num_cycles=5'),
    *('--learning_rate=0', '--epochs=1'),
  )
  assert [row['cycle'] for row in summary['cycles']] == [0, 1]
  assert summary['best_cycle'] == 0
  assert 'did not rise' in summary['stopped_because']
  assert summary['test'] == summary['initial']


def test_a_tolerance_goes_on_and_keeps_the_last(tiny, tmp_path):
  """What does not rise does not fall either, and each cycle learns of all."""
  run = tmp_path / 'run'
  summary = train(
    run,
    (*tiny, '--teacher=oracle', '--num_cycles=3', '--train_on=run'),
    *('--learning_rate=0', '--epochs=1', '--dev_tolerance=1'),
  )
  assert [row['cycle'] for row in summary['cycles']] == [0, 1, 2]
  assert summary['best_cycle'] == 2
  assert summary['stopped_because'] == 'all cycles done'


def test_the_yeses_of_the_whole_run(tiny, tmp_path):
  run = tmp_path / 'run'
  train(
    run,
    (*tiny, '--teacher=oracle', '--train_on=run', '--dev_tolerance=9'),
    *('--oracle_false_yes=0.5', '--shortlist_size=3', '--epochs=2'),
  )
  accepted, shown = [], []
  for cycle in range(2):
    arrays = read_arrays(run / f'cycle_{cycle:02d}' / 'pseudo_labels.npz')
    rows = Ragged(arrays['accepted_values'], arrays['accepted_offsets'])
    accepted.append({(d, n) for d, row in enumerate(rows) for n in row})
    labels = read_arrays(run / f'cycle_{cycle:02d}' / 'shortlist.npz')['labels']
    shown.append({(d, n) for d, row in enumerate(labels) for n in row})
  assert accepted[0] <= accepted[1] and accepted[0] - shown[1]
  with sqlite3.connect(run / 'verdicts.sqlite') as db:
    (num_yes,) = db.execute(
      'SELECT count(*) FROM verdicts v JOIN askers a ON v.asked_by = a.id'
      " WHERE v.answer = 1 AND a.name LIKE '%cycle%'"
    ).fetchone()
  assert len(accepted[1]) >= num_yes > len(accepted[0])


def test_an_encoder_without_normalisation_scores_by_cosine(
  tiny, bundle, tmp_path
):
  encoder = tmp_path / 'encoder'
  shutil.copytree(bundle, encoder)
  modules = json.loads((encoder / 'modules.json').read_text())
  modules = [m for m in modules if 'Normalize' not in m['type']]
  (encoder / 'modules.json').write_text(json.dumps(modules))
  run = tmp_path / 'run'
  train(
    run,
    (*tiny, '--teacher=oracle'),
    *(f'--encoder={encoder}', '--warmup_epochs=0', '--num_cycles=0'),
  )
  embeddings = np.load(run / 'export' / 'label_embeddings.npy')
  np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_another_encoder_in_the_middle_of_a_run(tiny, bundle, tmp_path):
  encoder = tmp_path / 'encoder'
  shutil.copytree(bundle, encoder)
  flags = (
    *(*tiny, '--teacher=oracle', '--num_cycles=0', '--warmup_epochs=0'),
    *(f'--encoder={encoder}', f'--run_dir={tmp_path / "run"}'),
  )
  succeed('main', *flags)
  weights = safetensors.numpy.load_file(encoder / 'model.safetensors')
  name = min(weights)
  weights[name] = weights[name] + 1
  safetensors.numpy.save_file(weights, encoder / 'model.safetensors')
  assert 'another encoder' in call('main', *flags).error


def test_fewer_documents_than_a_batch_are_trained_on(tiny, tmp_path):
  run = tmp_path / 'run'
  train(
    run,
    (*tiny, '--teacher=oracle', '--num_cycles=1', '--num_train_docs=9'),
    *('--warmup_epochs=1', '--warmup_batch_size=4096', '--batch_size=512'),
  )
  trained = {
    row['cycle']
    for row in read_jsonl(run / 'metrics.jsonl')
    if 'train/loss' in row
  }
  assert trained == {-1, 0}


def test_a_filtered_label_is_never_truth(tmp_path, cache):
  corpus = made_corpus(20, 4)
  folder = write_corpus(tmp_path / 'data', corpus)
  first = corpus['tst'][0]['target_ind'][0]
  (folder / 'filter_labels_test.txt').write_text(f'0 {first}\n')
  dataset = load_dataset(SourceConfig(data_dir=str(folder), data_cache=cache))
  assert dataset.test.filters[0].tolist() == [first]
  assert dataset.test.targets[0].tolist() == corpus['tst'][0]['target_ind'][1:]
  assert dataset.test.targets[1].tolist() == corpus['tst'][1]['target_ind']


class TestRefused:
  """What is wrong is said in one line, before any work."""

  @pytest.fixture
  def flags(self, tiny, tmp_path):
    return (*tiny, '--teacher=oracle', f'--run_dir={tmp_path / "run"}')

  def test_a_teacher_that_accepts_nothing(self, flags):
    error = call(
      'main', *flags, '--oracle_recall=0', '--oracle_false_yes=0'
    ).error
    assert 'accepted none' in error and '--teacher' in error

  def test_documents_without_a_text(self, flags, tmp_path):
    corpus = made_corpus(12, 4)
    for row in corpus['trn']:
      row['title'], row['content'] = row['content'], ''
    folder = write_corpus(tmp_path / 'data', corpus)
    error = call(
      'main', *flags, f'--data_dir={folder}', '--noencode_title'
    ).error
    assert '--encode_title' in error

  @pytest.mark.parametrize(
    ('more', 'code', 'message'),
    [
      (['--num_cycels=3'], 2, "'num_cycels'"),
      (['3'], 2, "'3' is not a flag"),
      (['--num_cycles=-1'], 2, '--num_cycles=-1'),
      (['--shortlist_size=0'], 2, '--shortlist_size=0'),
      (['--num_dev_docs=many'], 2, '--num_dev_docs=many'),
      (['--teacher=gpt'], 2, '--teacher=gpt'),
      (['--oracle_recall=1.5'], 2, '--oracle_recall=1.5'),
      (['--seed=4294967296'], 2, '--seed=4294967296'),
      (['--flagfile=/none/such'], 2, '/none/such'),
      (['--data_dir='], 1, 'neither --dataset nor --data_dir'),
      (['--dataset=eurlex4k'], 1, 'are both set'),
      (['--data_dir=', '--dataset=eurlex'], 1, '--dataset=eurlex: unknown'),
      (['--data_dir=', '--dataset=eurlex4k'], 1, 'is not prepared'),
      (['--data_dir=/none/such'], 1, '--data_dir=/none/such'),
      (['--encoder=/none/such'], 1, '--encoder=/none/such'),
      (['--encoder='], 1, '--encoder='),
      (['--teacher=sglang'], 1, '--teacher=sglang'),
      (['--scratch_heads=5'], 1, '--scratch_heads=5'),
      (
        ['--warmup_epochs=1', '--warmup_min_words=9', '--warmup_max_words=8'],
        1,
        '--warmup_min_words=9',
      ),
      (['--verdict_store=/none/such'], 1, '/none/such'),
      (['--run_dir=/proc/run'], 1, '--run_dir=/proc/run'),
      (['--learning_rate=1e30'], 1, 'not finite'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
  )
  def test_flags(self, flags, more, code, message):
    result = call('main', *flags, *more)
    assert result.code == code
    assert message in result.error

  def test_run_dir_below_a_file(self, flags, data_dir):
    path = data_dir / 'trn.json' / 'run'
    result = call('main', *flags, f'--run_dir={path}')
    assert result.code == 1
    assert f'--run_dir={path} cannot be written to' in result.error

  def test_store_that_is_no_database(self, flags, data_dir):
    path = data_dir / 'trn.json'
    result = call('main', *flags, f'--verdict_store={path}')
    assert result.code == 1
    assert str(path) in result.error

  @pytest.mark.parametrize(
    ('line', 'message'),
    [
      ('{"uid": "x"', 'not JSON'),
      ('{"title": "x"}', 'lacks uid'),
      ('{"uid": "train-0"}', 'duplicate uid'),
      ('{"uid": "x", "target_ind": [24]}', 'out of range'),
    ],
  )
  def test_line_of_data(self, flags, tmp_path, line, message):
    folder = write_corpus(tmp_path / 'bad', made_corpus(4, 2))
    with open(folder / 'trn.json', 'a', encoding='utf-8') as f:
      f.write(line + '\n')
    result = call('main', *flags, f'--data_dir={folder}')
    assert result.code == 1
    assert f'{folder / "trn.json"}:5: ' in result.error
    assert message in result.error

  @pytest.mark.parametrize('name', ['trn.json', 'tst.json', 'lbl.json'])
  def test_file_of_data(self, flags, tmp_path, name):
    folder = write_corpus(tmp_path / 'bad', made_corpus(4, 2))
    (folder / name).write_text('')
    result = call('main', *flags, f'--data_dir={folder}')
    assert f'{folder / name}: is empty' in result.error
    (folder / name).unlink()
    result = call('main', *flags, f'--data_dir={folder}')
    assert f'{folder / name}: no such file' in result.error

  def test_encoder(self, flags, bundle, tmp_path):
    folder = tmp_path / 'encoder'
    shutil.copytree(bundle, folder)
    config = json.loads((folder / 'config.json').read_text())
    flags = (*flags, f'--encoder={folder}')
    result = call('main', *flags, '--max_label_tokens=100')
    assert '--max_label_tokens=100 is more than the 24 pos' in result.error
    (folder / 'config.json').write_text(json.dumps(config | {'dim': 64}))
    result = call('main', *flags)
    assert f'{folder / "model.safetensors"}: tensor ' in result.error
    assert '(64,)' in result.error
    (folder / 'config.json').write_text('{')
    assert str(folder / 'config.json') in call('main', *flags).error
    (folder / 'config.json').write_text(json.dumps(config))
    os.truncate(folder / 'model.safetensors', 100)
    assert str(folder / 'model.safetensors') in call('main', *flags).error
    (folder / 'model.safetensors').unlink()
    result = call('main', *flags)
    assert result.code == 1
    assert 'there is no model.safetensors' in result.error

  def test_run_of_other_flags(self, tiny, trained):
    flags = (*tiny, '--teacher=oracle', f'--run_dir={trained}')
    result = call('main', *flags, '--epochs=3', '--seed=5')
    assert result.code == 1
    assert '--epochs=3 (was 8)' in result.error
    assert '--seed=5 (was 0)' in result.error
    assert '--margin' not in result.error

  def test_run_with_a_flag_that_is_no_more(self, tiny, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / 'run')
    with open(run / 'flags.txt', 'a') as f:
      f.write('--yes_power=1.0\n')
    result = call('main', *tiny, '--teacher=oracle', f'--run_dir={run}')
    assert result.code == 1
    assert 'no --yes_power (was 1.0)' in result.error

  def test_run_on_other_data(self, tiny, trained, tmp_path):
    folder = write_corpus(tmp_path / 'changed', made_corpus(89))
    flags = (*tiny, '--teacher=oracle', f'--run_dir={trained}')
    result = call('main', *flags, f'--data_dir={folder}')
    assert result.code == 1
    assert 'is a run on other data (made), not on changed' in result.error

  def test_the_same_data_elsewhere_is_no_other_data(
    self, tiny, trained, data_dir, tmp_path
  ):
    shutil.copytree(data_dir, tmp_path / 'moved')
    flags = (*tiny, '--teacher=oracle', f'--run_dir={trained}')
    succeed('main', *flags, f'--data_dir={tmp_path / "moved"}')


def test_full_disk(tiny, tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(disk)]
  if (
    not shutil.which('mount')
    or subprocess.run(mount, capture_output=True, check=False).returncode
  ):
    pytest.skip('no permission to mount')
  flags = (*tiny, '--teacher=oracle', '--num_cycles=1', '--scratch_dim=64')
  try:
    result = call('main', *flags, f'--run_dir={disk / "run"}')
    assert result.code == 1
    assert re.search('[Nn]o space left|disk.*full', result.error)
  finally:
    subprocess.run(['umount', '--lazy', str(disk)], check=True)


def test_interrupted_it_says_how_to_go_on(tiny, tmp_path):
  run = tmp_path / 'run'
  flags = (*tiny, '--teacher=oracle', f'--run_dir={run}', '--epochs=120')
  # A shell's background jobs, and so their children, ignore SIGINT.
  listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
  process = spawn('main', *flags, preexec_fn=listen)
  wait_for(process, lambda: list(run.glob('cycle_00/checkpoints/[0-9]*')))
  busy = call('main', *flags)
  assert busy.code == 1
  assert busy.error == f'error: --run_dir={run} is in use by another process'
  process.send_signal(signal.SIGINT)
  err = process.communicate(timeout=60)[1]
  assert process.returncode == 130
  assert 'Traceback' not in err
  last = err.splitlines()[-1]
  assert last.startswith('error: interrupted')
  command = last[last.index('python -m lmtx_jax.main ') :]
  assert command == f'python -m lmtx_jax.main {" ".join(flags)}'
  succeed('main', *flags)
  steps = [
    row['step']
    for row in read_jsonl(run / 'metrics.jsonl')
    if row['cycle'] == 0 and 'train/loss' in row
  ]
  assert steps == sorted(set(steps))  # gone on with, none done twice


@pytest.mark.slow
def test_killed_and_resumed(tiny, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parent.parent)
  flags = (*tiny, '--teacher=oracle', '--checkpoint_steps=5')
  code = kill_and_resume.main(
    ['--kills=2', '--seed=1', f'--dir={tmp_path}', *flags]
  )
  assert code == 0, capsys.readouterr().out
  assert '2 kills' in capsys.readouterr().out


def test_a_batch_that_cannot_be_split_fails_first(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(devices, 'total', lambda: 3)
  monkeypatch.setattr(main, 'load_dataset', lambda source: pytest.fail('late'))
  run = tmp_path / 'run'
  flags = (*tiny, '--teacher=oracle', '--batch_size=16')
  result = call('main', *flags, f'--run_dir={run}')
  assert result.code == 1
  assert '--batch_size=16 cannot be split over 3 devices' in result.error
  assert not run.exists()
