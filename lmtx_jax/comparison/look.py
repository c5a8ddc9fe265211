"""How every plot looks, and how it gets onto the page."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import html
import io
import math
import re
import textwrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmtx_jax.comparison.curves import Series

# Okabe and Ito's colours, that all kinds of eyes tell apart; two series also
# differ in marker, and in line once the colours are used up.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_MARKERS, _LINES = ('o', 's', '^', 'D', 'v', 'P', 'X'), ('-', '--', ':')
INK, _PAPER = '#123456', '#fedcba'  # stand for the colours of the page
_COLUMN = 48  # characters of a legend below one panel
STYLE = {
  'svg.fonttype': 'path',
  'svg.hashsalt': 'lmtx_jax',  # the same numbers give the same bytes
  'font.size': 9,
  'text.color': INK,
  'axes.labelcolor': INK,
  'axes.edgecolor': INK,
  'axes.linewidth': 0.8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.titlesize': 9,
  'axes.axisbelow': True,
  'grid.color': INK,
  'grid.alpha': 0.15,
  'grid.linewidth': 0.6,
  'xtick.color': INK,
  'ytick.color': INK,
  'legend.frameon': False,
  'lines.markersize': 5,
  'errorbar.capsize': 2.5,
}


@dataclasses.dataclass(frozen=True)
class Plot:
  """One plot of the page.

  Attributes:
    title: what it shows.
    caption: how to read it.
    figure: as drawn.
  """

  title: str
  caption: str
  figure: Figure

  def svg(self, number: int) -> str:
    """An inline SVG in the colours of the page; `number` is its own."""
    file = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    with matplotlib.rc_context(STYLE):
      self.figure.savefig(
        file, format='svg', transparent=True, metadata=nothing
      )
    text = file.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>plot{number}-', text)
    text = text.replace(INK, 'currentColor').replace(_PAPER, 'var(--page)')
    label = html.escape(f'{self.title}. {self.caption}')
    return text.replace('<svg', f'<svg role="img" aria-label="{label}"', 1)


def make_panels(
  num_panels: int, names: Sequence[str]
) -> tuple[Figure, list[Axes]]:
  """Panels side by side, and room for a legend of these names below."""
  lines = sum(wrap(name, num_panels).count('\n') + 1 for name in names)
  lines = math.ceil(lines / _legend_columns(num_panels, names))
  figure = Figure(
    figsize=(3.9 * max(num_panels, 1.25), 2.9 + 0.19 * lines),
    layout='constrained',
  )
  figure.get_layout_engine().set(wspace=0.06)  # keeps labels off neighbours
  return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def _legend_columns(num_panels: int, names: Sequence[str]) -> int:
  longest = max(map(len, names), default=0)
  return num_panels if longest <= _COLUMN else 1


def wrap(name: str, num_panels: int) -> str:
  """A name in lines that the figure is wide enough for."""
  return textwrap.fill(name, _COLUMN * num_panels + 10, break_on_hyphens=False)


def draw_lines(
  axes: Axes,
  series: Sequence[Series],
  names: Sequence[str] = (),
  dodge: float = 0.0,
) -> None:
  """Lines with error bars; a name has the same look in all plots."""
  names = names or [s.name for s in series]
  for i, one in enumerate(series):
    k = names.index(one.name)
    colour = COLOURS[k % len(COLOURS)]
    look = {'color': colour, 'marker': _MARKERS[k % len(_MARKERS)]}
    shift = dodge * (i - (len(series) - 1) / 2)
    axes.errorbar(
      [p.x + shift for p in one.points],
      [p.y for p in one.points],
      [p.spread for p in one.points],
      linestyle=_LINES[k // len(COLOURS) % len(_LINES)],
      linewidth=1.4,
      elinewidth=0.9,
      label=one.name,
      **look,
    )
    part = [p for p in one.points if not p.is_whole]
    axes.plot(
      [p.x + shift for p in part],
      [p.y for p in part],
      linestyle='none',
      markerfacecolor=_PAPER,
      zorder=3,
      **look,
    )
  axes.grid(axis='y')


def draw_legend(
  figure: Figure, panels: Sequence[Axes], *, always: bool = False
) -> None:
  """Below the panels; a single series needs none."""
  handles, names = max(
    (axes.get_legend_handles_labels() for axes in panels),
    key=lambda found: len(found[1]),
  )
  if len(names) > 1 or always:
    figure.legend(
      handles,
      [wrap(name, len(panels)) for name in names],
      loc='outside lower left',
      ncols=_legend_columns(len(panels), names),
    )
