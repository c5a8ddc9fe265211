"""The plots of a comparison, each as an inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from lmtx_jax.comparison import curves
from lmtx_jax.comparison.curves import START, Series, Sweep
from lmtx_jax.comparison.groups import Row, short_value
from lmtx_jax.comparison.look import (
  COLOURS,
  INK,
  STYLE,
  Plot,
  draw_legend,
  draw_lines,
  make_panels,
  wrap,
)
from lmtx_jax.comparison.runs import kind

_BAR_METRICS = ('P@1', 'P@5', 'R@10')
_AXIS_NAMES = {
  'num_train_docs': 'training documents',
  'shortlist_size': 'labels in a shortlist',
  'max_doc_tokens': 'tokens of a document',
}


def draw_all(rows: Sequence[Row]) -> list[Plot]:
  """The plots that these rows allow."""
  with matplotlib.rc_context(STYLE):
    plots = []
    for flag, swept in curves.sweeps(rows).items():
      numeric = kind(flag) in (int, float) and flag != 'hard_negatives'
      if numeric:
        plots.append(_over_flag(flag, swept))
      else:
        plots.append(_bars(swept[0]) if len(swept) == 1 else _bar_sets(swept))
    rows = curves.taught(rows)
    drawn = (_quality_by_cycle(rows), _scores_by_cycle(rows), _by_pairs(rows))
    return plots + [plot for plot in drawn if plot]


def _over_flag(flag: str, swept: Sequence[Sweep]) -> Plot:
  """P@1 over a number (figures 3 and 5 of LMTX)."""
  values = [value for sweep in swept for value, _ in sweep.rows]
  ticks = {value: float(value) for value in values}
  if flag == 'num_train_docs' and '0' in ticks:
    # All documents: how many that is, no flag tells. Even steps, all last.
    order = sorted({float(v) for v in values} - {0.0})
    ticks = {v: float(order.index(float(v))) for v in values if v != '0'}
    ticks['0'] = float(len(order))
  series = [
    Series(
      sweep.name,
      tuple(
        curves.point(ticks[value], row.values('P@1'), len(row.runs))
        for value, row in sweep.rows
        if row.values('P@1')
      ),
    )
    for sweep in swept
  ]
  figure, (axes,) = make_panels(1, [s.name for s in series])
  draw_lines(axes, series)
  name = _AXIS_NAMES.get(flag, flag.replace('_', ' '))
  axes.set(xlabel=f'{name} (--{flag})', ylabel='P@1 (%)')
  texts = {place: _value_text(flag, v) for v, place in ticks.items()}
  if '0' not in ticks and min(texts) > 0 and max(texts) / min(texts) > 8:
    axes.set_xscale('log')
  axes.set_xticks(list(texts), list(texts.values()))
  axes.minorticks_off()
  draw_legend(figure, [axes])
  return Plot(
    f'P@1 over {name}', 'Bars: standard deviation over the seeds.', figure
  )


def _value_text(flag: str, value: str) -> str:
  if flag == 'num_train_docs' and value == '0':
    return 'all'
  return f'{float(value):,g}'


def _bars(sweep: Sweep) -> Plot:
  """Scores side by side (figure 4 of LMTX: hard negatives)."""
  figure, (axes,) = make_panels(
    1, [f'{sweep.flag}={value}' for value, _ in sweep.rows]
  )
  values = {value for value, _ in sweep.rows}
  width = 0.8 / len(sweep.rows)
  for i, (value, row) in enumerate(sweep.rows):
    found = [
      curves.point(x, row.values(metric) or [0.0], len(row.runs))
      for x, metric in enumerate(_BAR_METRICS)
    ]
    places = [p.x + (i - (len(sweep.rows) - 1) / 2) * width for p in found]
    bars = axes.bar(
      places,
      [p.y for p in found],
      width * 0.92,
      yerr=[p.spread for p in found],
      color=COLOURS[i % len(COLOURS)],
      ecolor=INK,
      error_kw={'elinewidth': 0.9},
      label=f'{sweep.flag}={short_value(sweep.flag, value, values)}',
    )
    texts = [f'{p.y:.1f}' if row.values(m) else '-'
             for p, m in zip(found, _BAR_METRICS, strict=True)]  # fmt: skip
    axes.bar_label(bars, texts, padding=2, fontsize=7.5)
  axes.set_xticks(range(len(_BAR_METRICS)), _BAR_METRICS)
  axes.set(ylabel='score (%)')
  axes.grid(axis='y')
  axes.margins(y=0.1)
  draw_legend(figure, [axes], always=True)
  return Plot(
    f'Scores by {sweep.flag.replace("_", " ")}',
    'Bars on bars: standard deviation over the seeds.',
    figure,
  )


def _bar_sets(swept: Sequence[Sweep]) -> Plot:
  """P@1 with each value of a flag, for several settings of the others."""
  flag, names = swept[0].flag, [wrap(sweep.name, 1) for sweep in swept]
  values = list(dict.fromkeys(v for sweep in swept for v, _ in sweep.rows))
  figure = Figure(
    figsize=(7.8, 1.2 + 0.24 * len(swept) * (len(values) + 1)),
    layout='constrained',
  )
  axes, height = figure.subplots(), 0.8 / len(values)
  for i, value in enumerate(values):
    found = [
      curves.point(place, dict(sweep.rows)[value].values('P@1'), 1)
      for place, sweep in enumerate(swept)
      if value in dict(sweep.rows) and dict(sweep.rows)[value].values('P@1')
    ]
    bars = axes.barh(
      [p.x + (i - (len(values) - 1) / 2) * height for p in found],
      [p.y for p in found],
      height * 0.92,
      xerr=[p.spread for p in found],
      color=COLOURS[i % len(COLOURS)],
      ecolor=INK,
      error_kw={'elinewidth': 0.9},
      label=f'{flag}={short_value(flag, value, values)}',
    )
    axes.bar_label(bars, [f'{p.y:.1f}' for p in found], padding=2, fontsize=7.5)
  axes.set_yticks(range(len(swept)), names)
  axes.invert_yaxis()
  axes.set(xlabel='P@1 (%)')
  axes.grid(axis='x')
  axes.margins(x=0.1, y=0.01)
  draw_legend(figure, [axes], always=True)
  return Plot(
    f'P@1 by {flag.replace("_", " ")}',
    'Bars on bars: standard deviation over the seeds.',
    figure,
  )


def _quality_by_cycle(rows: Sequence[Row]) -> Plot | None:
  """How good the pseudo labels are (figure 6 of LMTX)."""
  return _cycle_plot(
    rows,
    {
      'quality (% of the true labels)': (
        lambda cycle: _percent(cycle.get('quality'))
      ),
      'precision (% of the pseudo labels)': (
        lambda cycle: _percent(cycle.get('precision'))
      ),
    },
    'Pseudo labels by cycle',
  )


def _scores_by_cycle(rows: Sequence[Row]) -> Plot | None:
  """What the teacher thinks of the tagger, and what is true."""
  return _cycle_plot(
    rows,
    {
      'dev P@1 by the teacher (%)': lambda cycle: cycle.get('dev_p@1'),
      'test P@1 (%)': lambda cycle: cycle['test'].get('P@1'),
    },
    'Dev and test score by cycle',
  )


def _cycle_plot(rows: Sequence[Row], reads: dict, title: str) -> Plot | None:
  """One panel for each number that some row has."""
  found = {name: curves.by_cycle(rows, read) for name, read in reads.items()}
  found = {name: series for name, series in found.items() if series}
  if not found:
    return None
  names = [row.name for row in rows]
  figure, panels = make_panels(len(found), names)
  for axes, (label, series) in zip(panels, found.items(), strict=True):
    draw_lines(axes, series, names, dodge=min(0.04, 0.25 / len(series)))
    axes.set(xlabel='cycle', ylabel=label)
    places = sorted({round(p.x) for s in series for p in s.points})
    texts = ['start' if place == START else str(place) for place in places]
    axes.set_xticks(places, texts)
    axes.set_xlim(places[0] - 0.4, places[-1] + 0.4)
  draw_legend(figure, panels)
  return Plot(title, _caption(found), figure)


def _by_pairs(rows: Sequence[Row]) -> Plot | None:
  """What the teacher's answers buy."""
  found = {m: curves.by_pairs(rows, m) for m in ('P@1', 'R@10')}
  found = {metric: series for metric, series in found.items() if series}
  if not found:
    return None
  names = [row.name for row in rows]
  figure, panels = make_panels(len(found), names)
  for axes, (metric, series) in zip(panels, found.items(), strict=True):
    draw_lines(axes, series, names)
    axes.set(xlabel='pairs asked of the teacher', ylabel=f'{metric} (%)')
    axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  draw_legend(figure, panels)
  return Plot(
    'Test scores over pairs asked',
    'One point a cycle, 0 is the start; questions for the dev score count.'
    f' {_caption(found)}',
    figure,
  )


def _caption(found: dict[str, list[Series]]) -> str:
  points = [p for series in found.values() for s in series for p in s.points]
  text = 'Bars: standard deviation over the seeds.'
  if all(p.is_whole for p in points):
    return text
  return f'{text} Hollow: not all seeds got that far.'


def _percent(value: float | None) -> float | None:
  return None if value is None else 100 * value
