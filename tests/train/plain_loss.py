"""The loss of a batch written down in one piece, to compare with."""

import jax
import jax.numpy as jnp

from lmtx_jax import devices
from lmtx_jax.train.objective import (
  first_row,
  masked,
  passage_sides,
  side_number,
)


def batch_loss(params, batch, rng, *, bi_encoder, loss):
  """Mean over one device's queries; `rng` is that of the step."""

  def embed(side):
    ids, key = batch[f'{side}_ids'], rng
    if rng is not None:
      key = jax.random.fold_in(rng, side_number(side))
    return bi_encoder.apply(
      params,
      ids,
      batch[f'{side}_lengths'],
      dropout_rng=key,
      first_row=first_row(ids),
    )

  def whole(parts):
    return jnp.concatenate(jax.lax.all_gather(parts, devices.AXIS, tiled=True))

  sides = passage_sides(batch)
  query_emb = embed('query')
  passage_emb = whole([embed(side) for side in sides])
  own = first_row(batch['query_ids']) + jnp.arange(len(query_emb))
  key = whole([batch[f'{side}_key'] for side in sides])
  return loss(
    query_emb, passage_emb, own, masked(batch['accepted'], key)
  ).mean()


def plain_gradient(params, batch, rng, *, bi_encoder, loss):
  """Loss and gradient of a batch `[devices, ...]`, on the host."""

  def function(params, batch, rng):
    found = jax.value_and_grad(batch_loss)(
      params, batch, rng, bi_encoder=bi_encoder, loss=loss
    )
    return jax.lax.pmean(found, devices.AXIS)

  p_gradient = devices.p_map(function, in_axes=(0, 0, None))
  return devices.unreplicate(p_gradient(devices.replicate(params), batch, rng))
