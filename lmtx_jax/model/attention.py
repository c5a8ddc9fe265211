"""Multi-head self-attention, by two products or by flash attention."""

from __future__ import annotations

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from lmtx_jax.model.dropout import Seed, draw_seed, drop
from lmtx_jax.model.layers import Linear, TransformerConfig, add_bias


class Keys(NamedTuple):
  """What the queries of a batch attend to, the same in every layer.

  Attributes:
    mask: `[batch, length]` bool, keys that count.
    lengths: `[batch]` int32, how many they are, to attend by flash attention;
      None: by two products.
    relative: `[heads, query, key]` f32, added to the scores; None: nothing is.
  """

  mask: jax.Array
  lengths: jax.Array | None
  relative: jax.Array | None


class Attention(nn.Module):
  """Multi-head self-attention, queries, keys and values in one product."""

  config: TransformerConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    hidden: jax.Array,
    keys: Keys,
    first_row: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """`[batch * length, dim]` to the same, and a bias; see `Transformer`."""
    config = self.config
    batch, length = keys.mask.shape
    heads = (3, config.num_heads, config.dim // config.num_heads)
    qkv, bias = Linear(config, self.dtype, 3 * config.dim, name='qkv')(hidden)
    qkv, bias = qkv.reshape(batch, length, *heads), bias.reshape(heads)
    rate = config.attention_dropout
    per_text = config.num_heads * length**2
    seed = draw_seed(self, rate, per_text, first_row)
    if keys.lengths is None:
      context = _two_products(add_bias(qkv, bias), keys, rate, seed)
    else:
      # Pallas, which takes long to import, is for a GPU alone.
      from lmtx_jax.model.flash_attention import flash_attention

      context = flash_attention(qkv, bias, keys.lengths, rate, seed)
    context = context.reshape(hidden.shape)
    return Linear(config, self.dtype, config.dim, name='out')(context)


def _two_products(
  qkv: jax.Array, keys: Keys, rate: float, seed: Seed | None
) -> jax.Array:
  """`[batch, length, 3, heads, head_dim]` to the same without the 3."""
  # each [batch, heads, length, head_dim], as a batched product reads it
  q, k, v = qkv.transpose(2, 0, 3, 1, 4)
  scores = jnp.einsum(
    'bhqd,bhkd->bhqk', q, k, preferred_element_type=jnp.float32
  )
  # 0 where a key counts, else as low as leaves softmax finite when a row has
  # no key at all. [batch, 1 head, 1 query, length]
  bias = jnp.where(keys.mask, 0.0, -1e9)[:, None, None, :]
  scores = scores * q.shape[-1] ** -0.5 + bias
  if keys.relative is not None:
    scores += keys.relative
  weights = drop(nn.softmax(scores).astype(q.dtype), rate, seed)
  context = jnp.einsum('bhqk,bhkd->bhqd', weights, v)
  return context.transpose(0, 2, 1, 3)
