"""The run directory: every product of a stage is written once, then only read.

An artifact is written to a temporary file, synced and renamed, so it is either
whole or absent, and a killed run goes on by skipping what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
from typing import Any
import uuid

import numpy as np

from lmtx_jax import __version__
from lmtx_jax.types import UserError

_HEADER = {'data', 'name', 'run'}  # of a flags.txt
_OWN = ('.', 'verdicts.')  # what may lie in a folder before a run begins


@contextlib.contextmanager
def staged(path: str) -> Iterator[str]:
  """Yields a temporary path; what is written there appears whole at `path`.

  Works for a file or a folder. Nothing is left behind by an exception, and
  what a kill left is removed by the next attempt. Takes the place of an older
  file, but never of a folder, nor of a device.

  Raises:
    UserError: something that is no file is there already.
  """
  if os.path.lexists(path) and not os.path.isfile(path):
    raise UserError(f'{path} is there and is no file')
  os.makedirs(os.path.dirname(path), exist_ok=True)
  head, tail = os.path.split(path)
  temporary = os.path.join(head, f'.unfinished-{tail}')  # keeps the suffix
  _remove(temporary)
  try:
    yield temporary
    _sync(temporary)
    os.replace(temporary, path)
    _sync_entry(head)
  finally:
    _remove(temporary)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
  """Holds a file lock, which the system frees when the process dies."""
  with open(path, 'w') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    yield


def _remove(path: str) -> None:
  if os.path.isdir(path):
    shutil.rmtree(path, ignore_errors=True)
  elif os.path.exists(path):
    os.remove(path)


def _sync(path: str) -> None:
  """Makes a file safe on the disk, or a folder with all that is in it."""
  if os.path.isdir(path) and not os.path.islink(path):
    for entry in os.scandir(path):
      _sync(entry.path)
  _sync_entry(path)


def _sync_entry(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_json(path: str, value: Any) -> None:
  """Writes indented JSON."""
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2, ensure_ascii=False)
    f.write('\n')


def read_json(path: str) -> Any:
  """Reads JSON."""
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def write_arrays(path: str, value: dict[str, np.ndarray]) -> None:
  """Writes named arrays as .npz."""
  np.savez(path, **value)


def read_arrays(path: str) -> dict[str, np.ndarray]:
  """Reads what `write_arrays` wrote."""
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)


class RunDir:
  """One run's folder, locked while this process uses it."""

  def __init__(self, path: str):
    """Opens or makes the folder.

    Raises:
      UserError: it cannot be written to, or another process is using it.
    """
    self.path = os.path.abspath(os.path.expanduser(path))
    try:
      os.makedirs(self.path, exist_ok=True)
      self._lock = open(os.path.join(self.path, '.lock'), 'w')  # noqa: SIM115
    except OSError as e:
      raise UserError(
        f'--run_dir={path} cannot be written to: {e.strerror}'
      ) from e
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f'--run_dir={path} is in use by another process'
      ) from None
    self.run_id = ''

  def file(self, *parts: str) -> str:
    """A path inside the folder."""
    return os.path.join(self.path, *parts)

  def cycle_file(self, cycle: int, *parts: str) -> str:
    """A path inside a cycle's folder; cycle -1 is the warm-up."""
    name = 'warmup' if cycle < 0 else f'cycle_{cycle:02d}'
    return self.file(name, *parts)

  def guard(self, configs: Sequence[Any], data: str, data_name: str) -> None:
    """Notes flags and data in flags.txt, or checks them against it.

    Args:
      configs: the configs of all stages.
      data: fingerprint of the dataset.
      data_name: what the user calls it.

    Raises:
      UserError: the run was begun with other flags or other data.
    """
    path = self.file('flags.txt')
    header = {'data': data, 'name': data_name}
    binding, lines = {}, []
    for config in configs:
      for field in dataclasses.fields(config):
        value = str(getattr(config, field.name))
        lines.append(f'--{field.name}={value}')
        if not field.metadata['operational']:
          binding[field.name] = value
    if os.path.exists(path):
      known, _ = _read_flags(path)
      if not known.keys() >= _HEADER:
        raise UserError(
          f'{path} was not written by a run; choose another --run_dir'
        )
    elif any(not name.startswith(_OWN) for name in os.listdir(self.path)):
      raise UserError(
        f'{self.path} is not empty and no run; choose another --run_dir'
      )
    if not os.path.exists(path) or not self._is_begun():
      # Flags that failed before the first stage bind nothing.
      _remove(self.file('scratch'))
      header['run'] = uuid.uuid4().hex
      with staged(path) as temporary, open(temporary, 'w') as f:
        f.write(f'# lmtx_jax {__version__}\n')
        f.writelines(f'# {key} {value}\n' for key, value in header.items())
        f.writelines(line + '\n' for line in lines)
    known, old = _read_flags(path)
    self.run_id = known['run']
    if known['data'] != data:
      raise UserError(
        f'{self.path} is a run on other data ({known["name"]}), not on'
        f' {data_name} as it is now; choose another --run_dir'
      )
    differ = [
      f'--{name}={value} (was {old.get(name, "absent")})'
      for name, value in binding.items()
      if old.get(name) != value
    ]
    if differ:
      raise UserError(
        f'{self.path} is a run with other flags: {", ".join(differ)}; choose'
        ' another --run_dir, or give the flags of RUN/flags.txt'
      )

  def bind(self, name: str, value: str) -> None:
    """Notes what the run depends on, or checks that it is the same.

    Args:
      name: of what it is, as a message names it.
      value: its digest.

    Raises:
      UserError: the run was begun with another one.
    """
    path = self.cycle_file(-1, f'{name}.json')
    known = self.once(path, lambda: value, write_json, read_json)
    if known != value:
      raise UserError(
        f'{self.path} is a run with another {name} than there is now; choose'
        ' another --run_dir'
      )

  def _is_begun(self) -> bool:
    """Whether a stage has left something that is bound to the flags."""
    names = os.listdir(self.path)
    return any(n in ('warmup', 'export') or n[:6] == 'cycle_' for n in names)

  def once(
    self,
    path: str,
    make: Callable[[], Any],
    save: Callable[[str, Any], None],
    load: Callable[[str], Any],
  ) -> Any:
    """The artifact at `path`: made and saved now, or read if it is there."""
    if not os.path.exists(path):
      with staged(path) as temporary:
        save(temporary, make())
    return load(path)

  def once_array(
    self, path: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], Any]
  ) -> np.ndarray:
    """A float32 .npy file, memory-mapped; `fill` writes it where it lies."""
    if not os.path.exists(path):
      with staged(path) as temporary:
        array = np.lib.format.open_memmap(temporary, 'w+', np.float32, shape)
        fill(array)
        array.flush()
        del array
    return np.load(path, mmap_mode='r', allow_pickle=False)

  @contextlib.contextmanager
  def timed(self, cycle: int, stage: str) -> Iterator[None]:
    """Adds the seconds inside to the cycle's seconds.json."""
    start = time.monotonic()
    yield
    seconds = self.seconds(cycle)
    spent = seconds.get(stage, 0.0) + time.monotonic() - start
    seconds[stage] = round(spent, 3)
    with staged(self.cycle_file(cycle, 'seconds.json')) as temporary:
      write_json(temporary, seconds)

  def seconds(self, cycle: int) -> dict[str, float]:
    """Seconds of each stage of a cycle, over all its processes."""
    path = self.cycle_file(cycle, 'seconds.json')
    return read_json(path) if os.path.exists(path) else {}


def _read_flags(path: str) -> tuple[dict[str, str], dict[str, str]]:
  """Header and flags of a flags.txt."""
  header, values = {}, {}
  with open(path, encoding='utf-8') as f:
    for line in f:
      line = line.rstrip('\n')
      if line.startswith('# '):
        key, _, value = line[2:].partition(' ')
        header[key] = value
      elif line.startswith('--'):
        name, _, value = line[2:].partition('=')
        values[name] = value
  return header, values
