"""The loss of a batch of pairs, as a function of the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.losses import Loss

DeviceBatch = dict[str, jax.Array]
_PASSAGES = ('passage', 'longer', 'extra')


def side_keys(rng: jax.Array | None) -> dict[str, jax.Array | None]:
  """The key of each side's dropout; None is no dropout."""
  if rng is None:
    return dict.fromkeys(('query', *_PASSAGES))
  query, passage = jax.random.split(rng)
  return {
    'query': query,
    'passage': passage,
    'extra': jax.random.fold_in(rng, 2),  # leaves the other two as they are
    'longer': jax.random.fold_in(rng, 3),
  }


def passage_sides(batch: DeviceBatch) -> tuple[str, ...]:
  """The sides that are passages, in the order in which a loss sees them."""
  return tuple(side for side in _PASSAGES if f'{side}_ids' in batch)


def first_row(batch: DeviceBatch, side: str = 'query') -> jax.Array:
  """The number of this device's first row of a side within the whole batch."""
  return jax.lax.axis_index(devices.AXIS) * batch[f'{side}_ids'].shape[0]


def whole(parts: list[jax.Array]) -> jax.Array:
  """What all devices have of each side: `[P, ...]`, one behind the other."""
  parts = jax.lax.all_gather(parts, devices.AXIS, tiled=True)
  return jnp.concatenate(parts)


def batch_loss(
  params: Any,
  batch: DeviceBatch,
  rng: jax.Array | None,
  *,
  bi_encoder: BiEncoder,
  loss: Loss,
) -> jax.Array:
  """The loss of one device's part of a batch, all passages as negatives.

  Args:
    params: of the bi-encoder.
    batch: one device's part of a `pair_source.PairSource` batch.
    rng: key of the dropout of this step, the same on all devices; None for no
      dropout.
    bi_encoder: the tied towers.
    loss: of the embeddings.

  Returns:
    Scalar, mean over the queries.
  """
  keys = side_keys(rng)

  def embed(side: str) -> jax.Array:
    return bi_encoder.apply(
      params,
      batch[f'{side}_ids'],
      batch[f'{side}_lengths'],
      dropout_rng=keys[side],
      first_row=first_row(batch, side),
    )

  sides = passage_sides(batch)
  query_emb = embed('query')
  passage_emb = whole([embed(side) for side in sides])
  key = whole([batch[f'{side}_key'] for side in sides])
  own = first_row(batch) + jnp.arange(query_emb.shape[0])
  no_negative = masked(batch['accepted'], key)
  return loss(query_emb, passage_emb, own, no_negative).mean()


def masked(accepted: jax.Array, passage_key: jax.Array) -> jax.Array:
  """Which passages are no negatives of a query.

  Args:
    accepted: `[b, any]` int32, keys that are no negatives of each query.
    passage_key: `[P]` int32, of the passages of the whole batch.

  Returns:
    `[b, P]` bool.
  """
  return (accepted[:, :, None] == passage_key[None, None, :]).any(axis=1)
