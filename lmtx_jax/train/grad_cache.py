"""The gradient of a large batch in the memory of a chunk of it.

After Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup" (RepL4NLP 2021), but for one thing: the losses here are means
over queries that see each other's passages, never each other. So only the
passages, the short side, are embedded before the gradient is known and again
for it; queries, a chunk at a time, are embedded once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.objective import DeviceBatch, first_row, masked, side_keys


def value_and_grad(
  params: Any,
  batch: DeviceBatch,
  rng: jax.Array | None,
  *,
  bi_encoder: BiEncoder,
  loss: Loss,
  chunk: int,
) -> tuple[jax.Array, Any]:
  """`objective.batch_loss` and its gradient, but for rounding.

  Takes what that takes, and `chunk`: rows at most that have activations kept.
  """
  keys, b = side_keys(rng), batch['query_ids'].shape[0]

  def embed(params: Any, side: str, part: DeviceBatch) -> jax.Array:
    return bi_encoder.apply(
      params,
      part[f'{side}_ids'],
      part[f'{side}_lengths'],
      dropout_rng=keys[side],
      first_row=part['own'][0],
    )

  # own: where in the whole batch a row stands. [b]
  batch = {**batch, 'own': first_row(batch) + jnp.arange(b)}
  chunks = _split({**batch, 'real': jnp.ones(b, bool)}, chunk)
  own_emb = jax.lax.map(lambda part: embed(params, 'passage', part), chunks)
  own_emb = own_emb.reshape(-1, own_emb.shape[-1])[:b]
  passage_emb, passage_key = jax.lax.all_gather(
    (own_emb, batch['passage_key']), devices.AXIS, tiled=True
  )

  def queries_loss(
    params: Any, passage_emb: jax.Array, part: DeviceBatch
  ) -> jax.Array:
    """The share of a chunk of queries in the loss."""
    no_negative = masked(part['accepted'], passage_key)
    # A query with all passages masked adds 0 (see losses.Loss).
    no_negative |= ~part['real'][:, None]
    own = jnp.where(part['real'], part['own'], 0)
    query_emb = embed(params, 'query', part)
    value = loss(query_emb, passage_emb, own, no_negative)
    return value * (query_emb.shape[0] / b)

  value, (grads, passage_grad) = _summed(
    lambda part: jax.value_and_grad(queries_loss, argnums=(0, 1))(
      params, passage_emb, part
    ),
    chunks,
  )
  # What the queries of all devices want of this device's passages. [b, dim]
  passage_grad = jax.lax.psum_scatter(passage_grad, devices.AXIS, tiled=True)

  def passages_grad(part: DeviceBatch) -> Any:
    _, pull = jax.vjp(lambda p: embed(p, 'passage', part), params)
    return pull(part['grad'])[0]

  more = _summed(passages_grad, _split({**batch, 'grad': passage_grad}, chunk))
  return value, jax.tree.map(jnp.add, grads, more)


def _split(tree: Any, chunk: int) -> Any:
  """`[b, ...]` arrays to `[chunks, rows, ...]`, padded with zeros.

  Chunks are made equal, so that fewer rows are padding than there are chunks.
  """
  b = jax.tree.leaves(tree)[0].shape[0]
  chunks = -(-b // chunk)
  rows = -(-b // chunks)

  def split(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, chunks * rows - b)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(chunks, rows, *x.shape[1:])

  return jax.tree.map(split, tree)


def _summed(function: Any, chunks: DeviceBatch) -> Any:
  """The sum of a function over chunks, one after the other."""
  first = jax.tree.map(lambda x: x[0], chunks)
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
  )
  add = lambda total, part: (  # noqa: E731
    jax.tree.map(jnp.add, total, function(part)),
    None,
  )
  return jax.lax.scan(add, zero, chunks)[0]
