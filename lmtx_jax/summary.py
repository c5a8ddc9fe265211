"""summary.json, and the table of cycles that a run ends with."""

from __future__ import annotations

import os
from typing import Any

from lmtx_jax.files import read_json, staged, write_json
from lmtx_jax.run_dir import RunDir


def make_summary(
  run: RunDir,
  dev_scores: list[float],
  test_scores: list[dict[str, Any]],
  initial: dict[str, Any],
  stopped_because: str,
) -> dict[str, Any]:
  """All that is known of a run, from what its stages left.

  Args:
    run: the run directory.
    dev_scores: of each cycle, in percent.
    test_scores: of each cycle.
    initial: test scores of the encoder before cycle 0.
    stopped_because: one phrase.
  """
  cycles = []
  for cycle, (dev, test) in enumerate(
    zip(dev_scores, test_scores, strict=True)
  ):
    teaching = read_json(run.cycle_file(cycle, 'teaching.json'))
    judged = read_json(run.cycle_file(cycle, 'dev_score.json'))
    cycles.append(
      {
        'cycle': cycle,
        'dev_p@1': dev,
        'test': test,
        **teaching,
        'dev': {k: v for k, v in judged.items() if k != 'p@1'},
        'seconds': run.seconds(cycle),
      }
    )
  best = best_cycle(dev_scores)
  seconds = [run.seconds(c) for c in range(-1, len(dev_scores) + 1)]
  return {
    'best_cycle': best,
    'stopped_because': stopped_because,
    'seconds': round(sum(sum(s.values()) for s in seconds), 3),
    'warmup_seconds': run.seconds(-1),
    'cycles': cycles,
    'test': test_scores[best] if best is not None else initial,
    'initial': initial,
  }


def best_cycle(dev_scores: list[float]) -> int | None:
  """The first of the highest dev scores; None where there is no cycle."""
  if not dev_scores:
    return None
  return max(range(len(dev_scores)), key=dev_scores.__getitem__)


def write_summary(run: RunDir, summary: dict[str, Any]) -> None:
  """Writes RUN/summary.json."""
  with staged(os.path.join(run.path, 'summary.json')) as temporary:
    write_json(temporary, summary)


def table(summary: dict[str, Any]) -> str:
  """The cycles as a table for people; scores in percent."""
  header = (
    'cycle', 'dev P@1', 'P@1', 'P@5', 'R@10', 'R@100', 'docs', 'labels',
    'precision', 'quality', 'asked', 'reused', 'seconds',
  )  # fmt: skip
  rows = [header, ('start', '', *_scores(summary['initial']), *[''] * 7)]
  for row in summary['cycles']:
    best = '*' if row['cycle'] == summary['best_cycle'] else ''
    rows.append(
      (
        f'{best}{row["cycle"]}',
        _number(row['dev_p@1']),
        *_scores(row['test']),
        str(row['documents']),
        str(row['pseudo_labels']),
        _number(row['precision'], 3),
        _number(row['quality'], 3),
        str(row['asked']),
        str(row['reused']),
        _number(sum(row['seconds'].values()), 0),
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    '  '.join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in rows
  ]
  return '\n'.join(lines)


def _scores(test: dict[str, Any]) -> tuple[str, ...]:
  return tuple(_number(test.get(k)) for k in ('P@1', 'P@5', 'R@10', 'R@100'))


def _number(value: float | None, digits: int = 1) -> str:
  return '-' if value is None else f'{value:.{digits}f}'
