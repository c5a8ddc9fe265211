"""Compares finished runs on one dataset: a table, a test and plots.

python -m lmtx_jax.compare RUN... [--output=FILE.html|.json|.csv] [--reference=ROW]

RUN are run directories. Runs that differ in --seed alone, and in flags that
change no result or that their method does not read, are one row: the mean over
the seeds, and the standard deviation (of a sample). An untrained encoder is a
row of its own. Scores are percent on the test documents.

Each row is tested against the reference (by default the row with the highest
first metric) on the scores of each document, averaged over the seeds: a paired
permutation test of the mean, Holm's correction over the rows. It tells whether
the order would hold for other documents; whether it would for other seeds, the
deviations tell.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import os

from absl import flags

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.comparison import page, plots
from lmtx_jax.comparison.groups import make_rows
from lmtx_jax.comparison.runs import read_runs
from lmtx_jax.comparison.significance import compare_rows, find_reference
from lmtx_jax.comparison.table import Table
from lmtx_jax.files import staged, write_json
from lmtx_jax.types import UserError

_ENDINGS = ('.html', '.json', '.csv')


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """Comparison."""

  output: str = flag(
    '',
    'File to write: .html is one page with plots, .json and .csv the numbers; '
    'empty: the table is only printed.',
  )
  metrics: str = flag(
    'P@1,P@5,R@10,R@100', 'Scores to show, with commas between them.'
  )
  reference: str = flag(
    '',
    'Row that the others are tested against, by its name or its number in the '
    'table; empty: the row with the highest first metric.',
  )
  initial: bool = flag(True, 'The encoder before training is a row of its own.')


def main(values: flags.FlagValues, words: list[str]) -> None:
  """Reads the runs, prints the table, writes the file."""
  config = cli.build(CompareConfig, values)
  ending = os.path.splitext(config.output)[1].lower()
  if config.output and ending not in _ENDINGS:
    raise UserError(
      f'--output={config.output}: the ending must be one of'
      f' {", ".join(_ENDINGS)}'
    )
  metrics = tuple(m.strip() for m in config.metrics.split(',') if m.strip())
  runs = read_runs(words, metrics)
  rows = make_rows(runs, initial=config.initial)
  reference = find_reference(rows, config.reference, metrics[0])
  tests = compare_rows(rows, reference, metrics)
  table = Table(runs[0].data_name, metrics, rows, reference, tests)
  print(table.text())
  if not config.output:
    return
  with staged(os.path.abspath(config.output)) as temporary:
    if ending == '.json':
      write_json(temporary, table.as_json())
      return
    text = table.csv()
    if ending == '.html':
      text = page.render(table, plots.draw_all(rows))
    with open(temporary, 'w', encoding='utf-8', newline='') as f:
      f.write(text)


if __name__ == '__main__':
  cli.run(main, (CompareConfig,), __doc__, takes_words=True)
