"""Flash attention with dropout on an NVIDIA GPU, as Pallas kernels in Triton.

Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning" (ICLR 2024): the scores of a tile of queries and keys stay in
registers, and are computed again for the gradient. cuDNN's, as `jax.nn` has it,
knows no dropout. Here its mask is the hash of `lmtx_jax.model.dropout`, made
anew for each tile: the weights that two products drop on any other device.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from lmtx_jax.model.dropout import Seed
from lmtx_jax.model.flash_kernels import backward_kernel, forward_kernel

# Queries and keys of a tile, and its warps and stages, the quickest of ten
# choices on an H100 with 430 tokens and heads of 64.
_TILE = 64
_PARAMS = triton.CompilerParams(num_warps=4, num_stages=3)
_LEAST = 16  # rows of a product in Triton


def flash_attention(
  qkv: jax.Array,
  bias: jax.Array,
  lengths: jax.Array,
  rate: float = 0.0,
  seed: Seed | None = None,
) -> jax.Array:
  """Attention of every text to itself.

  Args:
    qkv: `[batch, length, 3, heads, head_dim]`, head_dim 16, 32 or 64.
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
    functools.partial(forward_kernel, rate=rate),
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
    functools.partial(backward_kernel, rate=rate),
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
    interpret=jax.default_backend() == 'cpu',  # step by step, for tests
    name=f'flash_{kernel.func.__name__}',
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
