"""The numbers of a comparison, as text, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
import csv
import dataclasses
import io
from typing import Any

from lmtx_jax.comparison.groups import (
  Row,
  deviation,
  differing,
  mean,
  usual,
)
from lmtx_jax.comparison.runs import Run
from lmtx_jax.comparison.significance import LEVEL, Test

UNKNOWN = '-'
_SPEED = 'seconds per document'
# What a table has room for; the files have all that a method tells of.
_COSTS = (
  *('pairs asked', 'seconds', 'tokens', 'LLM seconds'),
  *('tokens per document', _SPEED),
)
_REPEATS = 0.01  # share of pairs that texts alike may answer within a cycle


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows, their scores and their tests.

  Attributes:
    data_name: what the user called the dataset.
    metrics: names of the scores shown.
    rows: the rows.
    reference: index of the row that the others are tested against.
    tests: by metric, the test of each row; None for the reference.
  """

  data_name: str
  metrics: tuple[str, ...]
  rows: Sequence[Row]
  reference: int
  tests: dict[str, list[Test | None]]

  def text(self) -> str:
    """For a terminal."""
    costs = self.shown_costs()
    lines = [['#', '', *self.metrics, 'seeds', *costs]]
    for i, row in enumerate(self.rows):
      lines.append(
        [
          str(i + 1),
          row.name,
          *(self.cell(metric, i) + self.mark(metric, i)
            for metric in self.metrics),
          str(len(row.runs)),
          *(self.cost(i, name) for name in costs),
        ]
      )  # fmt: skip
    for column in range(2, 2 + len(self.metrics)):
      _align_marks(lines, column)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
      '  '.join(
        cell.ljust(width) if column == 1 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
      ).rstrip()
      for line in lines
    ]
    return '\n'.join([*text, *self.notes()])

  def notes(self) -> list[str]:
    """What the signs in the table mean."""
    name = f'row {self.reference + 1} ({self.rows[self.reference].name})'
    lines = ['mean ± standard deviation over the seeds, percent']
    for method in dict.fromkeys(row.method for row in self.rows):
      peers = [row.flags for row in self.rows if row.method == method]
      common = [
        f'{flag}={value}'
        for flag, value in usual(peers).items()
        if any(f.get(flag) == value for f in peers)
      ]
      if common:
        lines.append(f'{method}, where not named: {" ".join(common)}')
    tests = [test for column in self.tests.values() for test in column if test]
    if any(test.p is not None for test in tests):
      lines.append(
        f'* differs from {name}: p < {LEVEL}, paired permutation test over the'
        ' test documents, Holm-corrected over the rows'
      )
    if any(_knew_answers(run) for row in self.rows for run in row.runs):
      lines.append(
        'pairs asked: less those that a verdict store held before the run'
      )
    if _SPEED in self.shown_costs():
      lines.append(
        f'{_SPEED}: of tagging the test documents, compiling included'
      )
    for row in self.rows:
      spans = {m: row.disagreement(m) for m in self.metrics}
      told = [f'{m} {x[0]:.1f} to {x[1]:.1f}' for m, x in spans.items() if x]
      if told:
        lines.append(
          f'{row.name}: runs with this start disagree in its scores'
          f' ({", ".join(told)}); those of the first run are shown'
        )
    for note in sorted({test.note for test in tests if test.note}):
      lines.append(f'? {note}, so there is no test against {name}')
    return lines

  def cell(self, metric: str, i: int) -> str:
    """A row's mean and deviation."""
    values = self.rows[i].values(metric)
    spread = deviation(values)
    text = _number(mean(values))
    return text if spread is None else f'{text} ± {spread:.1f}'

  def mark(self, metric: str, i: int) -> str:
    """What the test says: `*`, or `?` where there is none."""
    test = self.tests[metric][i]
    if test is None:
      return ''
    return '*' if test.is_significant else '?' if test.note else ''

  def shown_costs(self) -> list[str]:
    """Names of the columns behind the scores."""
    return [name for name in self.cost_names() if name in _COSTS]

  def cost_names(self) -> list[str]:
    """Names of all costs that some row has."""
    names = ['pairs asked', 'seconds', 'tokens']
    extra = dict.fromkeys(name for row in self.rows for name in _extra(row))
    names += [name for name in extra if name not in (*names, _SPEED)]
    names.append(_SPEED)
    return [
      name
      for name in names
      if any(self.cost_of(row, name) is not None for row in self.rows)
    ]

  def cost(self, i: int, name: str) -> str:
    """One cost of a row, the mean over its runs, as text."""
    value = self.cost_of(self.rows[i], name)
    if value is None:
      return UNKNOWN
    return f'{value:,.0f}' if value >= 100 or value == 0 else f'{value:.3g}'

  def cost_of(self, row: Row, name: str) -> float | None:
    """One cost of a row, the mean over its runs."""
    if row.is_start and name != _SPEED:
      return None
    if name in _extra(row):
      return mean(_extra(row)[name])
    of_run = {
      _SPEED: lambda run: run.seconds_per_document(start=row.is_start),
      'pairs asked': lambda run: (run.asked() or [None])[-1],
      'seconds': lambda run: run.summary['seconds'],
      'tokens': lambda run: run.tokens,
    }
    if name not in of_run:
      return None
    found = (of_run[name](run) for run in row.runs)
    return mean([value for value in found if value is not None])

  def is_best(self, metric: str, i: int) -> bool:
    """Whether no row has a higher mean, as far as the table tells."""
    means = [mean(row.values(metric)) for row in self.rows]
    highest = max((m for m in means if m is not None), default=None)
    return highest is not None and _number(means[i]) == _number(highest)

  def settings(self) -> tuple[list[str], dict[int, list[str]]]:
    """The flags in which trained rows differ, and their values in each."""
    trained = {i: r.flags for i, r in enumerate(self.rows) if not r.is_start}
    names = differing(list(trained.values()))
    return names, {
      i: [flags.get(name, UNKNOWN) for name in names]
      for i, flags in trained.items()
    }

  def as_json(self) -> dict[str, Any]:
    """Everything, numbers unrounded."""
    return {
      'dataset': self.data_name,
      'reference': self.rows[self.reference].name,
      'test': 'paired permutation test over documents, scores averaged over'
      ' seeds; p_holm is corrected over the rows',
      'rows': [self._row_json(i) for i in range(len(self.rows))],
    }

  def _row_json(self, i: int) -> dict[str, Any]:
    row = self.rows[i]
    scores = {}
    for metric in self.metrics:
      values, test = row.values(metric), self.tests[metric][i]
      scores[metric] = {
        'mean': mean(values),
        'deviation': deviation(values),
        'values': values,
        **(dataclasses.asdict(test) if test else {}),
      }
    return {
      'name': row.name,
      'method': row.method,
      'seeds': [int(run.flags['seed']) for run in row.runs],
      'runs': [run.path for run in row.runs],
      'scores': scores,
      'costs': {n: self.cost_of(row, n) for n in self.cost_names()},
      'flags': row.flags,
    }

  def csv(self) -> str:
    """One line a row, with a header."""
    file, costs = io.StringIO(), self.cost_names()
    writer = csv.writer(file, lineterminator='\n')
    header = ['row']
    for metric in self.metrics:
      header += [metric, f'{metric} deviation', f'{metric} p_holm']
    writer.writerow([*header, 'seeds', *costs])
    for i, row in enumerate(self.rows):
      cells: list[Any] = [row.name]
      for metric in self.metrics:
        values, test = row.values(metric), self.tests[metric][i]
        cells += [mean(values), deviation(values), test and test.p_holm]
      costs_of_row = [self.cost_of(row, name) for name in costs]
      writer.writerow([*cells, len(row.runs), *costs_of_row])
    return file.getvalue()


def _knew_answers(run: Run) -> bool:
  """Whether a store shared with other runs answered questions of this one."""
  first = (run.summary['cycles'] or [{}])[0]
  reused, asked = first.get('reused') or 0, first.get('asked') or 0
  return reused > _REPEATS * (reused + asked)


def _extra(row: Row) -> dict[str, list[float]]:
  """Costs that a method tells of itself (`cost` of its summary), by name."""
  costs: dict[str, list[float]] = {}
  for run in [] if row.is_start else row.runs:
    for name, value in (run.summary.get('cost') or {}).items():
      if isinstance(value, int | float):
        # The run's own seconds are a column by that name.
        name = 'LLM seconds' if name == 'seconds' else name.replace('_', ' ')
        costs.setdefault(name, []).append(value)
  return costs


def _align_marks(lines: list[list[str]], column: int) -> None:
  """Keeps digits below digits where only some cells have a mark."""
  if any(line[column][-1:] in ('*', '?') for line in lines):
    for line in lines:
      line[column] += ' ' * (line[column][-1:] not in ('*', '?'))


def _number(value: float | None) -> str:
  return UNKNOWN if value is None else f'{value:.1f}'
