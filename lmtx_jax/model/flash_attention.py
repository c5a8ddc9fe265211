"""Flash attention with dropout on an NVIDIA GPU, as Pallas kernels in Triton.

Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning" (ICLR 2024): the scores of a tile of queries and keys stay in
registers, and are computed again for the gradient. cuDNN's, as `jax.nn` has it,
knows no dropout. Here its mask is the hash of `lmtx_jax.model.dropout`, made
anew for each tile: the weights that two products drop on any other device.

The products are read, and their gradient is written, where the projection has
them, side by side in one array and without their bias; tiles of padding alone
are left out.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
import numpy as np

from lmtx_jax.model.dropout import Seed, is_kept, spread
from lmtx_jax.model.layers import add_bias

# Queries and keys of a tile, and its warps and stages, the quickest of ten
# choices on an H100 with 430 tokens and heads of 64.
_TILE = 64
_PARAMS = triton.CompilerParams(num_warps=4, num_stages=3)
_LEAST = 16  # rows of a product in Triton

_Q, _K, _V = np.arange(3, dtype=np.int32)


def flash_attention(
  qkv: jax.Array,
  bias: jax.Array,
  lengths: jax.Array,
  rate: float = 0.0,
  seed: Seed | None = None,
) -> jax.Array:
  """Attention of every text to itself.

  Args:
    qkv: `[batch, length, 3, heads, head_dim]`, head_dim a power of two, at
      least 16.
    bias: `[3, heads, head_dim]` f32, to be added to `qkv`.
    lengths: `[batch]` int32, tokens of each text, its first ones.
    rate: of the dropout on the attention weights.
    seed: of the dropout, over `[batch, heads, query, key]`; None: none.

  Returns:
    `[batch, length, heads, head_dim]`; zeros after the end of a text.
  """
  if seed is None:
    rate, seed = 0.0, Seed(*jnp.zeros(3, jnp.uint32))
  return _flash(qkv, bias, lengths, jnp.stack(seed), rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _flash(
  qkv: jax.Array,
  bias: jax.Array,
  lengths: jax.Array,
  seed: jax.Array,
  rate: float,
) -> jax.Array:
  return _forward(qkv, bias, lengths, seed, rate)[0]


def _forward(
  qkv: jax.Array,
  bias: jax.Array,
  lengths: jax.Array,
  seed: jax.Array,
  rate: float,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  batch, length, _, heads, dim = qkv.shape
  out, log_sum = _call(
    functools.partial(_forward_kernel, rate=rate),
    qkv.shape,
    [],
    [
      (_head(length, dim), (batch, length, heads, dim), qkv.dtype),
      (_row(length), (batch, heads, length), jnp.float32),
    ],
  )(lengths, seed, qkv, bias)
  return out, (qkv, bias, lengths, seed, out, log_sum)


def _backward(
  rate: float, kept: tuple[jax.Array, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
  qkv, bias, lengths, seed, out, log_sum = kept
  _, length, _, _, dim = qkv.shape
  # [batch, heads, length]: of each query, the mean gradient of its weights.
  mean = jnp.einsum(
    'bqhd,bqhd->bhq', d_out, out, preferred_element_type=jnp.float32
  )
  (d_qkv,) = _call(
    functools.partial(_backward_kernel, rate=rate),
    qkv.shape,
    [_head(length, dim), _row(length), _row(length)],
    [(_head_of_qkv(length, dim), qkv.shape, qkv.dtype)],
  )(lengths, seed, qkv, bias, d_out, log_sum, mean)
  d_bias = d_qkv.sum(axis=(0, 1), dtype=jnp.float32)
  return d_qkv, d_bias, None, None


_flash.defvjp(_forward, _backward)


def _call(kernel: Any, shape: tuple[int, ...], more: list, out: list) -> Any:
  """A kernel with an instance for each tile of each head of each text.

  Args:
    kernel: of the references to lengths, seed, qkv and bias, to `more` inputs
      and to the results.
    shape: of qkv.
    more: block specs of further inputs.
    out: block spec, shape and dtype of each result.
  """
  batch, length, _, heads, dim = shape
  whole = pl.BlockSpec(memory_space=pl.ANY)
  bias = pl.BlockSpec((3, None, dim), lambda _, head, text: (0, head, 0))
  return pl.pallas_call(
    functools.partial(kernel, size=_tile(length)),
    grid=(pl.cdiv(length, _tile(length)), heads, batch),
    in_specs=[whole, whole, _head_of_qkv(length, dim), bias, *more],
    out_specs=[spec for spec, _, _ in out],
    out_shape=[jax.ShapeDtypeStruct(x, dtype) for _, x, dtype in out],
    compiler_params=_PARAMS,
    interpret=jax.default_backend() != 'gpu',  # step by step, for tests
    name=kernel.func.__name__.removesuffix('_kernel').replace('_', 'flash_'),
  )


def _tile(length: int) -> int:
  return max(_LEAST, min(_TILE, pl.next_power_of_2(length)))


def _head_of_qkv(length: int, dim: int) -> pl.BlockSpec:
  return pl.BlockSpec(
    (None, length, 3, None, dim), lambda _, head, text: (text, 0, 0, head, 0)
  )


def _head(length: int, dim: int) -> pl.BlockSpec:
  return pl.BlockSpec(
    (None, length, None, dim), lambda _, head, text: (text, 0, head, 0)
  )


def _row(length: int) -> pl.BlockSpec:
  return pl.BlockSpec(
    (None, None, length), lambda _, head, text: (text, head, 0)
  )


def _forward_kernel(
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
  at = _Place(lengths_ref, seed_ref, qkv_ref, bias_ref)
  queries = _Rows(pl.program_id(0) * size, size)
  q = at.load(_Q, queries)

  def body(i: jax.Array, carry: tuple) -> tuple:
    out, total, top = carry
    keys = _Rows(i * size, size)
    scores = at.scores(q, at.load(_K, keys))
    scores = jnp.where(at.inside(keys)[None, :], scores, -jnp.inf)
    new_top = jnp.maximum(top, scores.max(axis=1))
    weights = jnp.exp2(scores - new_top[:, None])
    shrunk = jnp.exp2(top - new_top)
    total = total * shrunk + weights.sum(axis=1)
    if rate:
      weights = jnp.where(at.is_kept(queries, keys, rate), weights, 0)
    seen = triton.dot(weights.astype(q.dtype), at.load(_V, keys))
    return out * shrunk[:, None] + seen, total, new_top

  start = (
    jnp.zeros(q.shape, jnp.float32),
    jnp.zeros(size, jnp.float32),
    jnp.full(size, -jnp.inf, jnp.float32),
  )
  out, total, top = jax.lax.fori_loop(0, at.tiles(queries), body, start)
  real = at.inside(queries)
  total = jnp.where(real, total, 1.0)
  out = jnp.where(real[:, None], out / (total * (1 - rate))[:, None], 0)
  queries.store(out_ref, out)
  queries.store(log_sum_ref, jnp.where(real, top + jnp.log2(total), 0))


def _backward_kernel(
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
  at = _Place(lengths_ref, seed_ref, qkv_ref, bias_ref)
  here = _Rows(pl.program_id(0) * size, size)
  zeros = jnp.zeros((size, qkv_ref.shape[-1]), jnp.float32)
  scale = qkv_ref.shape[-1] ** -0.5

  def tile(
    q: jax.Array, k: jax.Array, v: jax.Array, queries: _Rows, keys: _Rows
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of the context and the scores, and weights after dropout."""
    d_out = queries.load(d_out_ref)
    scores = at.scores(q, k) - queries.load(log_sum_ref)[:, None]
    inside = at.inside(queries)[:, None] & at.inside(keys)[None, :]
    weights = jnp.where(inside, jnp.exp2(scores), 0)
    d_weights = triton.dot(d_out, v.T)
    left = weights
    if rate:
      kept = at.is_kept(queries, keys, rate)
      d_weights, left = (
        jnp.where(kept, x * (1 / (1 - rate)), 0) for x in (d_weights, left)
      )
    d_scores = weights * (d_weights - queries.load(mean_ref)[:, None])
    return d_out, d_scores.astype(q.dtype), left.astype(q.dtype)

  k, v = at.load(_K, here), at.load(_V, here)

  def by_keys(i: jax.Array, carry: tuple) -> tuple:
    d_k, d_v = carry
    queries = _Rows(i * size, size)
    q = at.load(_Q, queries)
    d_out, d_scores, left = tile(q, k, v, queries, here)
    return d_k + triton.dot(d_scores.T, q), d_v + triton.dot(left.T, d_out)

  end = at.tiles(here)
  d_k, d_v = jax.lax.fori_loop(0, end, by_keys, (zeros, zeros))
  here.store(d_qkv_ref, d_k * scale, _K)
  here.store(d_qkv_ref, d_v, _V)
  q = at.load(_Q, here)

  def by_queries(i: jax.Array, d_q: jax.Array) -> jax.Array:
    keys = _Rows(i * size, size)
    k = at.load(_K, keys)
    _, d_scores, _ = tile(q, k, at.load(_V, keys), here, keys)
    return d_q + triton.dot(d_scores, k)

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

  def __init__(
    self, lengths_ref: Any, seed_ref: Any, qkv_ref: Any, bias_ref: Any
  ):
    self._qkv, self._bias = qkv_ref, bias_ref
    self._head, self._text = pl.program_id(1), pl.program_id(2)
    self._length = lengths_ref[self._text]
    self._seed = Seed(*(seed_ref[i] for i in range(3)))

  def tiles(self, rows: _Rows) -> jax.Array:
    """Tiles that rows see: those with a token, none if they have none."""
    tiles = (self._length + rows.size - 1) // rows.size
    return jnp.where(rows.start < self._length, tiles, 0)

  def load(self, part: int, rows: _Rows) -> jax.Array:
    """`[rows, head_dim]` of the queries, the keys or the values."""
    return add_bias(rows.load(self._qkv, part), self._bias[part])

  def inside(self, rows: _Rows) -> jax.Array:
    """Which rows are tokens of the text."""
    return rows.number < self._length

  def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
    """`[queries, keys]` f32, to be powers of two."""
    return triton.dot(q, k.T) * (q.shape[-1] ** -0.5 * math.log2(math.e))

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
