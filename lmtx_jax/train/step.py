"""One step of AdamW on a batch of pairs, in a few pmapped programs."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import optax

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.grad_cache import WHOLE, Chunk, Gradient
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.objective import (
  DeviceBatch,
  passage_sides,
  side_number,
  side_of,
)


class TrainState(NamedTuple):
  """What a step changes.

  Attributes:
    step: int32 scalar, steps done.
    params: of the bi-encoder.
    opt_state: of the optimiser.
  """

  step: jax.Array
  params: Any
  opt_state: Any


class TrainStep:
  """The compiled step: (state, batch, rng, learning_rate) -> ....

  The learning rate is an argument, not a part of the optimiser, so that cycles
  of different lengths share one compiled step. The state is donated.
  """

  def __init__(
    self, gradient: Gradient, optimizer: optax.GradientTransformation
  ):
    """Takes what makes the gradient, and the optimiser but for its rate."""
    key = (None, 0, None)
    self._passages = devices.p_map(gradient.passages, in_axes=(0, 0, key))
    self._queries = devices.p_map(
      gradient.queries, in_axes=(0, 0, 0, 0, 0, key)
    )
    self._into_passages = devices.p_map(
      gradient.into_passages, in_axes=(0, 0, 0, 0, 0, key), donate_argnums=0
    )
    self._update = devices.p_map(
      functools.partial(_update, optimizer=optimizer),
      in_axes=(0, 0, 0, None),
      donate_argnums=0,
    )

  def __call__(
    self,
    state: TrainState,
    batch: DeviceBatch,
    rng: jax.Array,
    learning_rate: jax.Array,
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update.

    Args:
      state: replicated over the devices.
      batch: a `pair_source.PairSource` batch, `[devices, ...]`.
      rng: key of the dropout of all steps.
      learning_rate: f32 scalar.

    Returns:
      The next state, and loss and gradient norm, `[devices]` f32 each.
    """
    value, grads = self.value_and_grad(state.params, batch, rng, state.step)
    return self._update(state, grads, value, learning_rate)

  def value_and_grad(
    self,
    params: Any,
    batch: DeviceBatch,
    rng: jax.Array,
    step: jax.Array,
  ) -> tuple[jax.Array, Any]:
    """The loss of each device's queries, and its gradient.

    Those of the whole batch are the means over the devices.
    """
    sides = passage_sides(batch)
    keys = {s: (rng, step, side_number(s)) for s in ('query', *sides)}
    embedded = [
      self._passages(params, side_of(batch, side), keys[side]) for side in sides
    ]
    value, grads, wanted = self._queries(
      params,
      side_of(batch, 'query'),
      batch['accepted'],
      [emb for emb, _ in embedded],
      [batch[f'{side}_key'] for side in sides],
      keys['query'],
    )
    for side, grad in zip(sides, wanted, strict=True):
      _, pull = embedded.pop(0)  # what was kept is not kept longer
      grads = self._into_passages(
        grads, pull, params, side_of(batch, side), grad, keys[side]
      )
    return value, grads


def _update(
  state: TrainState,
  grads: Any,
  value: jax.Array,
  learning_rate: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
  value, grads = jax.lax.pmean((value, grads), devices.AXIS)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = jax.tree.map(
    lambda p, u: p - learning_rate * u, state.params, updates
  )
  metrics = {'loss': value, 'grad_norm': optax.tree.norm(grads)}
  return TrainState(state.step + 1, params, opt_state), metrics


@functools.lru_cache(maxsize=8)
def p_train_step(
  bi_encoder: BiEncoder,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  chunk: Chunk = WHOLE,
) -> TrainStep:
  """The step of a training; one object, so that it is compiled once.

  Args:
    bi_encoder: the tied towers.
    loss: of the embeddings.
    optimizer: but for its learning rate.
    chunk: what a device keeps activations of at a time.
  """
  return TrainStep(Gradient(bi_encoder, loss, chunk), optimizer)
