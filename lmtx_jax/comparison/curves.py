"""What the plots show, taken from the rows: means and deviations by series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from lmtx_jax.comparison import flags_read
from lmtx_jax.comparison.groups import (
  Row,
  by_size,
  deviation,
  differing,
  mean,
  name_of,
  value_of,
)
from lmtx_jax.comparison.runs import Run

START = -1  # the cycle number of what comes before cycle 0


@dataclasses.dataclass(frozen=True)
class Point:
  """A mean over seeds.

  Attributes:
    x: where it stands.
    y: the mean.
    spread: standard deviation, 0 for one seed.
    is_whole: all seeds of the row are in it.
  """

  x: float
  y: float
  spread: float
  is_whole: bool = True


@dataclasses.dataclass(frozen=True)
class Series:
  """Points that belong together.

  Attributes:
    name: for the legend.
    points: in the order of x.
  """

  name: str
  points: tuple[Point, ...]


def point(x: float, values: Sequence[float], num_runs: int) -> Point:
  """The mean of some runs of `num_runs`."""
  return Point(
    x, mean(values), deviation(values) or 0.0, len(values) == num_runs
  )


def taught(rows: Sequence[Row]) -> list[Row]:
  """The rows for which a teacher was asked."""
  return [row for row in rows if any(sum(run.asked()) for run in row.runs)]


def by_cycle(
  rows: Sequence[Row], read: Callable[[dict[str, Any]], float | None]
) -> list[Series]:
  """A number by cycle, for the rows that have it for some cycle.

  Args:
    rows: of the table.
    read: takes the number out of a cycle of a summary; what stands before
      cycle 0 is shown to it as a cycle of number -1 that has scores alone.
  """
  curves = _by_cycle(rows, lambda run, cycle: (cycle['cycle'], read(cycle)))
  return [s for s in curves if any(p.x != START for p in s.points)]


def by_pairs(rows: Sequence[Row], metric: str) -> list[Series]:
  """A test score over the pairs asked until the end of its cycle."""

  def read(run: Run, cycle: dict[str, Any]) -> tuple[float, float | None]:
    asked = [0, *run.asked()]  # the first: before cycle 0
    return asked[1 + cycle['cycle']], cycle['test'].get(metric)

  return _by_cycle(rows, read)


def _by_cycle(
  rows: Sequence[Row],
  read: Callable[[Run, dict[str, Any]], tuple[float, float | None]],
) -> list[Series]:
  """One point a cycle, from x and y of each run that got there."""
  found = []
  for row in rows:
    by_number: dict[int, list[tuple[float, float]]] = {}
    for run in [] if row.is_start else row.runs:
      before = {'cycle': START, 'test': run.summary['initial']}
      for cycle in [before, *run.summary['cycles']]:
        x, y = read(run, cycle)
        if y is not None:
          by_number.setdefault(cycle['cycle'], []).append((x, y))
    points = tuple(
      point(mean([x for x, _ in pairs]), [y for _, y in pairs], len(row.runs))
      for _, pairs in sorted(by_number.items())
    )
    if points:
      found.append(Series(row.name, points))
  return found


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Rows that differ in one flag alone.

  Attributes:
    name: of the flags that they share, where there are other sweeps.
    flag: the flag.
    rows: by the value of the flag, in its order.
  """

  name: str
  flag: str
  rows: tuple[tuple[str, Row], ...]


def sweeps(rows: Sequence[Row]) -> dict[str, list[Sweep]]:
  """By flag, the sets of rows that differ in nothing else.

  Flags that only some values of the flag make use of may differ too, unless
  there are several rows of one value.
  """
  trained = [row for row in rows if not row.is_start]
  order = differing([row.flags for row in trained])
  found = {}
  for flag in order:
    if flag == 'method':
      continue  # each has flags of its own, so this would show some
    others = [name for name in order if name != flag]
    shared = [n for n in others if not flags_read.depends_on(n, flag)]
    sets = []
    for some in _alike([r for r in trained if flag in r.flags], shared):
      is_clear = len({row.flags[flag] for row in some}) == len(some)
      sets += [some] if is_clear else _alike(some, others)
    sets = [some for some in sets if len({r.flags[flag] for r in some}) > 1]
    if sets:
      found[flag] = _named(flag, sets)
  return found


def _alike(rows: Sequence[Row], names: Sequence[str]) -> list[list[Row]]:
  """Rows by the values that they have for these flags."""
  sets: dict[tuple[str, ...], list[Row]] = {}
  for row in rows:
    key = tuple(value_of(name, row.flags) for name in names)
    sets.setdefault(key, []).append(row)
  return list(sets.values())


def _named(flag: str, sets: Sequence[Sequence[Row]]) -> list[Sweep]:
  """Sweeps, named by the flags that each shares and others have not."""
  heads = [rows[0].method for rows in sets]
  shared = [
    {
      name: value
      for name, value in rows[0].flags.items()
      if name not in ('method', flag) and not flags_read.depends_on(name, flag)
    }
    for rows in sets
  ]
  size = by_size(flag)
  return [
    Sweep(
      name_of(head, flags, shared),
      flag,
      tuple(
        (row.flags[flag], row)
        for row in sorted(rows, key=lambda row: size(row.flags[flag]))
      ),
    )
    for head, flags, rows in zip(heads, shared, sets, strict=True)
  ]
