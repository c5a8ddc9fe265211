"""The gradient of a batch, one side after the other, a chunk of it at a time.

After Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup" (RepL4NLP 2021), but for one thing: the losses here are means
over queries that see each other's passages, never each other. So the passages
are embedded, then the queries with their gradient, and what these want of the
passages is led back into them. Passages whose activations are not kept, as they
come in chunks or are few, are embedded twice.

Each function is a program of its own that knows the width of one side alone:
batches of m widths of queries and n of passages are m + n programs, not m * n.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmtx_jax import devices
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.objective import DeviceBatch, first_row, masked


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
    """`[b, ...]` arrays, 'ids' among them, to `[chunks, rows, ...]`.

    They are padded with zeros. Chunks are made equal, so that fewer rows are
    padding than there are chunks.
    """
    b = tree['ids'].shape[0]
    chunks = -(-b // self.rows_of(tree['ids']))
    rows = -(-b // chunks)

    def split(x: jax.Array) -> jax.Array:
      x = jnp.pad(x, [(0, chunks * rows - b)] + [(0, 0)] * (x.ndim - 1))
      return x.reshape(chunks, rows, *x.shape[1:])

    return jax.tree.map(split, tree)


WHOLE = Chunk()

# Tokens of passages whose activations are kept: a copy of the weights is kept
# with them, so that few tokens are sooner embedded again.
_WORTH_KEEPING = 2048

# Of the dropout: key of the training, number of the step and of the side.
Key = tuple[jax.Array, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Gradient:
  """The functions; all see one device's part of a batch.

  Dropout follows from the key of a training, the step and the side, the same on
  all devices.

  Attributes:
    bi_encoder: the tied towers.
    loss: of the embeddings.
    chunk: what has activations kept at a time.
  """

  bi_encoder: BiEncoder
  loss: Loss
  chunk: Chunk = WHOLE

  def passages(
    self, params: Any, side: DeviceBatch, key: Key
  ) -> tuple[jax.Array, Callable | None]:
    """Embeds a side of passages.

    Returns:
      `[B_side, dim]` f32, those of all devices, and what leads a gradient of
      this device's ones back into the parameters; None where that is forgotten.
    """
    ids, rng = side['ids'], _fold(key)
    if self.chunk.rows_of(ids) == len(ids) and ids.size >= _WORTH_KEEPING:
      emb, pull = jax.vjp(lambda p: self._embed(p, _rows(side), rng), params)
    else:
      embed = lambda part: self._embed(params, part, rng)  # noqa: E731
      emb, pull = jax.lax.map(embed, self.chunk.split(_rows(side))), None
      emb = emb.reshape(-1, emb.shape[-1])[: len(ids)]
    return jax.lax.all_gather(emb, devices.AXIS, tiled=True), pull

  def queries(
    self,
    params: Any,
    side: DeviceBatch,
    accepted: jax.Array,
    passage_emb: list[jax.Array],
    passage_key: list[jax.Array],
    key: Key,
  ) -> tuple[jax.Array, Any, list[jax.Array]]:
    """The loss of the queries and its gradient.

    Args:
      params: of the bi-encoder.
      side: `b` texts.
      accepted: `[b, any]` int32, keys that are no negatives of each query.
      passage_emb: `[B_side, dim]` of each side of passages, of all devices.
      passage_key: `[b_side]` int32 of each, of this device.
      key: of the dropout.

    Returns:
      the loss, a scalar, mean over these queries; its gradient by the
      parameters as far as they embed the queries; and `[b_side, dim]` of each
      side, the gradient of all devices' losses by this device's passages.
    """
    b, rng = len(side['ids']), _fold(key)
    keys = jax.lax.all_gather(passage_key, devices.AXIS, tiled=True)
    keys = jnp.concatenate(keys)

    def loss(params: Any, emb: jax.Array, part: DeviceBatch) -> jax.Array:
      """The share of a chunk of queries."""
      no_negative = masked(part['accepted'], keys)
      query_emb = self._embed(params, part, rng)
      value = self.loss(query_emb, emb, part['row'], no_negative)
      return jnp.where(part['real'], value, 0).sum() / b

    emb = jnp.concatenate(passage_emb)
    queries = {**_rows(side), 'accepted': accepted, 'real': jnp.ones(b, bool)}
    value, (grads, wanted) = _summed(
      lambda part: jax.value_and_grad(loss, argnums=(0, 1))(params, emb, part),
      self.chunk.split(queries),
    )
    ends = np.cumsum([len(emb) for emb in passage_emb])
    wanted = jax.lax.psum_scatter(
      jnp.split(wanted, ends[:-1]), devices.AXIS, tiled=True
    )
    return value, grads, wanted

  def into_passages(
    self,
    grads: Any,
    pull: Callable | None,
    params: Any,
    side: DeviceBatch,
    wanted: jax.Array,
    key: Key,
  ) -> Any:
    """Adds what embeds a side of passages to a gradient.

    Args:
      grads: what it is added to.
      pull: as `passages` gave it.
      params: of the bi-encoder.
      side: `b_side` texts.
      wanted: `[b_side, dim]`, the gradient by their embeddings.
      key: of the dropout.
    """
    if pull is not None:
      return jax.tree.map(jnp.add, grads, pull(wanted)[0])

    rng = _fold(key)

    def one(part: DeviceBatch) -> Any:
      _, pull = jax.vjp(lambda p: self._embed(p, part, rng), params)
      return pull(part['wanted'])[0]

    return _summed(
      one, self.chunk.split({**_rows(side), 'wanted': wanted}), grads
    )

  def _embed(self, params: Any, part: DeviceBatch, rng: jax.Array) -> jax.Array:
    return self.bi_encoder.apply(
      params,
      part['ids'],
      part['lengths'],
      dropout_rng=rng,
      first_row=part['row'][0],
    )


def _fold(key: Key) -> jax.Array:
  rng, step, side = key
  return jax.random.fold_in(jax.random.fold_in(rng, step), side)


def _rows(side: DeviceBatch) -> DeviceBatch:
  """The texts, and where each row stands in the batch of all devices."""
  ids = side['ids']
  return {**side, 'row': first_row(ids) + jnp.arange(len(ids))}


def _summed(function: Any, chunks: DeviceBatch, total: Any = None) -> Any:
  """The sum of a function over chunks, one after the other, and a total."""
  first = jax.tree.map(lambda x: x[0], chunks)
  if len(jax.tree.leaves(chunks)[0]) == 1:  # a loop is more to compile
    value = function(first)
    return value if total is None else jax.tree.map(jnp.add, total, value)
  if total is None:
    total = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
    )
  add = lambda total, part: (  # noqa: E731
    jax.tree.map(jnp.add, total, function(part)),
    None,
  )
  return jax.lax.scan(add, total, chunks)[0]
