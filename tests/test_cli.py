"""Flags are made of configs, and commands fail in one line."""

import dataclasses
import errno
import re

import numpy as np
import pytest
from run_fixtures import spawn

from lmtx_jax import cli, compare, evaluate, main, predict, prepare
from lmtx_jax.config import TRAINING, SourceConfig
from lmtx_jax.types import UserError

COMMANDS = {
  'main': (main.__doc__, TRAINING),
  'prepare': (prepare.USAGE, (SourceConfig, prepare.PrepareConfig)),
  'predict': (predict.__doc__, (predict.PredictConfig,)),
  'compare': (compare.__doc__, (compare.CompareConfig,)),
  'evaluate': (evaluate.__doc__, (evaluate.EvaluateConfig, SourceConfig)),
}


@dataclasses.dataclass(frozen=True)
class Some:
  """Some flags."""

  number: int = cli.flag(3, 'A number.', low=1, high=9)
  rate: float = cli.flag(0.5, 'A rate.', low=0.0)
  switch: bool = cli.flag(True, 'A switch.')
  kind: str = cli.flag('a', 'A kind.', choices=('a', 'b'))
  word: str = cli.flag('', 'A word.')


def parse(*argv):
  return cli.build(Some, cli.parse(['x', *argv], (Some,)))


def fail(command, capsys):
  """Exit code and stderr of a command that does not return."""
  with pytest.raises(SystemExit) as e:
    cli.run(command, (Some,), 'Usage.', ['x', '--word=two words'])
  return e.value.code, capsys.readouterr().err


def test_defaults():
  assert parse() == Some()


def test_values():
  assert parse(
    *('--number=4', '--rate=1e-3', '--noswitch', '--kind=b', '--word', 'w')
  ) == Some(4, 1e-3, False, 'b', 'w')


def test_the_last_one_wins():
  assert parse('--number=4', '--number=5').number == 5
  assert parse('--word=a', '--word=').word == ''


def test_flagfile(tmp_path):
  inner, outer = tmp_path / 'inner.flags', tmp_path / 'outer.flags'
  inner.write_text('# why\n--number=4\n--word=a b\n')
  outer.write_text(f'--flagfile={inner}\n--rate=2\n')
  config = parse(f'--flagfile={outer}', '--rate=3')
  assert config == Some(4, 3.0, word='a b')


@pytest.mark.parametrize(
  'argv',
  [
    ['--number=0'],
    ['--number=10'],
    ['--number=1.5'],
    ['--number='],
    ['--rate=-1'],
    ['--rate=fast'],
    ['--switch=maybe'],
    ['--kind=c'],
    ['--nunber=3'],
    ['--word'],
    ['word'],
    ['--flagfile=/none/such'],
  ],
  ids=str,
)
def test_bad_flags(argv):
  with pytest.raises(UserError) as e:
    parse(*argv)
  message = str(e.value)
  assert '\n' not in message
  assert argv[0].partition('=')[0].lstrip('-') in message


def test_flagfile_that_is_no_text(tmp_path):
  (tmp_path / 'x').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(UserError, match='flagfile is not UTF-8'):
    parse(f'--flagfile={tmp_path / "x"}')


class TestRun:
  def test_user_error(self, capsys):
    def command(values):
      raise UserError('x.json:3: wrong')

    assert fail(command, capsys) == (1, 'error: x.json:3: wrong\n')

  def test_full_disk(self, capsys):
    def command(values):
      raise OSError(errno.ENOSPC, 'No space left on device', '/a/b')

    code, err = fail(command, capsys)
    assert code == 1
    assert err.startswith('error: No space left on device: /a/b (free some')
    assert err.count('\n') == 1

  def test_interrupted(self, capsys):
    def command(values):
      raise KeyboardInterrupt

    code, err = fail(command, capsys)
    assert code == 130
    assert "'--word=two words'" in err  # can be pasted into a shell
    assert err.count('\n') == 1

  def test_no_memory_left_is_one_line(self, capsys):
    def command(values):
      np.empty(2**60, np.uint8)

    code, err = fail(command, capsys)
    assert code == 1
    assert err.startswith('error: out of memory: Unable to allocate 1.00 EiB')
    assert err.count('\n') == 1

  def test_a_bug_is_not_hidden(self):
    def command(values):
      raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
      cli.run(command, (Some,), 'Usage.', ['x'])

  def test_success(self):
    seen = []
    cli.run(seen.append, (Some,), 'Usage.', ['x', '--number=7'])
    assert seen[0]['number'].value == 7


@pytest.mark.parametrize('name', COMMANDS)
def test_help_tells_of_every_flag_once(name, capsys):
  usage, classes = COMMANDS[name]
  with pytest.raises(SystemExit) as e:
    cli.run(pytest.fail, classes, usage, [name, '--help'])
  assert e.value.code == 0
  out = capsys.readouterr().out
  assert f'python -m lmtx_jax.{name} ' in out
  told = re.findall(r'^  --(\w+) \(', out, re.MULTILINE)
  fields = [f.name for c in classes for f in dataclasses.fields(c)]
  assert told == fields
  assert len(set(told)) == len(told)
  for config in classes:
    assert f'\n{config.__doc__.splitlines()[0]}\n' in out  # its group
    for field in dataclasses.fields(config):
      assert field.metadata['help'].endswith('.'), field.name
  flags = out.partition('--flagfile=FILE')[2]
  assert max(map(len, flags.splitlines())) <= 80


@pytest.mark.parametrize('name', ['main', 'predict'])
def test_help_of_the_real_command(name):
  out, err = spawn(name, '--help').communicate(timeout=120)
  assert f'python -m lmtx_jax.{name} ' in out
  assert err == ''


def test_no_noise_of_libraries(tmp_path, data_dir, cache):
  process = spawn(
    *('predict', '--bundle=/none', f'--input={data_dir / "tst.json"}'),
    *(f'--output={tmp_path / "x"}', f'--data_cache={cache}'),
  )
  out, err = process.communicate(timeout=120)
  assert process.returncode == 1
  assert out == ''
  assert err == 'error: --bundle=/none: there is no such folder\n'
