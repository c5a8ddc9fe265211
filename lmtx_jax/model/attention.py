"""Multi-head self-attention, by two products or by flash attention."""

from __future__ import annotations

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from lmtx_jax.model.dropout import Dropout
from lmtx_jax.model.layers import TransformerConfig, dense


class Keys(NamedTuple):
  """What the queries of a batch attend to, the same in every layer.

  Attributes:
    mask: `[batch, length]` bool, keys that count.
    lengths: `[batch]` int32, how many they are, to attend by instead of `mask`
      where flash attention can be used; None: it is not.
    relative: `[heads, query, key]` f32, added to the scores; None: nothing is.
  """

  mask: jax.Array
  lengths: jax.Array | None
  relative: jax.Array | None


class Attention(nn.Module):
  """Multi-head self-attention, queries, keys and values in one product.

  Flash attention never keeps the scores, but has no dropout: with a rate of
  `attention_dropout` above 0, training attends by two products.
  """

  config: TransformerConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    hidden: jax.Array,
    keys: Keys,
    first_row: jax.Array | None,
  ) -> jax.Array:
    """`[batch * length, dim]` to the same; see `Transformer`."""
    config = self.config
    batch, length = keys.mask.shape
    head_dim = config.dim // config.num_heads
    qkv = dense(config, self.dtype, 3 * config.dim, 'qkv')(hidden)
    qkv = qkv.reshape(batch, length, 3, config.num_heads, head_dim)
    dropout = first_row is not None and config.attention_dropout > 0
    if keys.lengths is not None and not dropout:
      context = _flash(qkv, keys.lengths)
    else:
      context = self._two_products(qkv, keys, first_row)
    context = context.reshape(hidden.shape)
    out = dense(config, self.dtype, config.dim, 'out')(context)
    return Dropout(config.projection_dropout)(out, batch, first_row)

  def _two_products(
    self, qkv: jax.Array, keys: Keys, first_row: jax.Array | None
  ) -> jax.Array:
    """`[batch, length, 3, heads, head_dim]` to the same without the 3."""
    batch, head_dim = qkv.shape[0], qkv.shape[-1]
    # each [batch, heads, length, head_dim], as a batched product reads it
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    scores = jnp.einsum(
      'bhqd,bhkd->bhqk', q, k, preferred_element_type=jnp.float32
    )
    # 0 where a key counts, else as low as leaves softmax finite when a row
    # has no key at all. [batch, 1 head, 1 query, length]
    bias = jnp.where(keys.mask, 0.0, -1e9)[:, None, None, :]
    scores = scores * head_dim**-0.5 + bias
    if keys.relative is not None:
      scores += keys.relative
    weights = nn.softmax(scores).astype(self.dtype)
    rate = self.config.attention_dropout
    weights = Dropout(rate)(weights, batch, first_row)
    context = jnp.einsum('bhqk,bhkd->bhqd', weights, v)
    return context.transpose(0, 2, 1, 3)


def _flash(qkv: jax.Array, lengths: jax.Array) -> jax.Array:
  """Attention by cuDNN on a GPU, by JAX's own formula elsewhere.

  Args:
    qkv: `[batch, length, 3, heads, head_dim]`, bfloat16 on a GPU.
    lengths: `[batch]` int32, keys of each text.

  Returns:
    `[batch, length, heads, head_dim]`.
  """
  # An empty text attends to its first token and a query of the padding to the
  # text's keys, so that all is finite; neither is pooled.
  lengths = jnp.maximum(lengths, 1)
  inside = jnp.arange(qkv.shape[1]) < lengths[:, None]
  # The zeros do not change the result; they stop the gradient of the padding,
  # whatever the implementation leaves there.
  k, v = (
    jnp.where(inside[:, :, None, None], x, 0)
    for x in (qkv[:, :, 1], qkv[:, :, 2])
  )
  return jax.nn.dot_product_attention(
    qkv[:, :, 0],
    k,
    v,
    key_value_seq_lengths=lengths,
    implementation='cudnn' if jax.default_backend() == 'gpu' else 'xla',
  )
