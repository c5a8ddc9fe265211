"""Orbax checkpoints of a training that is under way."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from lmtx_jax.types import UserError


class Checkpoints:
  """The last checkpoint of one training.

  States are numpy arrays, so that they do not depend on the devices. In
  several processes all make the same calls, and the first one writes.
  """

  def __init__(self, folder: str, save_every: int):
    """Opens or makes the folder.

    Args:
      folder: where checkpoints lie.
      save_every: steps between two of them.
    """
    self._folder = folder
    self._manager = ocp.CheckpointManager(
      os.path.abspath(folder),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=1,
        # Orbax's own choice would save the first step as well.
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(
          save_every
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

    Raises:
      UserError: the checkpoint is of another model, or cannot be read.
    """
    step = self._manager.latest_step()
    if step is None:
      return state, 0
    abstract = jax.tree.map(np.zeros_like, state)
    try:
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
      )['state']
      # Orbax reads an array of any shape as it is.
      shapes = jax.tree.map(lambda x, y: x.shape == y.shape, restored, state)
    except (ValueError, KeyError, OSError) as e:
      raise self._unusable(step, 'cannot be read as one') from e
    if not all(jax.tree.leaves(shapes)):
      raise self._unusable(step, 'holds other shapes')
    return restored, step

  def _unusable(self, step: int, reason: str) -> UserError:
    return UserError(
      f'{os.path.join(self._folder, str(step))} is no checkpoint of this model'
      f' ({reason}); delete {self._folder} to start this training anew'
    )

  def due(self, step: int) -> bool:
    """Whether this number of steps is one to save at."""
    return self._manager.should_save(step)

  def save(self, step: int, state: Any) -> None:
    """Saves in the background a tree of numpy arrays, due or not."""
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(state)),
      force=True,
    )

  @contextlib.contextmanager
  def finished(self) -> Iterator[None]:
    """Waits at the end, whatever happens, for what is being written."""
    try:
      yield
    finally:
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()
