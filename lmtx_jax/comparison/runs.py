"""Finished runs, as they are read back from their folders."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import json
import os
import shlex
import typing
from typing import Any
import zipfile
import zlib

import numpy as np

from lmtx_jax.config import TRAINING
from lmtx_jax.files import read_arrays, read_json
from lmtx_jax.run_dir import read_run_flags
from lmtx_jax.types import UserError

_SUMMARY_KEYS = ('cycles', 'test', 'initial', 'seconds')
# As `stages` calls them, which is too much to import for two names.
_SCORES, _LABELS = 'test_documents.npz', 'test_labels.npz'
_START = os.path.join('warmup', _SCORES)


@functools.cache
def known_flags() -> dict[str, dataclasses.Field]:
  """The flags of a training run, in the order of `--help`."""
  return {
    field.name: field
    for config_class in TRAINING
    for field in dataclasses.fields(config_class)
  }


@functools.cache
def _kinds() -> dict[str, type]:
  hints: dict[str, type] = {}
  for config_class in TRAINING:
    hints |= typing.get_type_hints(config_class)
  return hints


def kind(flag: str) -> type:
  """The type of a flag's values; str of one that this version lacks."""
  return _kinds().get(flag, str)


@dataclasses.dataclass(frozen=True)
class Run:
  """One finished run.

  Attributes:
    path: its folder, as the user named it.
    data: fingerprint of its dataset.
    data_name: what the user called the dataset.
    flags: its flags, less those that change no result; `seed` is among them,
      and `teacher_model`, the LLM's name, where there was one.
    summary: what its summary.json holds.
  """

  path: str
  data: str
  data_name: str
  flags: dict[str, str]
  summary: dict[str, Any]

  @property
  def method(self) -> str:
    """What trained it: `--method`."""
    return self.flags['method']

  @property
  def is_start(self) -> bool:
    """Whether nothing was trained but, maybe, the warm-up."""
    return self.flags['num_cycles'] == '0'

  def asked(self) -> list[int]:
    """Questions put to the teacher until the end of each cycle."""
    totals, total = [], 0
    for cycle in self.summary['cycles']:
      dev = cycle.get('dev') or {}
      total += (cycle.get('asked') or 0) + (dev.get('asked') or 0)
      totals.append(total)
    return totals

  @property
  def tokens(self) -> float | None:
    """Tokens of all prompts, where the teacher counted them."""
    counts = [
      part['prompt_tokens']
      for cycle in self.summary['cycles']
      for part in (cycle, cycle.get('dev') or {})
      if part.get('prompt_tokens') is not None
    ]
    return sum(counts) if counts else None

  def documents(self, *, start: bool) -> dict[str, np.ndarray] | None:
    """Scores of each test document, `[num_scored_docs]` percent by metric.

    Args:
      start: those of the encoder before training.

    Raises:
      UserError: the file cannot be read.
    """
    return self._arrays(start, _SCORES)

  def seconds_per_document(self, *, start: bool) -> float | None:
    """Of tagging the test documents by the encoder; compiling is included.

    Args:
      start: by the encoder before training.

    Raises:
      UserError: the file of their labels cannot be read.
    """
    seconds, best = self.summary.get('warmup_seconds'), None
    if not start:
      best = self.summary.get('best_cycle')
      cycles = self.summary['cycles']
      seconds = None if best is None else cycles[best].get('seconds')
    spent = (seconds or {}).get('test')
    # ICXML's retrieval is counted with the test of its encoder.
    if not spent or self.method == 'icxml':
      return None
    labels = (self._arrays(start, _LABELS) or {}).get('labels')
    return spent / len(labels) if labels is not None and len(labels) else None

  def _arrays(self, start: bool, name: str) -> dict[str, np.ndarray] | None:
    """A file that lies beside the test scores; None if it does not."""
    scores = _START if start else self.summary.get('test_documents')
    path = os.path.join(self.path, os.path.dirname(scores or ''), name)
    if not scores or not os.path.isfile(path):
      return None
    try:
      return read_arrays(path)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
      raise UserError(f'{path} is broken ({e}); score the run again') from e


