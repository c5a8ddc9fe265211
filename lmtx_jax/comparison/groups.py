"""Runs that differ in their seed alone become one row, named by its flags."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import math
import os
import statistics

import numpy as np

from lmtx_jax.comparison.runs import Run, kind, known_flags
from lmtx_jax.config import (
  EncoderConfig,
  SampleConfig,
  TextConfig,
  WarmupConfig,
)
from lmtx_jax.types import UserError

_LONGEST_VALUE = 32  # characters of a flag's value in a name
_PATHS = ('encoder', 'teacher_model', 'teacher_tokenizer')

# Flags (or what they begin with) that do something only where another flag has
# one of these values; they name no row elsewhere.
_ONLY_WITH = (
  (('oracle_',), 'teacher', ('oracle',)),
  (('lexical_',), 'teacher', ('lexical',)),
  (('prompt', 'chat_format', 'verdict'), 'teacher', ('sglang',)),
  (('teacher_', 'yes_threshold'), 'teacher', ('sglang',)),
  (('scratch_',), 'encoder', ('scratch',)),
  (('batch_cluster_size',), 'batching', ('clusters',)),
  (('num_negatives', 'loss_temperature'), 'loss', ('triplet_softmax',)),
)
_OF_WARMUP = tuple(
  field.name
  for field in dataclasses.fields(WarmupConfig)
  if field.name != 'warmup_epochs'
)


@dataclasses.dataclass(frozen=True)
class Row:
  """Runs whose flags are the same but for the seed.

  Attributes:
    name: short, unlike that of any other row.
    method: `--method`, or how an encoder before training is called.
    flags: the flags that bind a result, less the seed.
    runs: one a seed.
    is_start: it is about the encoder before training.
  """

  name: str
  method: str
  flags: dict[str, str]
  runs: tuple[Run, ...]
  is_start: bool

  def values(self, metric: str) -> list[float]:
    """The score of each run that has one, in percent."""
    key = 'initial' if self.is_start else 'test'
    found = (run.summary[key].get(metric) for run in self.runs)
    return [value for value in found if value is not None]

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
      starts.setdefault(_key(_start_flags(run)), []).append(run)
    if not run.is_start:
      flags = {k: v for k, v in run.flags.items() if k != 'seed'}
      same = trained.setdefault(_key(flags), [])
      for other in same:
        if other.flags['seed'] == run.flags['seed']:
          raise UserError(
            f'{other.path} and {run.path} have the same flags and the same'
            f' --seed={run.flags["seed"]}; leave one of them out'
          )
      same.append(run)
  groups = [
    (_start_name(key), dict(key), _one_a_seed(found), True)
    for key, found in starts.items()
  ] + [
    (found[0].method, dict(key), found, False)
    for key, found in _in_order(trained)
  ]
  names = _names([(method, flags) for method, flags, _, _ in groups])
  return [
    Row(name, method, flags, tuple(found), is_start)
    for name, (method, flags, found, is_start) in zip(
      names, groups, strict=True
    )
  ]


def usual(peers: Sequence[dict[str, str]]) -> dict[str, str]:
  """The values that more than half of several flag sets have.

  Only of flags in which they differ; a name leaves them out.
  """
  found = {}
  for name in differing(peers) if len(peers) > 2 else []:
    counts = collections.Counter(flags.get(name, '') for flags in peers)
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
  return [n for n in order if len({flags.get(n) for flags in flag_sets}) > 1]


def is_idle(name: str, flags: dict[str, str]) -> bool:
  """Whether a flag does nothing beside these other flags."""
  if name in _OF_WARMUP:
    return flags.get('warmup_epochs') == '0'
  return any(
    name.startswith(prefixes) and flags.get(other) not in values
    for prefixes, other, values in _ONLY_WITH
    if other in flags
  )


def _in_order(
  trained: dict[tuple[tuple[str, str], ...], list[Run]],
) -> list[tuple[tuple[tuple[str, str], ...], list[Run]]]:
  """By method, as the user first named it, then by the size of numbers."""
  methods = list(dict.fromkeys(runs[0].method for runs in trained.values()))
  order = differing([dict(key) for key in trained])

  def place(entry: tuple[tuple[tuple[str, str], ...], list[Run]]) -> list:
    flags = dict(entry[0])
    sizes = [
      0.0 if is_idle(name, flags) else by_size(name)(flags[name])
      for name in order
      if name in flags
    ]
    return [methods.index(entry[1][0].method), *sizes]

  return sorted(trained.items(), key=place)


def _key(flags: dict[str, str]) -> tuple[tuple[str, str], ...]:
  return tuple(sorted(flags.items()))


def _all_keys(flag_sets: Iterable[dict[str, str]]) -> list[str]:
  return [name for flags in flag_sets for name in flags]


def _start_flags(run: Run) -> dict[str, str]:
  """The flags that the encoder before training depends on."""
  parts = [EncoderConfig, TextConfig]
  if run.flags['warmup_epochs'] != '0':
    parts += [WarmupConfig, SampleConfig]
  names = [field.name for part in parts for field in dataclasses.fields(part)]
  return {
    name: run.flags[name]
    for name in ['warmup_epochs', *names]
    if name in run.flags and not is_idle(name, run.flags)
  }


def _start_name(key: tuple[tuple[str, str], ...]) -> str:
  return 'untrained' if dict(key)['warmup_epochs'] == '0' else 'warmed up'


def _one_a_seed(runs: list[Run]) -> list[Run]:
  """Of runs that began with the same encoder, those that tell more than one."""
  flags = runs[0].flags
  is_drawn = (
    flags['warmup_epochs'] != '0'
    or flags['encoder'] == 'scratch'
    or flags['projection_dim'] != '0'
  )
  if not is_drawn:
    return runs[:1]
  return list({run.flags['seed']: run for run in reversed(runs)}.values())[::-1]


def _names(groups: list[tuple[str, dict[str, str]]]) -> list[str]:
  """Each group's method, and its flags where they differ within the method."""
  names = []
  for method, flags in groups:
    peers = [other for name, other in groups if name == method]
    names.append(name_of(method, flags, peers, is_idle))
  if len(set(names)) == len(names):
    return names
  return [  # flags that do nothing are all that differs
    name_of(method, flags, [f for m, f in groups if m == method])
    for method, flags in groups
  ]


def name_of(
  head: str,
  flags: dict[str, str],
  peers: Sequence[dict[str, str]],
  skip: Callable[[str, dict[str, str]], bool] = lambda name, flags: False,
) -> str:
  """`head` and the flags in which `peers` differ, less their usual values.

  Args:
    head: how the name begins.
    flags: of what is named.
    peers: the flags of all that are named so, these among them.
    skip: which flags to leave out.
  """
  words, common = [head] if head else [], usual(peers)
  for name in differing(peers):
    if name not in flags or skip(name, flags):
      continue
    if flags[name] != common.get(name):
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
