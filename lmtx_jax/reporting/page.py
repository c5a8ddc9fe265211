"""The report as one HTML page that asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
import datetime
from html import escape
import os

from lmtx_jax import __version__
from lmtx_jax.comparison.plots import Plot
from lmtx_jax.comparison.runs import known_flags
from lmtx_jax.reporting.cycle_table import (
  TableRow,
  headline,
  score_table,
  teaching_table,
)
from lmtx_jax.reporting.examples import Example, Gallery, Tag
from lmtx_jax.reporting.record import RunRecord
from lmtx_jax.types import INVALID, YES, Record

# Nothing is fetched and nothing runs, whatever a text may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TITLE_CHARS, _TEXT_CHARS, _LABEL_CHARS = 160, 600, 90
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --line: #d0d7de;
  --soft: #f4f6f8; --dim: #59636e; --bar: #9ec5e8; --yes: #08704b;
  --no: #a8400a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e3e7ec; --line: #3a414a; --soft: #1e2329;
    --dim: #9aa4af; --bar: #2c5b82; --yes: #4cc796; --no: #f09a62; }
  svg { filter: brightness(1.25); }
}
body { background: var(--page); color: var(--ink); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem;
  margin: 2.2rem 0 .4rem; } h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0; } nav { margin: .6rem 0; }
nav a { margin-right: 1rem; } a { color: inherit; }
.dim, figcaption, caption { color: var(--dim); }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0; padding: 0;
  list-style: none; }
.tiles li { background: var(--soft); border-radius: .4rem;
  padding: .5rem .8rem; }
.tiles b { display: block; white-space: nowrap; font-size: 1.25rem;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin-bottom: .8rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0; white-space: nowrap; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); }
th { font-weight: normal; } thead th, tr.best td, tr.best th
  { font-weight: 600; }
tr.best { background: var(--soft); }
th[scope=row], .settings th, .settings td { text-align: left; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
figure { margin: 0 0 1rem; } svg { width: 100%; height: auto; }
details > summary { cursor: pointer; }
.note { border-left: .25rem solid var(--no); padding: .1rem .7rem; }
article { border: 1px solid var(--line); border-radius: .4rem;
  padding: .6rem .9rem; margin: .7rem 0; overflow-wrap: anywhere; }
article p { margin: .3rem 0 .5rem; }
ol.tags { list-style: none; margin: 0; padding: 0; display: grid;
  grid-template-columns: minmax(8rem, 1fr) 7rem auto auto; }
ol.tags li { display: grid; grid-column: 1 / -1;
  grid-template-columns: subgrid; column-gap: .8rem; align-items: center;
  border-top: 1px solid var(--line); padding: .1rem 0; }
.score { position: relative; font-variant-numeric: tabular-nums; }
.score i { position: absolute; inset: .15rem auto .15rem 0;
  background: var(--bar); border-radius: .15rem; }
.score span { position: relative; padding-left: .3rem; }
.yes { color: var(--yes); } .no { color: var(--no); }
"""


def render(
  record: RunRecord,
  plots: Sequence[Plot],
  galleries: Sequence[Gallery],
  now: datetime.datetime,
) -> str:
  """The page.

  Args:
    record: of the run.
    plots: in order.
    galleries: of documents; may be empty.
    now: when it is written.
  """
  name = record.header['name']
  title = f'{record.method} on {name}'
  # What is drawn may have added notes, so they come last.
  body = [
    '<h2 id="cycles">Cycles</h2>',
    _cycles(record),
    *(_plot(number, plot) for number, plot in enumerate(plots)),
    '<h2 id="documents">Documents</h2>',
    *(_gallery(g, is_open=i < 2) for i, g in enumerate(galleries)),
    '' if galleries else '<p class="dim">None to show; see above for why.</p>',
    '<h2 id="settings">Settings</h2>',
    _settings(record),
  ]
  return '\n'.join(
    [
      '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
      f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f'<title>{_text(title, _TITLE_CHARS)}</title><style>{_STYLE}</style>',
      f'</head><body><main><h1>{_text(title, _TITLE_CHARS)}</h1>',
      f'<p>{_text(record.state, _TEXT_CHARS)}</p>',
      f'<p class="dim">{escape(os.path.abspath(record.path))}, as of'
      f' {now:%Y-%m-%d %H:%M:%S}</p>',
      '<nav><a href="#cycles">Cycles</a><a href="#documents">Documents</a>'
      '<a href="#settings">Settings</a></nav>',
      *(f'<p class="note">{_text(n, _TEXT_CHARS)}</p>' for n in record.notes),
      _tiles(record),
      *body,
      f'<p class="dim">lmtx_jax {__version__}</p></main></body></html>\n',
    ]
  )


def _text(text: str, most: int) -> str:
  """Escaped, white space made one, cut."""
  text = ' '.join(text[: 20 * most].split())
  return escape(text if len(text) <= most else f'{text[:most].rstrip()}\u2026')