def read_runs(paths: Sequence[str], metrics: Sequence[str]) -> list[Run]:
  """Reads finished runs, all of one dataset.

  Args:
    paths: their folders.
    metrics: scores that they must have.

  Raises:
    UserError: there is none, one is no finished run, or they cannot be
      compared.
  """
  if not paths:
    raise UserError('no RUN; name the folders of the runs to compare')
  by_place = {os.path.realpath(path): path for path in paths}
  runs = [_read(path) for path in by_place.values()]
  first = runs[0]
  for run in runs[1:]:
    if run.data != first.data:
      raise UserError(
        f'{first.path} is a run on {first.data_name} and {run.path} on'
        f' {run.data_name}, which are different data; compare runs on one'
        ' dataset'
      )
    sizes = [r.flags['num_test_docs'] for r in (first, run)]
    if sizes[0] != sizes[1]:
      raise UserError(
        f'{first.path} was scored on other test documents than {run.path}:'
        f' --num_test_docs={sizes[0]} and {sizes[1]}; compare runs with the'
        ' same'
      )
  if not metrics:
    raise UserError('--metrics names no score')
  for run in runs:
    for metric in metrics:
      if metric not in run.summary['test']:
        raise UserError(
          f'--metrics: {run.path} has no {metric}; it has'
          f' {", ".join(run.summary["test"])}'
        )
  return runs


def _read(path: str) -> Run:
  flags_path = os.path.join(path, 'flags.txt')
  summary_path = os.path.join(path, 'summary.json')
  if not os.path.isfile(flags_path):
    what = 'is no run: no flags.txt in it'
    raise UserError(f'{path} {what if os.path.isdir(path) else "is no folder"}')
  header, flags = read_run_flags(flags_path)
  for name, value in flags.items():
    if kind(name) in (int, float) and not _is_number(value):
      raise UserError(f'{flags_path}: --{name}={value} is no number')
  if not os.path.isfile(summary_path):
    flagfile = shlex.quote(f'--flagfile={flags_path}')
    raise UserError(
      f'{path} is not finished: no summary.json in it; go on with'
      f' python -m lmtx_jax.main {flagfile}, or leave it out'
    )
  return Run(
    path,
    header['data'],
    header['name'],
    _binding(flags) | _teacher_model(path, flags),
    _read_summary(summary_path),
  )


def _read_summary(path: str) -> dict[str, Any]:
  try:
    summary = read_json(path)
  except ValueError as e:
    raise UserError(f'{path} is broken: {e}') from e
  if not isinstance(summary, dict):
    raise UserError(f'{path} is broken: no JSON object')
  missing = [key for key in _SUMMARY_KEYS if key not in summary]
  if missing:
    raise UserError(f'{path} is broken: it has no {", ".join(missing)}')
  cycles = summary['cycles']
  is_whole = isinstance(cycles, list) and all(
    isinstance(cycle, dict) and cycle.get('cycle') == i
    for i, cycle in enumerate(cycles)
  )
  if not is_whole or not all(
    isinstance(part.get('test'), dict)
    for part in [summary, {'test': summary['initial']}, *cycles]
  ):
    raise UserError(f'{path} is broken: it has no scores where they belong')
  return summary


def _binding(flags: dict[str, str]) -> dict[str, str]:
  """The flags that a result depends on; an older run lacks newer ones."""
  known = known_flags()
  operational = {n for n, f in known.items() if f.metadata['operational']}
  values = {n: str(f.default) for n, f in known.items()} | flags
  return {n: v for n, v in values.items() if n not in operational}


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _teacher_model(path: str, flags: dict[str, str]) -> dict[str, str]:
  """The LLM's name: flags tell its address, which may be another's next."""
  bound = os.path.join(path, 'warmup', 'teacher.json')
  if flags.get('teacher') != 'sglang' or not os.path.isfile(bound):
    return {}
  try:
    return {'teacher_model': str(json.loads(read_json(bound))['model'])}
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f'{bound} names no model of a teacher') from e
