"""Whether two rows differ by more than the choice of the test documents."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import stats

from lmtx_jax.comparison.groups import Row, mean
from lmtx_jax.types import UserError

LEVEL = 0.05  # of the corrected p-value
_RESAMPLES = 9_999
_CELLS = 5_000_000  # numbers of one batch of resamples
_DECIMALS = 3  # of a percentage; scores are kept in float32
NO_DOCUMENTS = 'not paired: scores of the same documents are missing'
NO_TRUTH = 'no document with truth'


@dataclasses.dataclass(frozen=True)
class Test:
  """A row against the reference, in one metric.

  Attributes:
    p: two-sided p-value; None where the rows cannot be paired.
    p_holm: the same with Holm's correction over the rows of the table.
    note: why there is no p-value.
  """

  p: float | None
  p_holm: float | None = None
  note: str = ''

  @property
  def is_significant(self) -> bool:
    """Whether the row differs from the reference."""
    return self.p_holm is not None and self.p_holm < LEVEL


def find_reference(rows: Sequence[Row], wanted: str, metric: str) -> int:
  """Index of the row that the others are tested against.

  Args:
    rows: of the table.
    wanted: its name, or its number from 1; empty: the row with the highest
      mean, the first one of several.
    metric: whose mean it is.

  Raises:
    UserError: there is no such row.
  """
  names = [row.name for row in rows]
  if not wanted:
    means = [mean(row.values(metric)) for row in rows]
    best = [-1.0 if value is None else value for value in means]
    return best.index(max(best))
  if wanted in names:
    return names.index(wanted)
  if wanted.isdecimal() and 1 <= int(wanted) <= len(rows):
    return int(wanted) - 1
  known = ', '.join(f'{i} {name!r}' for i, name in enumerate(names, 1))
  raise UserError(f'--reference={wanted} is none of the rows: {known}')


def compare_rows(
  rows: Sequence[Row], reference: int, metrics: Sequence[str]
) -> dict[str, list[Test | None]]:
  """Tests each row against the reference.

  Args:
    rows: of the table.
    reference: index of the row that the others are tested against.
    metrics: names of scores.

  Returns:
    By metric, one test a row; None for the reference itself.
  """
  tests: dict[str, list[Test | None]] = {}
  for metric in metrics:
    known = rows[reference].documents(metric)
    found = [
      None if i == reference else _compare(row.documents(metric), known)
      for i, row in enumerate(rows)
    ]
    corrected = iter(holm([t.p for t in found if t and t.p is not None]))
    tests[metric] = [
      dataclasses.replace(test, p_holm=next(corrected))
      if test and test.p is not None
      else test
      for test in found
    ]
  return tests


def _compare(scores: np.ndarray | None, known: np.ndarray | None) -> Test:
  if scores is None or known is None or scores.shape != known.shape:
    return Test(None, note=NO_DOCUMENTS)
  if not scores.size:
    return Test(None, note=NO_TRUTH)
  return Test(paired_p(scores - known))


def paired_p(differences: np.ndarray) -> float:
  """Two-sided p-value of a mean difference of paired scores.

  The permutation test: were the rows alike, each document's difference would be
  as likely with the other sign. It is about the mean, which is what the table
  shows, and assumes nothing of the scores, of which most are equal (P@1 of a
  document is 0 or 100); Wilcoxon's test is about ranks, and has to break all
  those ties. Signs are drawn for all documents of equal difference at once, so
  a million documents take no longer than a thousand.

  Args:
    differences: `[num_docs]` float64, one or more.

  Returns:
    No less than 2 / 10,000, as there are 9,999 draws.
  """
  rounded = np.round(differences, _DECIMALS)
  sizes, counts = np.unique(np.abs(rounded), return_counts=True)
  rng = np.random.default_rng(0)

  def draw_sums(size: tuple[int, int]) -> np.ndarray:
    flipped = rng.binomial(counts, 0.5, (size[0], len(counts)))
    return ((counts - 2 * flipped) @ sizes)[:, None]

  test = stats.monte_carlo_test(
    [rounded.sum()],
    draw_sums,
    lambda sums, axis: sums.sum(axis=axis),
    n_resamples=_RESAMPLES,
    batch=max(1, _CELLS // len(counts)),
  )
  return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's correction for several tests, in the order of the p-values."""
  corrected, largest = [0.0] * len(p_values), 0.0
  order = sorted(range(len(p_values)), key=p_values.__getitem__)
  for rank, i in enumerate(order):
    largest = max(largest, p_values[i] * (len(p_values) - rank))
    corrected[i] = min(1.0, largest)
  return corrected
