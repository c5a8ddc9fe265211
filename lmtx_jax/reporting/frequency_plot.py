"""The plot of label frequencies."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, StrMethodFormatter
import numpy as np

from lmtx_jax.comparison.look import COLOURS, Plot
from lmtx_jax.reporting.frequencies import Frequencies
from lmtx_jax.reporting.look import legend, panels


def draw_frequencies(found: Frequencies) -> Plot:
  """Rank by rank, and, with truth, rare labels against frequent ones."""
  has_truth = found.true is not None
  figure, parts = panels(2 if has_truth else 1, 3.3)
  curves = {'predicted': found.predicted}
  if has_truth:
    curves = {'true': found.true, **curves}
  for (name, counts), colour in zip(curves.items(), COLOURS, strict=False):
    sizes = np.sort(counts[counts > 0])[::-1]
    if len(sizes):
      # Some hundred points on a log axis are as good as all.
      ranks = np.unique(np.geomspace(1, len(sizes), 300).round().astype(int))
      parts[0].plot(
        ranks, sizes[ranks - 1], color=colour, linewidth=1.5,
        marker='o' if len(sizes) == 1 else '',
        label=f'{name}: {len(sizes):,} labels',
      )  # fmt: skip
  parts[0].set(xlabel='rank of the label', ylabel='test documents')
  parts[0].set_xscale('log')
  parts[0].set_yscale('log')
  for axis in (parts[0].xaxis, parts[0].yaxis):
    axis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    axis.set_minor_formatter(NullFormatter())
  parts[0].grid()
  legend(parts[0])
  if has_truth:
    _frequency_bins(parts[1], found)
  return Plot(
    'Label frequencies',
    f'Predictions that count: {found.rule}.',
    figure,
  )


def _frequency_bins(axes: Axes, found: Frequencies) -> None:
  """Whether rare labels get their share."""
  names, true, predicted = zip(*found.bins(), strict=True)
  places = np.arange(len(names))
  axes.bar(places - 0.2, true, 0.38, color=COLOURS[0], label='true')
  axes.bar(places + 0.2, predicted, 0.38, color=COLOURS[1], label='predicted')
  axes.set_xticks(places, names)
  axes.tick_params(axis='x', labelsize=8)
  axes.set(xlabel='test documents that a label is true of', ylabel='pairs')
  axes.yaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
  axes.grid(axis='y')
  legend(axes)
