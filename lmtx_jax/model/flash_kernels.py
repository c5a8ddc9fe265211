"""The kernels of flash attention, one tile of one head of one text each.

The products are read, and their gradient is written, where the projection has
them, side by side in one array; tiles of padding alone are left out. So that
loops multiply what they read, a bias is added before or after them: that of the
values to the context, that of the queries to the queries or, where these are
what a loop reads, to the scores; that of the keys moves all scores of a query
alike, which softmax does not see.

Queries with their bias are rounded to their dtype, scores are not: weights that
are computed again differ from the first ones as scores differ by that rounding.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
import numpy as np

from lmtx_jax.model.dropout import Seed, is_kept, spread
from lmtx_jax.model.layers import add_bias

_Q, _K, _V = np.arange(3, dtype=np.int32)  # indices of a reference have a shape


def forward_kernel(
  lengths_ref: Any,
  seed_ref: Any,
  qkv_ref: Any,
  bias_ref: Any,
  out_ref: Any,
  log_sum_ref: Any,
  *,
  rate: float,
  size: int,
) -> None:
  """A tile of queries against the keys of its text, a tile at a time."""
  at = _Place(lengths_ref, seed_ref, qkv_ref)
  queries = _Rows(pl.program_id(0) * size, size)
  q = add_bias(at.load(_Q, queries), bias_ref[_Q])

  def body(i: jax.Array, carry: tuple) -> tuple:
    out, total, left, top = carry
    keys = _Rows(i * size, size)
    scores = at.scores(q, at.load(_K, keys))
    scores = jnp.where(at.inside(keys)[None, :], scores, -jnp.inf)
    new_top = jnp.maximum(top, scores.max(axis=1))
    weights = jnp.exp2(scores - new_top[:, None])
    shrunk = jnp.exp2(top - new_top)
    total = total * shrunk + weights.sum(axis=1)
    if rate:
      weights = jnp.where(at.is_kept(queries, keys, rate), weights, 0)
    left = left * shrunk + weights.sum(axis=1)
    seen = triton.dot(weights.astype(q.dtype), at.load(_V, keys))
    return out * shrunk[:, None] + seen, total, left, new_top

  no_sum = jnp.zeros(size, jnp.float32)
  start = jnp.zeros(q.shape, jnp.float32), no_sum, no_sum, no_sum - jnp.inf
  end = at.tiles(queries)
  out, total, left, top = jax.lax.fori_loop(0, end, body, start)
  real = at.inside(queries)
  total = jnp.where(real, total, 1.0)
  out += left[:, None] * bias_ref[_V][None, :]
  out = jnp.where(real[:, None], out / (total * (1 - rate))[:, None], 0)
  queries.store(out_ref, out)
  queries.store(log_sum_ref, jnp.where(real, top + jnp.log2(total), 0))


def backward_kernel(
  lengths_ref: Any,
  seed_ref: Any,
  qkv_ref: Any,
  bias_ref: Any,
  d_out_ref: Any,
  log_sum_ref: Any,
  mean_ref: Any,
  d_qkv_ref: Any,
  *,
  rate: float,
  size: int,
) -> None:
  """The gradient of a tile of keys and values, then of the same of queries."""
  at = _Place(lengths_ref, seed_ref, qkv_ref)
  here = _Rows(pl.program_id(0) * size, size)
  zeros = jnp.zeros((size, qkv_ref.shape[-1]), jnp.float32)
  scale = qkv_ref.shape[-1] ** -0.5

  def tile(
    scores: jax.Array, d_weights: jax.Array, queries: _Rows, keys: _Rows
  ) -> tuple[jax.Array, jax.Array]:
    """Gradients of the scores, and weights after dropout."""
    inside = at.inside(queries)[:, None] & at.inside(keys)[None, :]
    scores -= queries.load(log_sum_ref)[:, None]
    weights = left = jnp.where(inside, jnp.exp2(scores), 0)
    if rate:
      kept = at.is_kept(queries, keys, rate)
      d_weights, left = (
        jnp.where(kept, x * (1 / (1 - rate)), 0) for x in (d_weights, left)
      )
    return weights * (d_weights - queries.load(mean_ref)[:, None]), left

  k, v = at.load(_K, here), add_bias(at.load(_V, here), bias_ref[_V])
  # [keys], of the bias of the queries
  bias_scores = (k * bias_ref[_Q]).sum(axis=1) * at.to_log2

  def by_keys(i: jax.Array, carry: tuple) -> tuple:
    d_k, d_v, total = carry
    queries = _Rows(i * size, size)
    q, d_out = at.load(_Q, queries), queries.load(d_out_ref)
    d_scores, left = tile(
      at.scores(q, k) + bias_scores[None, :],
      triton.dot(d_out, v.T),
      queries,
      here,
    )
    d_v += triton.dot(left.astype(q.dtype).T, d_out)
    d_k += triton.dot(d_scores.astype(q.dtype).T, q)
    return d_k, d_v, total + d_scores.sum(axis=0)

  end, no_sum = at.tiles(here), jnp.zeros(size, jnp.float32)
  d_k, d_v, total = jax.lax.fori_loop(0, end, by_keys, (zeros, zeros, no_sum))
  d_k += total[:, None] * bias_ref[_Q][None, :]
  here.store(d_qkv_ref, d_k * scale, _K)
  here.store(d_qkv_ref, d_v, _V)

  q, d_out = add_bias(at.load(_Q, here), bias_ref[_Q]), here.load(d_out_ref)
  # [queries], of the bias of the values
  bias_d_weights = (d_out * bias_ref[_V]).sum(axis=1)

  def by_queries(i: jax.Array, d_q: jax.Array) -> jax.Array:
    keys = _Rows(i * size, size)
    k = at.load(_K, keys)
    d_weights = triton.dot(d_out, at.load(_V, keys).T) + bias_d_weights[:, None]
    d_scores, _ = tile(at.scores(q, k), d_weights, here, keys)
    return d_q + triton.dot(d_scores.astype(q.dtype), k)

  d_q = jax.lax.fori_loop(0, end, by_queries, zeros)
  here.store(d_qkv_ref, d_q * scale, _Q)


class _Rows(NamedTuple):
  """A tile's rows of a text; those past the array's end are zeros."""

  start: jax.Array
  size: int

  @property
  def number(self) -> jax.Array:
    return self.start + jnp.arange(self.size, dtype=jnp.int32)

  def load(self, ref: Any, part: int | None = None) -> jax.Array:
    at, real = self._of(ref, part)
    return triton.load(at, mask=real, other=0)

  def store(self, ref: Any, x: jax.Array, part: int | None = None) -> None:
    at, real = self._of(ref, part)
    triton.store(at, x.astype(ref.dtype), mask=real)

  def _of(self, ref: Any, part: int | None) -> tuple[Any, jax.Array]:
    """What of a `[length, ...]` reference, and which of it there is."""
    rows = pl.ds(self.start, self.size)
    real = self.number < ref.shape[0]
    if ref.ndim == 1:
      return ref.at[rows], real
    at = ref.at[rows] if part is None else ref.at[rows, part]
    return at, jnp.broadcast_to(real[:, None], (self.size, ref.shape[-1]))


class _Place:
  """The text and the head that an instance of a kernel works on."""

  def __init__(self, lengths_ref: Any, seed_ref: Any, qkv_ref: Any):
    self._qkv = qkv_ref
    self._head, self._text = pl.program_id(1), pl.program_id(2)
    self._length = lengths_ref[self._text]
    self._seed = Seed(*(seed_ref[i] for i in range(3)))

  def tiles(self, rows: _Rows) -> jax.Array:
    """Tiles that rows see: those with a token, no_sum if they have no_sum."""
    tiles = (self._length + rows.size - 1) // rows.size
    return jnp.where(rows.start < self._length, tiles, 0)

  def load(self, part: int, rows: _Rows) -> jax.Array:
    """`[rows, head_dim]` of the queries, the keys or the values."""
    return rows.load(self._qkv, part)

  @property
  def to_log2(self) -> float:
    """What scores are multiplied by, to be exponents of 2."""
    return self._qkv.shape[-1] ** -0.5 * math.log2(math.e)

  def inside(self, rows: _Rows) -> jax.Array:
    """Which rows are tokens of the text."""
    return rows.number < self._length

  def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
    """`[queries, keys]` f32, in that unit."""
    return triton.dot(q, k.T) * self.to_log2

  def is_kept(self, queries: _Rows, keys: _Rows, rate: float) -> jax.Array:
    """`[queries, keys]` bool, what dropout leaves."""
    width = self._qkv.shape[0]
    head = self._text * pl.num_programs(1) + self._head
    row = (head * width + queries.number) * width
    spreads = (
      spread(row.astype(jnp.uint32), self._seed)[:, None]
      + spread(keys.number.astype(jnp.uint32))[None, :]
    )
    return is_kept(spreads, self._seed, rate)
