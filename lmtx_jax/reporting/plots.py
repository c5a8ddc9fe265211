"""The plots of a report, each as an inline SVG."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
import numpy as np

from lmtx_jax.comparison.look import COLOURS, STYLE, Plot
from lmtx_jax.reporting.frequencies import Frequencies
from lmtx_jax.reporting.frequency_plot import draw_frequencies
from lmtx_jax.reporting.look import (
  cycle_axis,
  legend,
  lines,
  panels,
  reader,
  stack,
)
from lmtx_jax.reporting.metric_log import Curve
from lmtx_jax.reporting.record import START, Cycle, RunRecord

_STYLE = STYLE | {'legend.fontsize': 8, 'legend.handlelength': 1.6}
# Each stage has the same colour in all reports.
_STAGES = {
  'train': COLOURS[0],
  'teach': COLOURS[1],
  'encode': COLOURS[2],
  'encode_labels': '#7fc9b5',
  'dev': COLOURS[3],
  'test': COLOURS[4],
  'shortlist': COLOURS[5],
  'index': '#8a8f98',
  'cluster': '#8c6bb1',
  'icxml': '#b5533c',
}
_OTHER = '#b8a03a'


def draw_all(record: RunRecord, found: Frequencies | None) -> list[Plot]:
  """The plots that a run has anything for."""
  with matplotlib.rc_context(_STYLE):
    plots = (
      _scores(record),
      _losses(record),
      _pseudo_labels(record),
      _questions(record),
      _seconds(record),
      draw_frequencies(found) if found else None,
    )
  return [plot for plot in plots if plot]


def _scores(record: RunRecord) -> Plot | None:
  cycles = [c for c in record.all_cycles if c.test or c.dev]
  if not any(c.test.get('P@1') is not None or c.dev for c in cycles):
    return None
  figure, (left, right) = panels(2, 3.3)
  reads = {f'P@{k}': reader('test', f'P@{k}') for k in (1, 3, 5)}
  reads['dev P@1 (teacher)'] = reader('dev', 'p@1')
  lines(left, cycles, reads)
  left.set(ylabel='precision (%)')
  lines(
    right,
    cycles,
    {name: reader('test', name) for name in ('R@10', 'R@100', 'nDCG@5')},
  )
  right.set(ylabel='score (%)')
  for axes in (left, right):
    cycle_axis(axes, cycles)
  if not right.lines:
    right.set_visible(False)
  return Plot(
    'Scores by cycle',
    'On the test documents; the dev score is what the teacher says of other'
    ' documents, and all that a run chooses its cycle by.',
    figure,
  )


def _losses(record: RunRecord) -> Plot | None:
  losses = record.log.losses
  if not losses:
    return None
  warm_up = {n: curve for n, curve in losses.items() if n == START}
  cycles = {n: curve for n, curve in losses.items() if n != START}
  parts = [part for part in (warm_up, cycles) if part]
  figure, every = panels(len(parts), 3.3)
  for axes, part in zip(every, parts, strict=True):
    for i, (cycle, curve) in enumerate(part.items()):
      name = 'warm-up' if cycle == START else f'cycle {cycle}'
      _draw_curve(axes, curve, i, name)
    # A training starts far above where it ends: both are worth seeing.
    lows = np.concatenate([curve.low for curve in part.values()])
    highs = np.concatenate([curve.high for curve in part.values()])
    if lows.min() > 0 and highs.max() / lows.min() > 20:
      axes.set_yscale('log')
    last = max(10.0, *(curve.steps[-1] for curve in part.values()))
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.set(xlabel='step', ylabel='loss')
    axes.set_title('warm-up' if part is warm_up else '', loc='left')
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    axes.grid(axis='y')
    legend(axes, 6 // len(parts))
  return Plot(
    'Loss over steps',
    'Means of neighbouring steps; the band is from the least to the largest.',
    figure,
  )


def _draw_curve(axes: Axes, curve: Curve, i: int, name: str) -> None:
  colour = COLOURS[i % len(COLOURS)]
  line = ('-', '--', ':')[i // len(COLOURS) % 3]
  one = {'marker': 'o'} if len(curve.steps) == 1 else {}
  axes.plot(
    curve.steps, curve.mean, line, color=colour, linewidth=1.3, label=name,
    **one,
  )  # fmt: skip
  if (curve.high > curve.low).any():
    axes.fill_between(
      curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0
    )


def _pseudo_labels(record: RunRecord) -> Plot | None:
  cycles = [cycle for cycle in record.cycles if cycle.teaching]
  if not cycles:
    return None
  is_measured = any(
    c.teaching.get(name) is not None
    for c in cycles
    for name in ('precision', 'quality')
  )
  figure, every = panels(1 + is_measured, 3.2)
  if is_measured:
    lines(
      every[0],
      cycles,
      {
        'precision: share that is true': reader('teaching', 'precision', 100),
        'quality: share of the truth': reader('teaching', 'quality', 100),
      },
    )
    every[0].set(ylabel='pseudo labels (%)')
  lines(every[-1], cycles, {'yes': reader('teaching', 'yes_rate', 100)})
  every[-1].set(ylabel='yes rate (% of the pairs)')
  for axes in every:
    cycle_axis(axes, cycles)
    axes.set_ylim(bottom=0)
  return Plot(
    'What the teacher says',
    'Precision and quality are measured against true labels, which the'
    ' training never sees.'
    if is_measured
    else 'No truth is known of the training documents.',
    figure,
  )


def _questions(record: RunRecord) -> Plot | None:
  cycles = [cycle for cycle in record.cycles if cycle.teaching]
  if not cycles:
    return None
  figure, (left, right) = panels(2, 3.3)
  stack(
    left,
    cycles,
    {
      'asked': [_count(c.teaching, 'asked') for c in cycles],
      'asked for the dev score': [_count(c.dev, 'asked') for c in cycles],
      'reused': [
        _count(c.teaching, 'reused') + _count(c.dev, 'reused') for c in cycles
      ],
    },
    (COLOURS[1], COLOURS[4], COLOURS[2]),
  )
  left.set(ylabel='pairs')
  lines(
    right,
    cycles,
    {
      'pseudo labels': reader('teaching', 'pseudo_labels'),
      'documents with one': reader('teaching', 'documents'),
    },
  )
  right.set(ylabel='number')
  right.set_ylim(bottom=0)
  for axes in (left, right):
    cycle_axis(axes, cycles)
    axes.yaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  return Plot(
    'Pairs asked and pseudo labels',
    'No pair of texts is asked about twice: later cycles reuse verdicts.',
    figure,
  )


def _seconds(record: RunRecord) -> Plot | None:
  cycles = [cycle for cycle in record.all_cycles if sum(cycle.seconds.values())]
  if not cycles:
    return None
  stages = {name for cycle in cycles for name in cycle.seconds}
  ordered = [name for name in _STAGES if name in stages]
  ordered += sorted(stages - set(ordered))
  figure, (axes,) = panels(1, 1.5 + 0.27 * len(cycles))
  base = np.zeros(len(cycles))
  for name in ordered:
    values = np.array([cycle.seconds.get(name, 0.0) for cycle in cycles])
    axes.barh(
      range(len(cycles)), values, 0.7, base,
      color=_STAGES.get(name, _OTHER), label=name,
    )  # fmt: skip
    base += values
  for place, total in enumerate(base):
    axes.annotate(
      f'{total:,.0f} s' if total >= 10 else f'{total:.1f} s', (total, place),
      (4, 0), textcoords='offset points', va='center', fontsize=8,
    )  # fmt: skip
  axes.set_yticks(range(len(cycles)), [_cycle_name(record, c) for c in cycles])
  axes.invert_yaxis()
  axes.set(xlabel='seconds')
  axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  axes.margins(x=0.09)
  axes.grid(axis='x')
  figure.legend(
    *axes.get_legend_handles_labels(), loc='outside lower left', ncols=9
  )
  return Plot(
    'Seconds by stage',
    'Of each cycle, over all attempts where the run was interrupted.',
    figure,
  )


def _cycle_name(record: RunRecord, cycle: Cycle) -> str:
  if cycle.number == START:
    return 'start'
  is_over = bool(record.summary) and not cycle.is_begun
  return 'export' if is_over else f'cycle {cycle.number}'


def _count(values: dict[str, float | None], name: str) -> float:
  return values.get(name) or 0
