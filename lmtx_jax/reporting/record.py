"""What a run directory tells of its run, at whatever moment it is read."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import fcntl
import functools
import os
import re
from typing import Any
import zipfile
import zlib

import numpy as np

from lmtx_jax.evaluation.stopping import best_cycle
from lmtx_jax.files import read_arrays, read_json
from lmtx_jax.reporting.metric_log import MetricLog, read_log
from lmtx_jax.run_dir import read_run_flags
from lmtx_jax.types import UserError

START = -1  # the cycle number of what comes before cycle 0
_CYCLE = re.compile(r'cycle_(\d{2,6})$')


@dataclasses.dataclass(frozen=True)
class Cycle:
  """What the stages of one cycle have left so far.

  Attributes:
    number: START is what comes before cycle 0.
    folder: where it lies, within the run.
    teaching: counts of the teacher's answers; empty without any.
    dev: the dev score and its counts; empty without one.
    test: scores of the test documents; empty without any.
    seconds: by stage.
  """

  number: int
  folder: str
  teaching: dict[str, Any]
  dev: dict[str, Any]
  test: dict[str, Any]
  seconds: dict[str, float]

  @property
  def is_begun(self) -> bool:
    """Whether more than what the next cycle starts from is there."""
    return bool(self.teaching or self.dev or self.test)


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """One run, finished or not.

  Attributes:
    path: its folder.
    header: of its flags.txt: `name` and `data` of the dataset.
    flags: all of them, as text.
    start: what came before cycle 0.
    cycles: in order, those that have begun.
    summary: of a finished run; empty before.
    log: of metrics.jsonl.
    notes: what could not be read, a line each.
  """

  path: str
  header: dict[str, str]
  flags: dict[str, str]
  start: Cycle
  cycles: tuple[Cycle, ...]
  summary: dict[str, Any]
  log: MetricLog
  notes: list[str]

  @property
  def method(self) -> str:
    """What trains it: `--method`."""
    return self.flags.get('method', 'lmtx')

  @property
  def all_cycles(self) -> tuple[Cycle, ...]:
    """The start, and then the cycles."""
    return (self.start, *self.cycles)

  @functools.cached_property
  def final(self) -> Cycle:
    """What the run came to, or would if it ended now.

    ICXML's predictions are the LLM's, not the encoder's.
    """
    if self.method == 'icxml':
      answers = _read_cycle(self.path, START, 'icxml', self.notes)
      return answers if answers.test else self.start
    best = self.best_cycle
    by_number = {cycle.number: cycle for cycle in self.cycles}
    return by_number.get(best, self.start)

  @functools.cached_property
  def best_cycle(self) -> int | None:
    """Of a finished run as it says; before, of what is scored so far."""
    if self.summary:
      return self.summary.get('best_cycle')
    if self.method == 'lmtx':
      scored = [c for c in self.cycles if c.dev.get('p@1') is not None]
      kept = best_cycle(
        [cycle.dev['p@1'] for cycle in scored],
        float(self.flags.get('dev_tolerance', 0)),
        max((cycle.dev.get('pairs', 1) for cycle in scored), default=1),
      )
      return None if kept is None else scored[kept].number
    scored = [cycle.number for cycle in self.cycles if cycle.test]
    return max(scored, default=None)

  def arrays(self, *parts: str) -> dict[str, np.ndarray] | None:
    """A .npz of the run; None where it is not there or cannot be read."""
    path = os.path.join(self.path, *parts)
    if not os.path.isfile(path):
      return None
    try:
      return read_arrays(path)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
      self.notes.append(f'{os.path.join(*parts)} is broken: {e}')
      return None

  @functools.cached_property
  def state(self) -> str:
    """Whether it is finished, and why, as one phrase."""
    if self.summary:
      return f'finished: {self.summary.get("stopped_because", "")}'
    if _is_locked(os.path.join(self.path, '.lock')):
      return 'going on'
    return 'not finished; the command that began it goes on with it'


def read_record(path: str) -> RunRecord:
  """Reads a run directory.

  Raises:
    UserError: it is none.
  """
  flags_path = os.path.join(path, 'flags.txt')
  if not os.path.isdir(path):
    raise UserError(f'--run_dir={path}: no such folder')
  if not os.path.isfile(flags_path):
    raise UserError(f'--run_dir={path} is no run: no flags.txt in it')
  header, flags = read_run_flags(flags_path)
  notes: list[str] = []
  log, broken = read_log(os.path.join(path, 'metrics.jsonl'))
  if broken:
    notes.append(f'metrics.jsonl: left out {_lines(broken)}, no metrics')
  found = sorted(
    (int(match[1]), name)
    for name in os.listdir(path)
    if (match := _CYCLE.match(name))
  )
  return RunRecord(
    path,
    header,
    flags,
    _read_cycle(path, START, 'warmup', notes),
    tuple(_read_cycle(path, number, name, notes) for number, name in found),
    _read_object(path, 'summary.json', notes),
    log,
    notes,
  )


def _read_cycle(run: str, number: int, folder: str, notes: list[str]) -> Cycle:
  names = ('teaching', 'dev_score', 'test_scores', 'seconds')
  parts = [_read_object(run, f'{folder}/{n}.json', notes) for n in names]
  return Cycle(number, folder, *parts)


def _read_object(run: str, name: str, notes: list[str]) -> dict[str, Any]:
  """An artifact that is not always there; a broken one is a note."""
  path = os.path.join(run, name)
  if not os.path.isfile(path):
    return {}
  try:
    value = read_json(path)
  except ValueError as e:
    notes.append(f'{name} is broken: {e}')
    return {}
  if not isinstance(value, dict):
    notes.append(f'{name} is broken: no JSON object')
    return {}
  return value


def _lines(numbers: Sequence[int]) -> str:
  shown = ', '.join(map(str, numbers[:5]))
  more = f' and {len(numbers) - 5} more' if len(numbers) > 5 else ''
  return f'line{"s" if len(numbers) > 1 else ""} {shown}{more}'


def _is_locked(path: str) -> bool:
  """Whether a process works in the run directory that the lock is of."""
  try:
    with open(path, 'rb') as f:
      fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:
    return False
  return False
