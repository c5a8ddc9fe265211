"""What the plots of a report share: panels, legends, lines over cycles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from lmtx_jax.comparison.look import COLOURS
from lmtx_jax.reporting.record import START, Cycle

_MARKERS = ('o', 's', '^', 'D', 'v', 'P')


def panels(num_panels: int, height: float) -> tuple[Figure, list[Axes]]:
  """A figure as wide as the page; `height` in inches."""
  figure = Figure(figsize=(8.6, height), layout='constrained')
  return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def legend(axes: Axes, columns: int = 4, *, always: bool = False) -> None:
  """Below the panel, where it hides nothing."""
  handles, _ = axes.get_legend_handles_labels()
  if len(handles) > 1 or (handles and always):
    axes.legend(
      loc='upper left', bbox_to_anchor=(-0.02, -0.17), ncols=columns,
      borderaxespad=0, columnspacing=1.2,
    )  # fmt: skip


def cycle_axis(axes: Axes, cycles: Sequence[Cycle]) -> None:
  """Names the cycles, some of them where there are many."""
  numbers = [cycle.number for cycle in cycles]
  every = max(1, len(numbers) // 12)
  shown = [n for n in numbers if n == START or n % every == 0]
  axes.set_xticks(shown, ['start' if n == START else str(n) for n in shown])
  axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.4)
  axes.set(xlabel='cycle')
  axes.grid(axis='y')


def lines(
  axes: Axes,
  cycles: Sequence[Cycle],
  reads: dict[str, Callable[[Cycle], float | None]],
) -> None:
  """A line for each number that any cycle has."""
  for i, (name, read) in enumerate(reads.items()):
    points = [(cycle.number, read(cycle)) for cycle in cycles]
    points = [point for point in points if point[1] is not None]
    if points:
      axes.plot(
        *zip(*points, strict=True), color=COLOURS[i], marker=_MARKERS[i],
        linewidth=1.4, label=name, linestyle='--' if 'dev' in name else '-',
      )  # fmt: skip
  legend(axes, always=len(reads) > 1)


def stack(
  axes: Axes,
  cycles: Sequence[Cycle],
  parts: dict[str, list[float]],
  colours: Sequence[str],
) -> None:
  """A bar for each cycle; parts that are nothing are left out."""
  base = np.zeros(len(cycles))
  for (name, values), colour in zip(parts.items(), colours, strict=True):
    if any(values):
      numbers = [cycle.number for cycle in cycles]
      axes.bar(numbers, values, 0.6, base, color=colour, label=name)
      base += values
  legend(axes, always=True)


def reader(
  part: str, name: str, factor: float = 1
) -> Callable[[Cycle], float | None]:
  """Reads a number, `factor` times, from a part of a cycle."""

  def read(cycle: Cycle) -> float | None:
    value = getattr(cycle, part).get(name)
    return None if value is None else factor * value

  return read
