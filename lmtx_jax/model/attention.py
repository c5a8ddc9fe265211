"""Multi-head self-attention, by two products or by flash attention."""

from __future__ import annotations

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from lmtx_jax.host import num_cores
from lmtx_jax.model.dropout import Seed, draw_seed, drop
from lmtx_jax.model.layers import Linear, TransformerConfig, add_bias

# On a CPU, of texts: two even on one core, where they suit its caches better;
# each of them is more to compile.
_LEAST_GROUPS, _MOST_GROUPS = 2, 4


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
  """`[batch, length, 3, heads, head_dim]` to the same without the 3.

  On a CPU in groups of texts, which run side by side: a product of many small
  matrices is work for one core.
  """
  batch, length, _, heads, _ = qkv.shape
  groups = 1
  if jax.default_backend() == 'cpu':
    groups = max(_LEAST_GROUPS, min(num_cores(), _MOST_GROUPS))
    groups = min(batch, groups)
  out = []
  for i in range(groups):
    start, end = batch * i // groups, batch * (i + 1) // groups
    part = keys._replace(mask=keys.mask[start:end])
    part_seed = seed and seed.later(start * heads * length**2)
    out.append(_attend(qkv[start:end], part, rate, part_seed))
  return jnp.concatenate(out)


def _attend(
  qkv: jax.Array, keys: Keys, rate: float, seed: Seed | None
) -> jax.Array:
  """`_two_products` of a group of texts."""
  # each [batch, heads, length, head_dim], as a batched product reads it
  q, k, v = qkv.transpose(2, 0, 3, 1, 4)
  scale = q.shape[-1] ** -0.5
  exact = q.dtype == jnp.float32
  scores = jnp.einsum(
    'bhqd,bhkd->bhqk',
    q * scale if exact else q,  # there are fewer of them than of scores
    k,
    preferred_element_type=jnp.float32,
  )
  if not exact:
    scores *= scale
  # 0 where a key counts, else as low as leaves all finite when a row has no
  # key at all. [batch, 1 head, 1 query, length]
  scores += jnp.where(keys.mask, 0.0, -1e9)[:, None, None, :]
  if keys.relative is not None:
    scores += keys.relative
  # Softmax, but divided where there is less to divide.
  top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  total = weights.sum(axis=-1, keepdims=True)
  weights = drop(weights.astype(q.dtype), rate, seed)
  context = jnp.einsum('bhqk,bhkd->bhqd', weights, v) / total
  return context.astype(q.dtype).transpose(0, 2, 1, 3)
