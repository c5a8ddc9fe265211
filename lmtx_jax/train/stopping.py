"""All processes stop after the same step, though only one may be told to."""

from __future__ import annotations

import jax
import numpy as np

from lmtx_jax import devices

_p_sum = devices.p_map(lambda told: jax.lax.psum(told, devices.AXIS))


class Agreement:
  """Whether any process was told to stop, as all of them know it."""

  def __init__(self):
    """Nobody was told yet."""
    self._asked: jax.Array | None = None

  def stop(self, told: bool) -> bool:
    """What was asked one call before, so that the device is never waited for.

    All processes make the same calls.

    Args:
      told: whether this process was told to stop.

    Returns:
      Whether any was, when this was called before.
    """
    before = self._asked
    self._asked = _p_sum(np.full(devices.count(), told, np.int32))
    return before is not None and bool(devices.unreplicate(before))

  def stop_now(self, told: bool) -> bool:
    """Whether any process was told by now; waits for the answer."""
    earlier = self.stop(told)
    return self.stop(False) or earlier
