"""A stage is done once; whatever is missing is made again, the same."""

import json
import os
import shutil

import pytest
from run_fixtures import succeed


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture
def copy(trained, tmp_path):
  shutil.copytree(trained, tmp_path / 'run')
  return tmp_path / 'run'


@pytest.mark.parametrize(
  'missing',
  [
    ['export', 'summary.json'],
    ['cycle_00/shortlist.npz', 'cycle_00/doc_embeddings.npy'],
    ['cycle_00/label_embeddings.npy', 'cycle_00/shortlist.npz'],
    ['cycle_00/pseudo_labels.npz', 'cycle_00/teaching.json'],
    ['cycle_00/params', 'cycle_01', 'cycle_02', 'export'],
    ['cycle_01/dev_score.json', 'cycle_02/label_embeddings.npy', 'export'],
    ['cycle_01/test_scores.json', 'cycle_02', 'export'],
  ],
  ids=lambda missing: missing[0],
)
def test_what_is_missing_is_made_again(tiny, trained, copy, missing):
  for name in missing:
    if (copy / name).is_dir():
      shutil.rmtree(copy / name)
    else:
      os.remove(copy / name)
  succeed('main', *tiny, '--teacher=oracle', f'--run_dir={copy}')
  assert contents(copy / 'export') == contents(trained / 'export')
  for name in missing:
    assert (copy / name).exists()
  for path in copy.glob('cycle_*/*.np*'):
    same = trained / path.relative_to(copy)
    assert path.read_bytes() == same.read_bytes(), path


def test_nothing_is_done_twice(tiny, trained, copy):
  before = {
    path: path.stat().st_mtime_ns
    for path in copy.rglob('*')
    if path.is_file() and 'cycle' in str(path) and path.name != 'seconds.json'
  }
  metrics = (copy / 'metrics.jsonl').read_text()
  result = succeed('main', *tiny, '--teacher=oracle', f'--run_dir={copy}')
  assert 'step' not in result.err  # no bar of a training
  assert {p: p.stat().st_mtime_ns for p in before} == before
  assert (copy / 'metrics.jsonl').read_text() == metrics
  assert json.loads((copy / 'summary.json').read_text()) == json.loads(
    (trained / 'summary.json').read_text()
  )


def test_no_checkpoint_outlives_its_training(trained):
  assert not list(trained.glob('*/checkpoints'))
