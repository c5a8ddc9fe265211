"""Orbax checkpoints of a training that is under way."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers


class Checkpoints:
  """The last checkpoint of one training."""

  def __init__(self, folder: str, save_every: int):
    """Opens or makes the folder.

    Args:
      folder: where checkpoints lie.
      save_every: steps between two of them.
    """
    self._manager = ocp.CheckpointManager(
      os.path.abspath(folder),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=1,
        # Orbax's own choice would save the first step as well.
        save_decision_policy=checkpoint_managers.AnySavePolicy(
          [
            checkpoint_managers.FixedIntervalPolicy(save_every),
            checkpoint_managers.PreemptionCheckpointingPolicy(),
          ]
        ),
      ),
      item_names=('state',),
    )

  def restore(self, state: Any) -> tuple[Any, int]:
    """The newest checkpoint, or what was given.

    Args:
      state: tree of numpy arrays, as it is before the first step.

    Returns:
      the state, and the number of steps it has done.
    """
    step = self._manager.latest_step()
    if step is None:
      return state, 0
    abstract = jax.tree.map(np.zeros_like, state)
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    )
    return restored['state'], step

  def due(self, step: int) -> bool:
    """Whether this number of steps is one to save at."""
    return self._manager.should_save(step)

  def save(self, step: int, state: Any) -> None:
    """Saves in the background a tree of numpy arrays."""
    self._manager.save(
      step, args=ocp.args.Composite(state=ocp.args.StandardSave(state))
    )

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()
