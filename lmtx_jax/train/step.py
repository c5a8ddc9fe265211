"""One pmapped step of AdamW on a batch of pairs."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.losses import Loss


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


def batch_loss(
  params: Any,
  batch: dict[str, jax.Array],
  rng: jax.Array | None,
  *,
  bi_encoder: BiEncoder,
  loss: Loss,
) -> jax.Array:
  """The loss of one device's part of a batch, all passages as negatives.

  Args:
    params: of the bi-encoder.
    batch: one device's part of a `pairs.PairSource` batch.
    rng: key of the dropout of this device and step; None for no dropout.
    bi_encoder: the tied towers.
    loss: of the embeddings.
  """
  rngs = (None, None) if rng is None else jax.random.split(rng)
  query_emb = bi_encoder.apply(
    params, batch['query_ids'], batch['query_lengths'], dropout_rng=rngs[0]
  )
  passage_emb = bi_encoder.apply(
    params, batch['passage_ids'], batch['passage_lengths'], dropout_rng=rngs[1]
  )
  passage_emb = jax.lax.all_gather(passage_emb, devices.AXIS, tiled=True)
  key = jax.lax.all_gather(batch['passage_key'], devices.AXIS, tiled=True)
  b = query_emb.shape[0]
  own = jax.lax.axis_index(devices.AXIS) * b + jnp.arange(b)
  masked = (batch['accepted'][:, :, None] == key[None, None, :]).any(axis=1)
  return loss(query_emb, passage_emb, own, masked)


def train_step(
  state: TrainState,
  batch: dict[str, jax.Array],
  rng: jax.Array,
  learning_rate: jax.Array,
  *,
  bi_encoder: BiEncoder,
  loss: Loss,
  optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update; the key of its dropout is fold_in(rng, step, device).

  The learning rate is an argument, not a part of the optimiser, so that cycles
  of different lengths share one compiled step.
  """
  rng = jax.random.fold_in(rng, state.step)
  rng = jax.random.fold_in(rng, jax.lax.axis_index(devices.AXIS))
  value, grads = jax.value_and_grad(batch_loss)(
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
) -> Callable:
  """The compiled step: (state, batch, rng, learning_rate) -> ...."""
  return devices.p_map(
    functools.partial(
      train_step, bi_encoder=bi_encoder, loss=loss, optimizer=optimizer
    ),
    in_axes=(0, 0, None, None),
    donate_argnums=0,
  )
