"""The gradient of a large batch in the memory of a chunk of it.

After Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup" (RepL4NLP 2021), but for one thing: the losses here are means
over queries that see each other's passages, never each other. So only the
passages, the short side, are embedded before the gradient is known and again
for it; queries, a chunk at a time, are embedded once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.objective import (
  DeviceBatch,
  first_row,
  masked,
  passage_sides,
  side_keys,
  whole,
)


@dataclasses.dataclass(frozen=True)
class Chunk:
  """How much of a side has activations kept at a time; 0 and 0: all of it.

  Attributes:
    rows: at most, whatever their width.
    tokens: at most, padding included, if `rows` is 0; but one row at least.
  """

  rows: int = 0
  tokens: int = 0

  def rows_of(self, ids: jax.Array) -> int:
    """Rows at a time of `[b, width]` ids; b where it is all of them."""
    b, width = ids.shape
    if self.rows or not self.tokens:
      return min(b, self.rows or b)
    return min(b, max(1, self.tokens // width))

  def split(self, tree: Any) -> Any:
    """`[b, ...]` arrays, 'ids' among them, to `[chunks, rows, ...]`."""
    return _split(tree, self.rows_of(tree['ids']))


WHOLE = Chunk()


def value_and_grad(
  params: Any,
  batch: DeviceBatch,
  rng: jax.Array | None,
  *,
  bi_encoder: BiEncoder,
  loss: Loss,
  chunk: Chunk,
) -> tuple[jax.Array, Any]:
  """`objective.batch_loss` and its gradient, but for rounding.

  Takes what that takes, and `chunk`: what has activations kept at a time.
  """
  keys, sides = side_keys(rng), passage_sides(batch)
  b = batch['query_ids'].shape[0]
  parts = {side: _rows(batch, side) for side in ('query', *sides)}

  def embed(params: Any, side: str, part: DeviceBatch) -> jax.Array:
    return bi_encoder.apply(
      params,
      part['ids'],
      part['lengths'],
      dropout_rng=keys[side],
      first_row=part['row'][0],
    )

  def embed_side(side: str) -> jax.Array:
    chunks = chunk.split(parts[side])
    emb = jax.lax.map(lambda part: embed(params, side, part), chunks)
    return emb.reshape(-1, emb.shape[-1])[: len(parts[side]['row'])]

  passage_emb = whole([embed_side(side) for side in sides])
  passage_key = whole([batch[f'{side}_key'] for side in sides])

  def queries_loss(
    params: Any, passage_emb: jax.Array, part: DeviceBatch
  ) -> jax.Array:
    """The share of a chunk of queries in the loss."""
    no_negative = masked(part['accepted'], passage_key)
    query_emb = embed(params, 'query', part)
    value = loss(query_emb, passage_emb, part['row'], no_negative)
    return jnp.where(part['real'], value, 0).sum() / b

  queries = {
    **parts['query'],
    'accepted': batch['accepted'],
    'real': jnp.ones(b, bool),
  }
  value, (grads, passage_grad) = _summed(
    lambda part: jax.value_and_grad(queries_loss, argnums=(0, 1))(
      params, passage_emb, part
    ),
    chunk.split(queries),
  )
  # What the queries of all devices want of this device's passages. [b, dim]
  ends = np.cumsum([len(parts[side]['row']) for side in sides])
  wanted = jax.lax.psum_scatter(
    jnp.split(passage_grad, ends[:-1] * devices.total()),
    devices.AXIS,
    tiled=True,
  )
  for side, grad in zip(sides, wanted, strict=True):

    def side_grad(part: DeviceBatch, side: str = side) -> Any:
      _, pull = jax.vjp(lambda p: embed(p, side, part), params)
      return pull(part['grad'])[0]

    more = _summed(side_grad, chunk.split({**parts[side], 'grad': grad}))
    grads = jax.tree.map(jnp.add, grads, more)
  return value, grads


def _rows(batch: DeviceBatch, side: str) -> DeviceBatch:
  """Ids and lengths of one side, and where each row stands in the batch."""
  ids = batch[f'{side}_ids']
  row = first_row(batch, side) + jnp.arange(len(ids))
  return {'ids': ids, 'lengths': batch[f'{side}_lengths'], 'row': row}


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
