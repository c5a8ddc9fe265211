"""The numbers of a run: one row a cycle, and the few that stand on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

from lmtx_jax.reporting.record import START, Cycle, RunRecord

_SCORES = (
  'P@1', 'P@3', 'P@5', 'R@10', 'R@100', 'nDCG@5', 'PSP@1', 'PSP@5'
)  # fmt: skip
_SHARES = ('yes_rate', 'precision', 'quality')
_COUNTS = (
  'documents', 'pseudo_labels', 'pairs', 'asked', 'reused', 'invalid',
  'retries', 'prompt_tokens', 'tokens_per_s',
)  # fmt: skip
_HEADS = {
  'yes_rate': 'yes rate',
  'pseudo_labels': 'labels',
  'prompt_tokens': 'tokens',
  'tokens_per_s': 'tokens/s',
}


@dataclasses.dataclass(frozen=True)
class TableRow:
  """One cycle.

  Attributes:
    name: of the row.
    cells: as texts, empty where there is nothing.
    is_best: it is the cycle that is exported.
  """

  name: str
  cells: tuple[str, ...]
  is_best: bool = False


def score_table(record: RunRecord) -> tuple[list[str], list[TableRow]]:
  """Heads and rows: how good each cycle's encoder is."""

  def cells(cycle: Cycle) -> list[str]:
    seconds = sum(cycle.seconds.values())
    return [
      _number(cycle.dev.get('p@1')),
      *(_number(cycle.test.get(name)) for name in _SCORES),
      f'{seconds:,.0f}' if seconds else '',
    ]

  return _table(record, ['dev P@1', *_SCORES, 'seconds'], cells)


def teaching_table(record: RunRecord) -> tuple[list[str], list[TableRow]]:
  """Heads and rows: what the teacher was asked and said."""

  def cells(cycle: Cycle) -> list[str]:
    found = cycle.teaching
    counts = [found.get(name) for name in _COUNTS]
    return [
      *(_number(found.get(name), 100) for name in _SHARES),
      *('' if n is None else f'{n:,.0f}' for n in counts),
    ]

  names = [_HEADS.get(name, name) for name in (*_SHARES, *_COUNTS)]
  return _table(record, names, cells)


def _table(
  record: RunRecord,
  heads: Sequence[str],
  cells: Callable[[Cycle], Sequence[str]],
) -> tuple[list[str], list[TableRow]]:
  """Without rows and columns that there is nothing for."""
  rows = [
    TableRow(
      'start' if cycle.number == START else str(cycle.number),
      tuple(cells(cycle)),
      cycle.number == record.best_cycle,
    )
    for cycle in record.all_cycles
    if cycle.is_begun
  ]
  if record.method == 'icxml' and record.final is not record.start:
    rows.append(TableRow('icxml', tuple(cells(record.final)), is_best=True))
  rows = [row for row in rows if any(row.cells)]
  kept = [i for i in range(len(heads)) if any(row.cells[i] for row in rows)]
  return [heads[i] for i in kept], [
    dataclasses.replace(row, cells=tuple(row.cells[i] for i in kept))
    for row in rows
  ]


def headline(record: RunRecord) -> dict[str, str]:
  """What one wants to know first, by name."""
  taught = [cycle for cycle in record.cycles if cycle.teaching]
  asked = [
    part.get('asked') or 0
    for cycle in record.cycles
    for part in (cycle.teaching, cycle.dev)
  ]
  seconds = sum(sum(c.seconds.values()) for c in record.all_cycles)
  tiles = {}
  final, start = record.final, record.start
  for name in ('P@1', 'R@10'):
    if final.test.get(name) is not None:
      tiles[f'{name}, test'] = f'{final.test[name]:.1f}'
      if final is not start and start.test.get(name) is not None:
        tiles[f'{name}, test'] = (
          f'{start.test[name]:.1f} \u2192 {final.test[name]:.1f}'
        )
  if final.dev.get('p@1') is not None:
    tiles['P@1, dev'] = f'{final.dev["p@1"]:.1f}'
  if record.best_cycle is not None:
    tiles['best cycle' if record.summary else 'best cycle so far'] = str(
      record.best_cycle
    )
  if taught:
    tiles['pairs asked'] = f'{sum(asked):,}'
    tiles['pseudo labels'] = f'{taught[-1].teaching["pseudo_labels"]:,}'
  tiles['time'] = _duration(seconds)
  return tiles | _now(record)


def _now(record: RunRecord) -> dict[str, str]:
  """How the teacher's work stands, where it is not done."""
  cycle = max(record.log.asking, default=None)
  is_done = any(c.number == cycle and c.teaching for c in record.cycles)
  if cycle is None or is_done or record.summary:
    return {}
  pairs = record.log.asking[cycle].get('pairs', 0)
  return {f'answered in cycle {cycle}': f'{pairs:,.0f}'}


def _number(value: float | None, factor: float = 1) -> str:
  return '' if value is None else f'{factor * value:.1f}'


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {seconds:02d} s' if minutes else f'{seconds} s'
