"""What is made of how sure the teacher is, beside its yes or no."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmtx_jax.types import NO, Verdicts


class Confidence(NamedTuple):
  """How answers become pseudo labels; by default a no is a no, as in the paper.

  Attributes:
    power: of p_yes, in proportion to which an accepted label is drawn; 0: all
      alike.
    no_below: p_yes of a no that counts as one.
  """

  power: float = 0.0
  no_below: float = 1.0

  def rejected(self, verdicts: Verdicts) -> np.ndarray:
    """`[num_pairs]` bool, the noes that count."""
    sure = verdicts.p_yes < self.no_below
    return (verdicts.answer == NO) & (sure | (self.no_below >= 1))

  def weights(self, p_yes: np.ndarray) -> np.ndarray | None:
    """`[num_accepted]` f32 above 0; None: all alike."""
    if not self.power:
      return None
    weights = np.float64(p_yes) ** self.power
    return np.maximum(weights, np.finfo(np.float32).tiny).astype(np.float32)
