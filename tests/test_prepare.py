"""The command that prepares a dataset."""

import json

import pytest

from lmtx_jax import cli, prepare
from lmtx_jax.config import SourceConfig


@pytest.fixture
def folder(tmp_path):
  record = {'uid': 'a', 'title': 'Milk', 'content': 'white', 'target_ind': [0]}
  for name in ('trn.json', 'tst.json', 'lbl.json'):
    (tmp_path / name).write_text(json.dumps(record) + '\n')
  (tmp_path / 'filter_labels_train.txt').write_text('0 0\n')
  return tmp_path


def run(*flags):
  with pytest.raises(SystemExit) as e:
    cli.run(
      prepare.prepare,
      (SourceConfig, prepare.PrepareConfig),
      prepare.USAGE,
      ['prepare', *flags],
    )
  return e.value.code


def prepare_dataset(*flags):
  values = cli.parse(['prepare', *flags], (SourceConfig, prepare.PrepareConfig))
  prepare.prepare(values)


def test_a_named_dataset(folder, tmp_path, capsys):
  cache = f'--data_cache={tmp_path / "cache"}'
  assert run(cache, '--dataset=EURLex-4K') == 1
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert 'python -m lmtx_jax.prepare --dataset=eurlex4k' in error
  assert f'{cache} --source_dir=' in error
  prepare_dataset(cache, '--dataset=EURLex-4K', f'--source_dir={folder}')
  out = capsys.readouterr().out
  assert 'eurlex4k: 1 labels' in out
  # Its only true label is filtered.
  assert '1 training documents, 0 with true labels, 1 filtered' in out
  assert 'known with 15,511 training documents' in out
  assert str(tmp_path / 'cache') in out
  prepare_dataset(cache, '--dataset=eurlex4k')
  assert 'eurlex4k: 1 labels' in capsys.readouterr().out


def test_a_data_folder(folder, tmp_path, capsys):
  prepare_dataset(f'--data_cache={tmp_path / "c"}', f'--data_dir={folder}')
  out = capsys.readouterr().out
  assert f'--data_dir={folder}' in out
  assert 'known with' not in out


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--source_dir=x'], '--source_dir goes with --dataset'),
    (['--source_dir=x', '--data_dir=y'], '--source_dir goes with --dataset'),
    (['--source_dir=x', '--dataset=scipy_see_also'], 'takes no files'),
    (['--source_dir=/none/such', '--dataset=eurlex4k'], '/none/such: no such'),
  ],
)
def test_wrong_flags(tmp_path, capsys, flags, message):
  assert run(f'--data_cache={tmp_path}', *flags) == 1
  error = capsys.readouterr().err.strip().splitlines()
  assert message in error[-1]
  assert 'Traceback' not in '\n'.join(error)


def test_help_names_every_dataset(capsys):
  assert run('--help') == 0
  out = capsys.readouterr().out
  for name in ('scipy_see_also', 'eurlex4k', 'wiki10_31k', '--source_dir'):
    assert name in out
