"""summary.json, and the table of cycles that a run ends with."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from lmtx_jax.files import read_json, staged, write_json
from lmtx_jax.run_dir import RunDir
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.stages import DOCUMENT_SCORES


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a method came to.

  Attributes:
    best: the encoder that is exported.
    best_cycle: the cycle it comes from; None for the start.
    initial: test scores of the encoder before cycle 0.
    stopped_because: one phrase.
    dev_scores: of each cycle, in percent; None where no teacher was asked.
    test_scores: of each cycle.
    test: the method's test scores, if they are not the exported encoder's.
    documents: file of their scores document by document, within the run.
    more: further entries of summary.json.
  """

  best: Snapshot
  best_cycle: int | None
  initial: dict[str, Any]
  stopped_because: str
  dev_scores: Sequence[float | None] = ()
  test_scores: Sequence[dict[str, Any]] = ()
  test: dict[str, Any] | None = None
  documents: str = ''
  more: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_summary(run: RunDir, method: str, outcome: Outcome) -> dict[str, Any]:
  """All that is known of a run, from what its stages left.

  Args:
    run: the run directory.
    method: its name.
    outcome: what it came to.
  """
  cycles = []
  for cycle, (dev, test) in enumerate(
    zip(outcome.dev_scores, outcome.test_scores, strict=True)
  ):
    teaching = _read(run.cycle_file(cycle, 'teaching.json'))
    judged = _read(run.cycle_file(cycle, 'dev_score.json'))
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
  best, num_cycles = outcome.best_cycle, len(outcome.test_scores)
  seconds = [run.seconds(c) for c in range(-1, num_cycles + 1)]
  test, documents = outcome.test, outcome.documents
  if not test:
    test = outcome.initial if best is None else outcome.test_scores[best]
    path = run.cycle_file(-1 if best is None else best, DOCUMENT_SCORES)
    documents = os.path.relpath(path, run.path)
  return {
    'method': method,
    'best_cycle': best,
    'stopped_because': outcome.stopped_because,
    'seconds': round(sum(sum(s.values()) for s in seconds), 3),
    'warmup_seconds': run.seconds(-1),
    'cycles': cycles,
    'test': test,
    'test_documents': documents,
    'initial': outcome.initial,
    **outcome.more,
  }


def _read(path: str) -> dict[str, Any]:
  """An artifact that not every method leaves."""
  return read_json(path) if os.path.exists(path) else {}


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
    taught = 'documents' in row
    rows.append(
      (
        f'{best}{row["cycle"]}',
        _number(row['dev_p@1']) if taught else '',
        *_scores(row['test']),
        str(row.get('documents', '')),
        str(row.get('pseudo_labels', '')),
        _number(row['precision'], 3) if taught else '',
        _number(row['quality'], 3) if taught else '',
        str(row.get('asked', '')),
        str(row.get('reused', '')),
        _number(sum(row['seconds'].values()), 0),
      )
    )
  if summary['best_cycle'] is None and summary['test'] != summary['initial']:
    rows.append((summary['method'], '', *_scores(summary['test']), *[''] * 7))
  # Columns that no cycle has anything for say nothing.
  columns = [c for c in zip(*rows, strict=True) if any(c[1:])]
  widths = [max(map(len, column)) for column in columns]
  lines = [
    '  '.join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in zip(*columns, strict=True)
  ]
  return '\n'.join(lines)


def _scores(test: dict[str, Any]) -> tuple[str, ...]:
  return tuple(_number(test.get(k)) for k in ('P@1', 'P@5', 'R@10', 'R@100'))


def _number(value: float | None, digits: int = 1) -> str:
  return '-' if value is None else f'{value:.{digits}f}'