def _tiles(record: RunRecord) -> str:
  tiles = [
    f'<li><b>{escape(value)}</b>{escape(name)}</li>'
    for name, value in headline(record).items()
  ]
  return f'<ul class="tiles">{"".join(tiles)}</ul>'


def _cycles(record: RunRecord) -> str:
  tables = (
    (
      'Scores in percent; the best cycle is marked',
      score_table(record),
    ),
    (
      'The teacher; shares in percent',
      teaching_table(record),
    ),
  )
  parts = [
    _table(caption, ('cycle', *heads), list(map(_cycle, rows)))
    for caption, (heads, rows) in tables
    if rows
  ]
  return ''.join(parts) or '<p class="dim">No stage is done yet.</p>'


def _cycle(row: TableRow) -> str:
  cells = ''.join(f'<td>{escape(cell)}</td>' for cell in row.cells)
  style = ' class="best"' if row.is_best else ''
  return f'<tr{style}><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def _plot(number: int, plot: Plot) -> str:
  return (
    f'<h2>{escape(plot.title)}</h2><figure>{plot.svg(number)}'
    f'<figcaption>{escape(plot.caption)}</figcaption></figure>'
  )


def _settings(record: RunRecord) -> str:
  known = known_flags()
  chosen, default = [], []
  for name, value in record.flags.items():
    if name not in known:
      usual, help_text = '(not a flag of this version)', ''
    else:
      usual = str(known[name].default)
      help_text = known[name].metadata['help']
    line = (
      f'<tr title="{escape(help_text)}"><th scope="row">--{escape(name)}</th>'
      f'<td>{_text(value, _TEXT_CHARS)}</td>'
    )
    if value == usual:
      default.append(f'{line}</tr>')
    else:
      chosen.append(
        f'{line}<td class="dim">{_text(usual, _TEXT_CHARS)}</td></tr>'
      )
  return (
    _table(
      'Other than the default', ('flag', 'value', 'default'), chosen, 'settings'
    )
    + f'<details><summary>{len(default)} flags as by default</summary>'
    + _table('', ('flag', 'value'), default, 'settings')
    + '</details>'
  )


def _table(
  caption: str, heads: Sequence[str], lines: Sequence[str], style: str = ''
) -> str:
  cells = ''.join(f'<th scope="col">{escape(head)}</th>' for head in heads)
  return (
    f'<div class="wide"><table class="{style}"><caption>{escape(caption)}'
    f'</caption><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody>'
    '</table></div>'
  )


def _gallery(gallery: Gallery, *, is_open: bool) -> str:
  count, opened = len(gallery.examples), ' open' if is_open else ''
  return (
    f'<details{opened}><summary><b>{escape(gallery.title)}</b> ({count})'
    '</summary>'
    f'<p class="dim">{escape(gallery.caption)}</p>'
    f'{"".join(map(_example, gallery.examples))}</details>'
  )


def _example(example: Example) -> str:
  document = example.document
  title = document.title if document.title.strip() else document.uid
  scores = ', '.join(f'{n} {value:.0f}' for n, value in example.scores.items())
  # Of scores above 1, which words add to, the longest bar is the highest.
  top = max([1.0, *(tag.score or 0.0 for tag in example.tags)])
  tags = ''.join(_tag(tag, top) for tag in example.tags)
  lines = [
    f'<article><h3 dir="auto">{_text(title, _TITLE_CHARS)}</h3>',
    f'<div class="dim">{_text(document.uid, _LABEL_CHARS)}'
    f'{f" &middot; {escape(scores)}" if scores else ""}</div>',
    f'<p dir="auto">{_text(document.content, _TEXT_CHARS)}</p>',
    f'<ol class="tags">{tags}</ol>',
  ]
  if example.num_missed:
    names = ', '.join(f'<bdi>{_label(label)}</bdi>' for label in example.missed)
    more = example.num_missed - len(example.missed)
    rest = f' and {more} more' if more else ''
    lines.append(f'<p><span class="no">true as well:</span> {names}{rest}</p>')
  return ''.join([*lines, '</article>'])


def _tag(tag: Tag, top: float) -> str:
  score = ''
  if tag.score is not None:
    width = 100 * max(0.0, tag.score) / top
    score = f'<i style="width:{width:.0f}%"></i><span>{tag.score:.3f}</span>'
  is_true = {
    None: '',
    True: '<span class="yes">\u2713 true</span>',
    False: '<span class="dim">\u2717 not true</span>',
  }[tag.is_true]
  said = ''
  if tag.verdict is not None:
    answer, p_yes = tag.verdict
    word = {YES: 'yes', INVALID: 'invalid'}.get(answer, 'no')
    sure = '' if p_yes is None else f' ({p_yes:.2f})'
    kind = 'yes' if answer == YES else 'no'
    said = f'teacher: <span class="{kind}">{word}</span>{sure}'
  return (
    f'<li><bdi>{_label(tag.label)}</bdi><span class="score">{score}</span>'
    f'<span>{is_true}</span><span class="dim">{said}</span></li>'
  )


def _label(label: Record) -> str:
  title = label.title if label.title.strip() else label.uid
  return _text(title, _LABEL_CHARS)
