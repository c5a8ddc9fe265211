"""The comparison as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lmtx_jax import __version__
from lmtx_jax.comparison.plots import Plot
from lmtx_jax.comparison.table import UNKNOWN, Table

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --line: #d0d7de;
  --soft: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e3e7ec; --line: #3a414a; --soft: #1e2329; }
}
body { background: var(--page); color: var(--ink); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93em;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3rem 0; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line);
  text-align: right; }
td { white-space: nowrap; } thead th { vertical-align: bottom; }
th[scope=row], thead th:first-child { text-align: left; }
th[scope=row] { font-weight: normal; min-width: 12rem; }
thead th { border-bottom: 2px solid var(--line); }
tr.reference, .settings tbody tr:nth-child(even) { background: var(--soft); }
td.best { font-weight: bold; }
small { display: block; opacity: .75; font-weight: normal; }
figure { margin: 0; } figcaption { opacity: .8; }
svg { max-width: 100%; height: auto; }
li { margin: .1rem 0; }
"""


def render(table: Table, plots: Sequence[Plot]) -> str:
  """The page: the scores, the plots, and what the rows stand for."""
  title = f'Runs on {table.data_name}'
  parts = [
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>',
    f'<h1>{escape(title)}</h1>',
    _scores(table),
    '<ul>',
    *(f'<li>{escape(note)}</li>' for note in table.notes()),
    '</ul>',
  ]
  for number, plot in enumerate(plots):
    parts.append(
      f'<h2>{escape(plot.title)}</h2><figure>{plot.svg(number)}'
      f'<figcaption>{escape(plot.caption)}</figcaption></figure>'
    )
  parts += [
    _settings(table),
    _runs(table),
    f'<p><small>lmtx_jax {__version__}</small></p></main></body></html>\n',
  ]
  return '\n'.join(parts)


def _scores(table: Table) -> str:
  costs = table.shown_costs()
  heads = ['row', *table.metrics, 'seeds', *costs]
  lines = []
  for i, row in enumerate(table.rows):
    is_reference = i == table.reference
    cells = [_score(table, metric, i) for metric in table.metrics]
    cells += [f'<td>{len(row.runs)}</td>']
    cells += [f'<td>{escape(table.cost(i, name))}</td>' for name in costs]
    note = '<small>reference of the tests</small>' if is_reference else ''
    lines.append(
      f'<tr{" class=reference" if is_reference else ""}><th scope="row">'
      f'{i + 1}. {escape(row.name)}{note}</th>{"".join(cells)}</tr>'
    )
  return _table('Scores on the test documents, in percent', heads, lines)


def _score(table: Table, metric: str, i: int) -> str:
  test, note = table.tests[metric][i], ''
  if test and test.p_holm is not None:
    below = '&lt; 0.001' if test.p_holm < 0.001 else f'= {test.p_holm:.3f}'
    note = f'<small>p {below}</small>'
  elif test:
    note = f'<small>{escape(test.note.split(":")[0])}</small>'
  mark = table.mark(metric, i).replace('?', '')
  style = ' class="best"' if table.is_best(metric, i) else ''
  return f'<td{style}>{table.cell(metric, i)}{mark}{note}</td>'


def _settings(table: Table) -> str:
  names, values = table.settings()
  if not names:
    return ''
  lines = [
    f'<tr><th scope="row">{i + 1}. {escape(table.rows[i].name)}</th>'
    + ''.join(f'<td>{escape(value)}</td>' for value in of_row)
    + '</tr>'
    for i, of_row in values.items()
  ]
  caption = f'Flags in which trained rows differ; {UNKNOWN}: of no effect'
  return '<h2>Settings</h2>' + _table(
    caption, ['row', *names], lines, 'settings'
  )


def _runs(table: Table) -> str:
  paths = [', '.join(run.path for run in row.runs) for row in table.rows]
  lines = [
    f'<li>{escape(row.name)}: {escape(listed)}</li>'
    for row, listed in zip(table.rows, paths, strict=True)
  ]
  return f'<h2>Runs</h2><ul>{"".join(lines)}</ul>'


def _table(
  caption: str, heads: Sequence[str], lines: Sequence[str], style: str = ''
) -> str:
  cells = ''.join(f'<th scope="col">{_breakable(h)}</th>' for h in heads)
  return (
    f'<div class="wide"><table class="{style}"><caption>{escape(caption)}'
    f'</caption><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody>'
    '</table></div>'
  )


def _breakable(name: str) -> str:
  """Long names of flags go on in the next line."""
  return escape(name).replace('_', '_<wbr>')
