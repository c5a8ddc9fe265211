"""The loss of a batch of pairs, as a function of the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.losses import Loss

DeviceBatch = dict[str, jax.Array]


def side_keys(rng: jax.Array | None) -> dict[str, jax.Array | None]:
  """The key of each side's dropout; None is no dropout."""
  keys = (None, None) if rng is None else jax.random.split(rng)
  return dict(zip(('query', 'passage'), keys, strict=True))


def first_row(batch: DeviceBatch) -> jax.Array:
  """The number of this device's first row within the whole batch."""
  return jax.lax.axis_index(devices.AXIS) * batch['query_ids'].shape[0]


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
  """
  first = first_row(batch)
  query_emb, passage_emb = (
    bi_encoder.apply(
      params,
      batch[f'{side}_ids'],
      batch[f'{side}_lengths'],
      dropout_rng=key,
      first_row=first,
    )
    for side, key in side_keys(rng).items()
  )
  passage_emb = jax.lax.all_gather(passage_emb, devices.AXIS, tiled=True)
  key = jax.lax.all_gather(batch['passage_key'], devices.AXIS, tiled=True)
  own = first + jnp.arange(query_emb.shape[0])
  return loss(query_emb, passage_emb, own, masked(batch['accepted'], key))


def masked(accepted: jax.Array, passage_key: jax.Array) -> jax.Array:
  """Which passages are no negatives of a query.

  Args:
    accepted: `[b, any]` int32, keys that are no negatives of each query.
    passage_key: `[B]` int32, of the passages of the whole batch.

  Returns:
    `[b, B]` bool.
  """
  return (accepted[:, :, None] == passage_key[None, None, :]).any(axis=1)
