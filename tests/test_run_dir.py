"""Artifacts are whole or absent, and a run directory is one run's."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from lmtx_jax.cli import flag
from lmtx_jax.files import (
  read_arrays,
  read_json,
  staged,
  write_arrays,
  write_json,
)
from lmtx_jax.run_dir import RunDir
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Flags:
  rate: float = flag(0.1, 'Binds.')
  text: str = flag('', 'Binds.')
  place: str = flag('here', 'Does not.', operational=True)


class TestStaged:
  def test_appears_whole(self, tmp_path):
    path = tmp_path / 'folder' / 'file.json'
    with staged(str(path)) as temporary:
      write_json(temporary, [1, 'é'])
      assert not path.exists()
    assert read_json(path) == [1, 'é']
    assert os.listdir(path.parent) == ['file.json']

  def test_an_exception_leaves_the_old_one(self, tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyError), staged(str(path)) as temporary:
      with open(temporary, 'w') as f:
        f.write('new')
      raise KeyError
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']

  def test_what_a_kill_left_is_of_no_account(self, tmp_path):
    path = tmp_path / 'folder'
    leave = staged(str(path))
    os.mkdir(leave.__enter__())
    (left,) = tmp_path.iterdir()
    (left / 'half').touch()
    with staged(str(path)) as temporary:
      os.mkdir(temporary)
    assert os.listdir(path) == []
    assert os.listdir(tmp_path) == ['folder']

  def test_never_takes_the_place_of_a_folder(self, tmp_path):
    with pytest.raises(UserError, match='no file'), staged(str(tmp_path)):
      raise AssertionError

  def test_keeps_the_suffix(self, tmp_path):
    with staged(str(tmp_path / 'a.npz')) as temporary:
      write_arrays(temporary, {'x': np.arange(3)})  # numpy would add one
    assert read_arrays(tmp_path / 'a.npz')['x'].tolist() == [0, 1, 2]


def test_equal_arrays_are_equal_bytes(tmp_path):
  for name in ('a.npz', 'b.npz'):
    write_arrays(tmp_path / name, {'x': np.arange(3), 'y': np.zeros((2, 2))})
    os.utime(tmp_path)
  assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_arrays_are_no_pickles(tmp_path):
  with open(tmp_path / 'a.npz', 'wb') as f:
    np.savez(f, x=np.array([{}]))
  with pytest.raises(ValueError, match='allow_pickle'):
    read_arrays(tmp_path / 'a.npz')


class TestRunDir:
  def test_is_used_by_one_at_a_time(self, tmp_path):
    first = RunDir(str(tmp_path / 'run'))
    with pytest.raises(UserError, match='in use by another process'):
      RunDir(str(tmp_path / 'run'))
    del first
    RunDir(str(tmp_path / 'run'))

  def test_makes_an_artifact_once(self, tmp_path):
    run, made = RunDir(str(tmp_path)), []

    def once():
      return run.once(
        run.cycle_file(3, 'x.json'),
        lambda: made.append(1) or {'n': len(made)},
        write_json,
        read_json,
      )

    assert once() == once() == {'n': 1}
    assert (tmp_path / 'cycle_03' / 'x.json').exists()

  def test_an_artifact_that_fails_is_made_again(self, tmp_path):
    run = RunDir(str(tmp_path))
    path = run.file('x.npy')

    def fail(out):
      out[:] = 1
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      run.once_embeddings(path, (2, 3), 'float32', fail)
    assert not os.path.exists(path)
    array = run.once_embeddings(
      path, (2, 3), 'float32', lambda out: out.fill(2)
    )
    assert array.tolist() == [[2] * 3] * 2
    assert array.dtype == np.float32
    again = run.once_embeddings(path, (2, 3), 'float32', fail)
    assert again.tolist() == array.tolist()

  def test_seconds_add_up(self, tmp_path):
    run = RunDir(str(tmp_path))
    assert run.seconds(0) == {}
    for stage in ('a', 'b', 'a'):
      with run.timed(0, stage):
        pass
    assert run.seconds(0).keys() == {'a', 'b'}
    write_json(run.cycle_file(0, 'seconds.json'), {'a': 5.0})
    with run.timed(0, 'a'):
      pass
    assert 5 <= run.seconds(0)['a'] < 6


class TestGuard:
  @pytest.fixture
  def run(self, tmp_path):
    run = RunDir(str(tmp_path))
    run.guard([Flags()], 'digest', 'mine')
    os.mkdir(run.cycle_file(0))
    return run

  @pytest.mark.parametrize('name', ['flags.txt', 'thesis.txt'])
  def test_a_folder_of_other_things_is_left_alone(self, tmp_path, name):
    folder = tmp_path / 'home'
    (folder / 'scratch').mkdir(parents=True)
    (folder / name).write_text('mine')
    with pytest.raises(UserError, match='--run_dir'):
      RunDir(str(folder)).guard([Flags()], 'digest', 'mine')
    assert (folder / name).read_text() == 'mine'
    assert (folder / 'scratch').is_dir()

  def test_killed_while_it_notes_new_flags(self, tmp_path, monkeypatch):
    run = RunDir(str(tmp_path))
    run.guard([Flags()], 'digest', 'mine')
    os.mkdir(run.file('tensorboard'))

    def kill(*_):
      raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
      killed.setattr(os, 'replace', kill)
      run.guard([Flags(rate=0.2)], 'digest', 'mine')
    run.guard([Flags(rate=0.2)], 'digest', 'mine')  # the folder is still a run

  def test_what_is_bound_stays(self, run):
    run.bind('encoder', 'one')
    run.bind('encoder', 'one')
    with pytest.raises(UserError, match='another encoder'):
      run.bind('encoder', 'two')

  def test_the_same_may_go_on(self, run):
    begun = run.run_id
    assert begun
    run.guard([Flags()], 'digest', 'mine')
    assert run.run_id == begun

  def test_where_things_lie_may_change(self, run):
    run.guard([Flags(place='there')], 'digest', 'other name')

  def test_what_differs_is_named(self, run):
    with pytest.raises(UserError) as e:
      run.guard([Flags(rate=0.2, text='new')], 'digest', 'mine')
    assert '--rate=0.2 (was 0.1), --text=new (was )' in str(e.value)
    assert '--place' not in str(e.value)

  def test_flags_that_led_nowhere_bind_nobody(self, run):
    os.rmdir(run.cycle_file(0))
    os.mkdir(run.file('scratch'))
    run.guard([Flags(rate=0.2)], 'other', 'mine')
    assert not os.path.exists(run.file('scratch'))
    assert '--rate=0.2' in pathlib.Path(run.file('flags.txt')).read_text()

  def test_other_data(self, run):
    with pytest.raises(UserError, match='other data'):
      run.guard([Flags()], 'other', 'mine')

  def test_flags_can_be_read_again_as_a_flagfile(self, run):
    lines = pathlib.Path(run.file('flags.txt')).read_text().splitlines()
    assert '--rate=0.1' in lines
    assert all(line.startswith(('#', '--')) for line in lines)

  @pytest.mark.parametrize('text', ['', '# lmtx_jax 0\n--rate=0.1\n'])
  def test_flags_that_are_no_runs(self, run, text):
    with open(run.file('flags.txt'), 'w') as f:
      f.write(text)
    with pytest.raises(UserError, match=r'flags\.txt was not written by a run'):
      run.guard([Flags()], 'digest', 'mine')
