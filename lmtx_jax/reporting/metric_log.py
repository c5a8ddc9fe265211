"""metrics.jsonl, read back: losses thinned for a plot."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

import numpy as np

_MOST_POINTS = 300  # of a curve: as many as a plot has room for


@dataclasses.dataclass(frozen=True)
class Curve:
  """A number over the steps of a training, as means of some steps each.

  Attributes:
    steps: `[num_points]` float64, their middle.
    mean: `[num_points]` float64.
    low: `[num_points]` float64, the least of them.
    high: `[num_points]` float64, the largest.
  """

  steps: np.ndarray
  mean: np.ndarray
  low: np.ndarray
  high: np.ndarray


@dataclasses.dataclass(frozen=True)
class MetricLog:
  """What is drawn of a metrics.jsonl.

  Attributes:
    losses: by cycle; -1 is the warm-up.
    asking: the last row of each cycle while the teacher is asked, by the names
      that follow `asking/`.
  """

  losses: dict[int, Curve]
  asking: dict[int, dict[str, float]]


def read_log(path: str) -> tuple[MetricLog, list[int]]:
  """Reads the file, if there is one.

  Returns:
    The log, and the numbers (from 1) of the lines that are no metrics.
  """
  losses: dict[int, list[tuple[int, float]]] = {}
  asking: dict[int, dict[str, float]] = {}
  broken = []
  if os.path.isfile(path):
    with open(path, 'rb') as f:
      for number, line in enumerate(f, 1):
        row = _row(line)
        if row is None:
          broken.append(number)
          continue
        loss = row.get('train/loss')
        if _is_number(loss) and math.isfinite(loss):
          losses.setdefault(row['cycle'], []).append((row['step'], loss))
        elif 'asking/pairs' in row:
          asking[row['cycle']] = {
            key.removeprefix('asking/'): value
            for key, value in row.items()
            if key.startswith('asking/') and _is_number(value)
          }
  curves = {cycle: thinned(points) for cycle, points in sorted(losses.items())}
  return MetricLog(curves, asking), broken


def thinned(points: list[tuple[int, float]]) -> Curve:
  """A curve of at most so many points as a plot has room for."""
  steps, values = np.array(sorted(points), np.float64).T
  num_points = min(len(steps), _MOST_POINTS)
  starts = np.arange(num_points) * len(steps) // num_points
  counts = np.diff([*starts, len(steps)])
  return Curve(
    np.add.reduceat(steps, starts) / counts,
    np.add.reduceat(values, starts) / counts,
    np.minimum.reduceat(values, starts),
    np.maximum.reduceat(values, starts),
  )


def _row(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except ValueError:  # no JSON, or no UTF-8
    return None
  if not isinstance(row, dict):
    return None
  if not all(type(row.get(key)) is int for key in ('cycle', 'step')):
    return None
  return row


def _is_number(value: Any) -> bool:
  return type(value) in (int, float)
