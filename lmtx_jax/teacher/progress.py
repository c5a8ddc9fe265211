"""How asking a teacher goes: a progress bar, and the same numbers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time

import numpy as np
from tqdm import tqdm

from lmtx_jax import processes
from lmtx_jax.teacher.pairs import Teacher
from lmtx_jax.types import YES

_REPORT_S = 30.0

Report = Callable[[dict[str, float]], None]


class Progress:
  """Counts answers; nothing is shown before the first question.

  A pair that needs no question is taken off the bar's total, so its rate and
  remaining time are those of asking. Rates are of the last minute or less.
  """

  def __init__(self, num_pairs: int, teacher: Teacher, report: Report | None):
    """Takes the number of pairs and who is told every 30 s at most."""
    self._total, self._teacher, self._report = num_pairs, teacher, report
    self._bar: tqdm | None = None
    self._num_answers = self._num_yes = self._num_reused = 0
    self._usage_before = dict(teacher.usage())
    # (time, answers, usage) now and when the last two reports were due.
    self._marks: list[tuple[float, int, Mapping[str, float]]] = []

  def reuse(self, num_pairs: int) -> None:
    """Counts pairs that need no question."""
    self._num_reused += num_pairs
    self.leave_out(num_pairs)

  def leave_out(self, num_pairs: int) -> None:
    """Takes pairs off the total."""
    self._total -= num_pairs
    if self._bar is not None:
      self._bar.total = self._total

  def start(self) -> None:
    """Shows the bar, if it is not shown yet."""
    if self._bar is None:
      self._bar = tqdm(
        total=self._total,
        desc='teacher',
        unit='pair',
        disable=not processes.is_lead(),
      )
      self._marks = [(time.monotonic(), 0, self._usage_before)]

  def update(self, answer: np.ndarray) -> None:
    """Counts answers, `[n]` int8."""
    self._num_answers += len(answer)
    self._num_yes += int((answer == YES).sum())
    now = time.monotonic()
    usage = self._teacher.usage()
    numbers = self._numbers(now, usage)
    self._bar.set_postfix_str(_postfix(numbers), refresh=False)
    self._bar.update(len(answer))
    if now - self._marks[-1][0] >= _REPORT_S:
      self._marks = [self._marks[-1], (now, self._num_answers, dict(usage))]
      if self._report:
        self._report(numbers)

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()

  def _numbers(self, now: float, usage: Mapping[str, float]) -> dict:
    then, answers_then, usage_then = self._marks[0]
    seconds = max(now - then, 1e-3)
    rate = (self._num_answers - answers_then) / seconds
    numbers = {
      'pairs': self._num_answers,
      'pairs_per_s': rate,
      'yes_rate': self._num_yes / max(self._num_answers, 1),
      'reused': self._num_reused,
    }
    if rate:
      numbers['remaining_s'] = (self._total - self._num_answers) / rate
    if usage:
      tokens, cached = (
        usage.get(name, 0) - usage_then.get(name, 0)
        for name in ('prompt_tokens', 'cached_tokens')
      )
      numbers |= {
        'tokens_per_s': tokens / seconds,
        'cache_hit_share': cached / max(tokens, 1),
        'retries': usage.get('retries', 0)
        - self._usage_before.get('retries', 0),
      }
    return numbers


def _postfix(numbers: Mapping[str, float]) -> str:
  text = f'yes={numbers["yes_rate"]:.1%}, reused={numbers["reused"]:,}'
  if 'tokens_per_s' in numbers:
    text += (
      f', tokens/s={numbers["tokens_per_s"]:,.0f}'
      f', cached={numbers["cache_hit_share"]:.0%}'
      f', retries={numbers["retries"]:.0f}'
    )
  return text
