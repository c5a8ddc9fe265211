"""What a training asks of its pairs, and how their shapes are chosen.

A source is pure: `batch(step)` depends on the seed, the cycle and the step
only, so a resumed run needs no stored iterator.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

import numpy as np

from lmtx_jax.data.batches import steps_a_compilation

Batch = dict[str, np.ndarray]

MOST_WIDTHS = 48  # of a side of a training
_MIXED = 3  # batches of a width, so that not always the same inputs meet
MIN_WASTE = 0.01  # share of padding that no width is compiled for


class PairSource(Protocol):
  """Batches of (query, passage) pairs for the train step.

  A batch holds query_ids and passage_ids `[batch, width]` int32 with
  query_lengths and passage_lengths `[batch]` int32; passage_key `[batch]`
  int32, equal for equal passages; accepted `[batch, any]` int32, the keys that
  are no negatives of the query (-1: none).

  The passages may come in parts, each with a width of its own: those of the
  first queries are passage_ids, those of the next ones passage_1_ids, and so on
  (`objective.PASSAGES`). The devices divide the rows of each part.

  It may hold further passages, which are nobody's own: extra_ids
  `[extra, width]` int32, extra_lengths and extra_key `[extra]` int32; they
  stand behind the passages of the whole batch, and the devices divide their
  number. A key of -1 is no passage for anyone: then each row of accepted has a
  -1.
  """

  num_pairs: int  # of the first epoch
  num_steps: int
  batch_size: int

  def batch(self, step: int) -> Batch:
    """The batch of a step."""


@dataclasses.dataclass(frozen=True)
class Refresh:
  """Pairs that follow from the parameters, made anew now and then.

  Attributes:
    steps: between two times.
    pairs: gives the batches of `steps` steps, from the number of the first and
      the parameters on the host. A training that resumes in between asks for
      the same number again, with parameters of later: the answer is to be the
      one it gave first. All have one num_steps, one batch_size and one set of
      shapes; only batches of the steps asked for are read.
  """

  steps: int
  pairs: Callable[[int, Any], PairSource]


class LastEpoch:
  """Keeps the epoch that was drawn last, for its many batches."""

  def __init__(self, make: Callable[[int], Any]):
    """Takes what draws an epoch, by its number."""
    self._make, self._known = make, None

  def __call__(self, epoch: int) -> Any:
    """The epoch, drawn if it is not at hand."""
    if self._known is None or self._known[0] != epoch:
      self._known = None  # never two in memory
      self._known = (epoch, self._make(epoch))
    return self._known[1]


def max_widths(steps_per_epoch: int) -> int:
  """Widths that a side has at most, where inputs of a width meet in batches."""
  return max(1, min(MOST_WIDTHS, steps_per_epoch // _MIXED))


def worth_compiling(
  num_tokens: int, steps_per_epoch: int, epochs: int
) -> float:
  """Tokens of an epoch that one more width of a side must save.

  Args:
    num_tokens: of all batches of an epoch.
    steps_per_epoch: batches of an epoch.
    epochs: of the training.
  """
  return steps_a_compilation() * num_tokens / max(1, steps_per_epoch * epochs)
