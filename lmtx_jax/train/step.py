"""One pmapped step of AdamW on a batch of pairs."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import optax

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train import grad_cache
from lmtx_jax.train.grad_cache import WHOLE, Chunk
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.objective import batch_loss, passage_sides


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


def train_step(
  state: TrainState,
  batch: dict[str, jax.Array],
  rng: jax.Array,
  learning_rate: jax.Array,
  *,
  bi_encoder: BiEncoder,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  chunk: Chunk,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update; the key of its dropout is fold_in(rng, step).

  The learning rate is an argument, not a part of the optimiser, so that cycles
  of different lengths share one compiled step.
  """
  rng = jax.random.fold_in(rng, state.step)
  sides = [batch[f'{side}_ids'] for side in ('query', *passage_sides(batch))]
  if any(chunk.rows_of(ids) < len(ids) for ids in sides):
    value_and_grad = functools.partial(grad_cache.value_and_grad, chunk=chunk)
  else:
    value_and_grad = jax.value_and_grad(batch_loss)
  value, grads = value_and_grad(
    state.params, batch, rng, bi_encoder=bi_encoder, loss=loss
  )
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
) -> Callable:
  """The compiled step: (state, batch, rng, learning_rate) -> ....

  Args:
    bi_encoder: the tied towers.
    loss: of the embeddings.
    optimizer: but for its learning rate.
    chunk: what a device keeps activations of at a time.
  """
  return devices.p_map(
    functools.partial(
      train_step,
      bi_encoder=bi_encoder,
      loss=loss,
      optimizer=optimizer,
      chunk=chunk,
    ),
    in_axes=(0, 0, None, None),
    donate_argnums=0,
  )
