"""Which cycle is kept, by the scores that the teacher gives dev documents."""

from __future__ import annotations

from collections.abc import Sequence
import math


def best_cycle(
  dev_scores: Sequence[float], tolerance: float = 0.0, num_docs: int = 1
) -> int | None:
  """The cycle whose encoder is kept; the loop stops when it is not the last.

  The paper keeps the first of the highest (Algorithm 1). But a score of a few
  hundred documents is as uncertain as its standard error, while a later cycle
  has learnt from more answers: with a tolerance the last cycle is kept that is
  not clearly worse.

  Args:
    dev_scores: percent of dev documents whose top label is accepted, of each
      cycle.
    tolerance: standard errors of the highest score that a later one may be
      below it.
    num_docs: dev documents.

  Returns:
    Its number; None where there is no cycle.
  """
  if not dev_scores:
    return None
  highest = max(dev_scores)
  if not tolerance:
    return list(dev_scores).index(highest)
  # As if one more had been accepted and one refused: no share is certain.
  share = (highest / 100 * num_docs + 1) / (num_docs + 2)
  slack = tolerance * 100 * math.sqrt(share * (1 - share) / num_docs)
  return max(
    cycle for cycle, score in enumerate(dev_scores) if score >= highest - slack
  )
