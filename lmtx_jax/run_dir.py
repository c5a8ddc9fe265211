"""The run directory: every product of a stage is written once, then only read.

An artifact is written to a temporary file, synced and renamed, so it is either
whole or absent, and a killed run goes on by skipping what is there. Of several
processes the leading one writes, and all read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import os
import time
from typing import Any
import uuid

import numpy as np

from lmtx_jax import __version__, processes
from lmtx_jax.embeddings import create_embeddings, open_embeddings
from lmtx_jax.files import read_json, remove, staged, write_json
from lmtx_jax.types import UserError

_HEADER = {'data', 'name', 'run'}  # of a flags.txt
_OWN = ('.', 'verdicts.')  # what may lie in a folder before a run begins


class _Dropped:
  """Takes rows that the leading process writes."""

  def __setitem__(self, rows: Any, values: np.ndarray) -> None:
    pass


class RunDir:
  """One run's folder, locked while this process uses it."""

  def __init__(self, path: str):
    """Opens or makes the folder.

    Raises:
      UserError: it cannot be written to, or another process is using it.
    """
    self.path = os.path.abspath(os.path.expanduser(path))
    self.run_id = ''
    self._timed_within: list[float] = []  # seconds, of each timer that runs
    if processes.is_lead():
      self._take(path)
    processes.wait_for_all()

  def _take(self, path: str) -> None:
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
      UserError: the run was begun with other flags or other data, or
        processes see different folders.
    """
    self.run_id = processes.lead(lambda: self._guard(configs, data, data_name))
    path = self.file('flags.txt')
    if not os.path.exists(path) or self.run_id != read_flags(path)[0]['run']:
      raise UserError(
        f'--run_dir={self.path} is another folder for process'
        f' {processes.index()} than for process 0; put it on a file system'
        ' that all share'
      )

  def _guard(self, configs: Sequence[Any], data: str, data_name: str) -> str:
    """`guard` of the leading process; returns the run's id."""
    path = self.file('flags.txt')
    header = {'data': data, 'name': data_name}
    binding = binding_flags(configs)
    flags = all_flags(configs)
    lines = [f'--{k}={v}' for k, v in flags.items()]
    if os.path.exists(path):
      known, _ = read_flags(path)
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
      remove(self.file('scratch'))
      header['run'] = uuid.uuid4().hex
      with staged(path) as temporary, open(temporary, 'w') as f:
        f.write(f'# lmtx_jax {__version__}\n')
        f.writelines(f'# {key} {value}\n' for key, value in header.items())
        f.writelines(line + '\n' for line in lines)
    known, old = read_flags(path)
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
    gone = sorted(old.keys() - flags.keys())
    differ += [f'no --{name} (was {old[name]})' for name in gone]
    if differ:
      raise UserError(
        f'{self.path} is a run with other flags: {", ".join(differ)}; choose'
        ' another --run_dir, or give the flags of RUN/flags.txt'
      )
    return known['run']

  def bind(self, name: str, value: str) -> None:
    """Notes what the run depends on, or checks that it is the same.

    Args:
      name: of what it is, as a message names it.
      value: its digest.

    Raises:
      UserError: the run was begun with another one, or processes differ.
    """
    processes.check_same(name, {name: value})
    path = self.cycle_file(-1, f'{name}.json')
    known = self.once(path, lambda: value, write_json, read_json, alone=True)
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
    *,
    alone: bool = False,
  ) -> Any:
    """The artifact at `path`: made and saved now, or read if it is there.

    Args:
      path: where it lies.
      make: makes it; called on all processes, of which the leading one's
        product counts.
      save: writes it to a path.
      load: reads it from a path.
      alone: `make` is called on the leading process only.
    """
    if not self.has(path):
      if processes.is_lead():
        with staged(path) as temporary:
          save(temporary, make())
      elif not alone:
        make()
      processes.wait_for_all()
    return load(path)

  def has(self, path: str) -> bool:
    """Whether an artifact is there, on all processes the same answer."""
    return processes.lead(lambda: os.path.exists(path))

  def once_embeddings(
    self,
    path: str,
    shape: tuple[int, int],
    dtype: str,
    fill: Callable[[Any], Any],
  ) -> np.ndarray:
    """Embeddings in a memory-mapped file; `fill` writes them where they lie."""
    if not self.has(path):
      if processes.is_lead():
        with staged(path) as temporary:
          array = create_embeddings(temporary, shape, dtype)
          fill(array)
          array.flush()
          del array
      else:
        fill(_Dropped())
      processes.wait_for_all()
    return open_embeddings(path)

  def note(self, path: str, value: Any) -> None:
    """Writes JSON, in place of what may be there."""
    if processes.is_lead():
      with staged(path) as temporary:
        write_json(temporary, value)

  @contextlib.contextmanager
  def timed(self, cycle: int, stage: str) -> Iterator[None]:
    """Adds the seconds inside to the cycle's seconds.json.

    Of a stage within another one they count once, for the inner one.
    """
    start = time.monotonic()
    self._timed_within.append(0.0)
    try:
      yield
    finally:  # of what was broken off as well: it goes on from there
      spent = time.monotonic() - start
      own = spent - self._timed_within.pop()
      if self._timed_within:
        self._timed_within[-1] += spent
      seconds = self.seconds(cycle)
      seconds[stage] = round(seconds.get(stage, 0.0) + own, 3)
      self.note(self.cycle_file(cycle, 'seconds.json'), seconds)

  def seconds(self, cycle: int) -> dict[str, float]:
    """Seconds of each stage of a cycle, over all its processes."""
    path = self.cycle_file(cycle, 'seconds.json')
    return read_json(path) if os.path.exists(path) else {}


def all_flags(configs: Sequence[Any]) -> dict[str, str]:
  """The value of every flag by its name."""
  return {
    field.name: str(getattr(config, field.name))
    for config in configs
    for field in dataclasses.fields(config)
  }


def binding_flags(configs: Sequence[Any]) -> dict[str, str]:
  """The flags that a result depends on."""
  binding = {
    field.name
    for config in configs
    for field in dataclasses.fields(config)
    if not field.metadata['operational']
  }
  return {k: v for k, v in all_flags(configs).items() if k in binding}


def read_run_flags(path: str) -> tuple[dict[str, str], dict[str, str]]:
  """As `read_flags`, of a run that others began.

  Raises:
    UserError: no run wrote the file.
  """
  try:
    header, flags = read_flags(path)
  except UnicodeDecodeError as e:
    raise UserError(f'{path} is not UTF-8 text: {e}') from e
  if not header.keys() >= {'data', 'name'}:
    raise UserError(f'{path} was not written by a run')
  return header, flags


def read_flags(path: str) -> tuple[dict[str, str], dict[str, str]]:
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
