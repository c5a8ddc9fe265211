"""Runs that differ in their seed alone become one row, named by its flags."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import math
import os
import statistics

import numpy as np

from lmtx_jax.comparison import flags_read
from lmtx_jax.comparison.runs import Run, kind, known_flags
from lmtx_jax.types import UserError

_LONGEST_VALUE = 32  # characters of a flag's value in a name
_PATHS = ('encoder', 'teacher_model', 'teacher_tokenizer')

_SAME = 0.01  # percent by which scores of one encoder may differ


@dataclasses.dataclass(frozen=True)
class Row:
  """Runs that read the same flags, but for the seed.

  Attributes:
    name: short, unlike that of any other row.
    method: `--method`, or how an encoder before training is called.
    flags: those that its scores depend on, less the seed.
    runs: one a seed.
    is_start: it is about the encoder before training.
    alike: for each of `runs`, all runs that began with the same encoder, of
      which it is the first; empty for a row of trained ones.
  """

  name: str
  method: str
  flags: dict[str, str]
  runs: tuple[Run, ...]
  is_start: bool
  alike: tuple[tuple[Run, ...], ...] = ()

  def values(self, metric: str) -> list[float]:
    """The score of each run that has one, in percent."""
    key = 'initial' if self.is_start else 'test'
    found = (run.summary[key].get(metric) for run in self.runs)
    return [value for value in found if value is not None]

  def disagreement(self, metric: str) -> tuple[float, float] | None:
    """Lowest and highest score of runs that began with the same encoder.

    None where they are equal, as they should be. They are not where runs come
    from machines or versions that compute differently.
    """
    spread, found = _SAME, None
    for runs in self.alike:
      scores = [run.summary['initial'].get(metric) for run in runs]
      known = [score for score in scores if score is not None]
      if known and max(known) - min(known) > spread:
        spread, found = max(known) - min(known), (min(known), max(known))
    return found

  def documents(self, metric: str) -> np.ndarray | None:
    """`[num_scored_docs]` percent, the mean over the runs.

    None where a run has no such scores, or scored other documents.
    """
    of_runs = []
    for run in self.runs:
      scores = (run.documents(start=self.is_start) or {}).get(metric)
      if scores is None or (of_runs and scores.shape != of_runs[0].shape):
        return None
      of_runs.append(scores.astype(np.float64))
    return np.mean(of_runs, axis=0)


def mean(values: Sequence[float]) -> float | None:
  """The mean; None of nothing."""
  return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
  """The standard deviation of a sample; None of fewer than two values."""
  return statistics.stdev(values) if len(values) > 1 else None


def make_rows(runs: Sequence[Run], *, initial: bool) -> list[Row]:
  """The rows of a comparison: encoders before training, then what was trained.

  Args:
    runs: in the order of the user.
    initial: also the encoders that the trained runs began with.

  Raises:
    UserError: two runs are the same.
  """
  trained, starts = {}, {}
  for run in runs:
    if initial or run.is_start:
      key = _key(flags_read.of_start(run.flags))
      starts.setdefault(key, []).append(run)
    if not run.is_start:
      same = trained.setdefault(_key(flags_read.of_run(run.flags)), [])
      _check_new(run, same)
      same.append(run)
  groups = []
  for key, found in starts.items():
    alike = _by_draw(found)
    firsts = [some[0] for some in alike]
    groups.append((_start_name(key), dict(key), firsts, True, alike))
  for key, found in _in_order(trained):
    groups.append((found[0].method, dict(key), found, False, ()))
  rows = []
  for method, flags, found, is_start, alike in groups:
    peers = [other for name, other, *_ in groups if name == method]
    name = name_of(method, flags, peers)
    rows.append(Row(name, method, flags, tuple(found), is_start, tuple(alike)))
  return rows


def _check_new(run: Run, same: Sequence[Run]) -> None:
  """Raises a UserError where a run is one of those with the same flags."""
  for other in same:
    if other.flags['seed'] == run.flags['seed']:
      raise UserError(
        f'{other.path} and {run.path} have the same --seed={run.flags["seed"]}'
        f' and differ in no other flag that {run.method} reads; leave one of'
        ' them out'
      )


def usual(peers: Sequence[dict[str, str]]) -> dict[str, str]:
  """The values that more than half of several flag sets have.

  Only of flags in which they differ; a name leaves them out.
  """
  found = {}
  for name in differing(peers) if len(peers) > 2 else []:
    counts = collections.Counter(value_of(name, flags) for flags in peers)
    value, count = counts.most_common(1)[0]
    if 2 * count > len(peers):
      found[name] = value
  return found


def by_size(flag: str) -> Callable[[str], float]:
  """Sorts values of a flag; all documents, 0, are more than any number."""
  if kind(flag) not in (int, float):
    return lambda value: 0.0
  takes_all = flag == 'num_train_docs'
  return lambda value: math.inf if takes_all and value == '0' else float(value)


def differing(flag_sets: Iterable[dict[str, str]]) -> list[str]:
  """Names of the flags that are not the same everywhere, as in `--help`."""
  flag_sets = list(flag_sets)
  order = list(dict.fromkeys([*known_flags(), *_all_keys(flag_sets)]))
  return [n for n in order if len({value_of(n, f) for f in flag_sets}) > 1]


def value_of(name: str, flags: dict[str, str]) -> str:
  """The value of a flag; of one that is not read the default, to compare."""
  known = known_flags().get(name)
  return flags.get(name, str(known.default) if known else '')


def _in_order(
  trained: dict[tuple[tuple[str, str], ...], list[Run]],
) -> list[tuple[tuple[tuple[str, str], ...], list[Run]]]:
  """By size of the numbers; of methods and words, as the user named them."""
  flag_sets = [dict(key) for key in trained]
  names = list(dict.fromkeys(['method', *differing(flag_sets)]))
  words = {
    name: list(dict.fromkeys(value_of(name, flags) for flags in flag_sets))
    for name in names
  }

  def place(entry: tuple[tuple[tuple[str, str], ...], list[Run]]) -> list:
    values = [(name, value_of(name, dict(entry[0]))) for name in names]
    return [
      by_size(name)(value)
      if kind(name) in (int, float)
      else words[name].index(value)
      for name, value in values
    ]

  return sorted(trained.items(), key=place)


def _key(flags: dict[str, str]) -> tuple[tuple[str, str], ...]:
  return tuple(sorted(flags.items()))


def _all_keys(flag_sets: Iterable[dict[str, str]]) -> list[str]:
  return [name for flags in flag_sets for name in flags]


def _start_name(key: tuple[tuple[str, str], ...]) -> str:
  return 'untrained' if dict(key)['warmup_epochs'] == '0' else 'warmed up'


def _by_draw(runs: list[Run]) -> list[tuple[Run, ...]]:
  """Runs of one start by their encoder: there is one a seed if it is drawn."""
  flags = runs[0].flags
  is_drawn = (
    flags['warmup_epochs'] != '0'
    or flags['encoder'] == 'scratch'
    or flags['projection_dim'] != '0'
  )
  found: dict[str, list[Run]] = {}
  for run in runs:
    found.setdefault(run.flags['seed'] if is_drawn else '', []).append(run)
  return [tuple(some) for some in found.values()]


def name_of(
  head: str, flags: dict[str, str], peers: Sequence[dict[str, str]]
) -> str:
  """`head` and the flags in which `peers` differ, less their usual values.

  Args:
    head: how the name begins.
    flags: of what is named.
    peers: the flags of all that are named so, these among them.
  """
  words, common = [head] if head else [], usual(peers)
  for name in differing(peers):
    if name in flags and flags[name] != common.get(name):
      values = {peer[name] for peer in peers if name in peer}
      words.append(f'{name}={short_value(name, flags[name], values)}')
  return ' '.join(words)


def short_value(name: str, value: str, values: Collection[str]) -> str:
  """A value as short as it can be without being taken for another one."""
  parts = value.rstrip(os.sep).split(os.sep) if name in _PATHS else [value]
  for count in range(1, len(parts) + 1):
    tail = os.sep.join(parts[-count:])
    if sum(v.rstrip(os.sep).endswith(tail) for v in values) == 1:
      value = tail
      break
  cut = f'{value[: _LONGEST_VALUE - 1]}…'
  is_alone = sum(v.startswith(cut[:-1]) for v in values) == 1
  return cut if len(value) > _LONGEST_VALUE and is_alone else value
