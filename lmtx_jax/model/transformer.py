"""A post-layer-norm transformer encoder: DistilBERT and BERT, in Flax linen."""

from __future__ import annotations

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from lmtx_jax.model.dropout import Dropout


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape and constants of an encoder.

  Attributes:
    num_layers: blocks of attention and feed-forward network.
    dim: width of the hidden states.
    num_heads: attention heads, a divisor of `dim`.
    ffn_dim: width inside the feed-forward network.
    vocab_size: rows of the word embedding.
    max_positions: rows of the position embedding, the longest text in tokens.
    type_vocab_size: rows of the token-type embedding; 0: there is none
      (DistilBERT). A text is always of type 0.
    pad_token_id: what fills the rows of a batch; its embedding is never seen.
    activation: of the feed-forward network, one of `ACTIVATIONS`.
    layer_norm_eps: added to the variance.
    dropout: rate after the embeddings and the feed-forward network.
    attention_dropout: rate on the attention weights.
    projection_dropout: rate after attention's output projection; BERT has it,
      DistilBERT does not.
    init_std: standard deviation of initial weights.
  """

  num_layers: int
  dim: int
  num_heads: int
  ffn_dim: int
  vocab_size: int
  max_positions: int
  type_vocab_size: int = 0
  pad_token_id: int = 0
  activation: str = 'gelu'
  layer_norm_eps: float = 1e-12
  dropout: float = 0.1
  attention_dropout: float = 0.1
  projection_dropout: float = 0.0
  init_std: float = 0.02


@jax.checkpoint
def gelu(x: jax.Array) -> jax.Array:
  """Exact GELU, x Phi(x); its gradient keeps x alone, to save memory.

  By erf, not by erfc as in `jax.nn.gelu`: erf is one rational polynomial and
  several times faster on a CPU.
  """
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS = {
  'gelu': gelu,
  'gelu_new': nn.gelu,
  'gelu_pytorch_tanh': nn.gelu,
  'relu': nn.relu,
  'silu': nn.silu,
}


class Transformer(nn.Module):
  """Token ids to hidden states.

  Attributes:
    config: shape and constants.
    dtype: of matrix products and hidden states; parameters, layer norms and
      softmax are float32.
    attention: 'xla' or 'flash', see `Attention`.
  """

  config: TransformerConfig
  dtype: jnp.dtype = jnp.float32
  attention: str = 'xla'

  @nn.compact
  def __call__(
    self, token_ids: jax.Array, mask: jax.Array, first_row: jax.Array | None
  ) -> jax.Array:
    """Runs the encoder.

    Args:
      token_ids: `[batch, length]` int32, length at most `max_positions`.
      mask: `[batch, length]` bool, True at the tokens of each text, which are
        its first ones.
      first_row: number of the first text within the whole batch, of which
        this may be a part: dropout, drawn from the rng 'dropout', is the same
        however the batch is split. None: no dropout.

    Returns:
      `[batch, length, dim]` in `dtype`.
    """
    # 0 where a key counts, else as low as leaves softmax finite when a row
    # has no key at all. [batch, 1 head, 1 query, length]
    bias = jnp.where(mask, 0.0, -1e9)[:, None, None, :]
    lengths = mask.sum(axis=1) if self.attention == 'flash' else None
    hidden = Embeddings(self.config, self.dtype, name='embeddings')(
      token_ids, first_row
    )
    for i in range(self.config.num_layers):
      hidden = Layer(self.config, self.dtype, name=f'layer_{i}')(
        hidden, bias, lengths, first_row
      )
    return hidden.reshape(*token_ids.shape, -1)


class Embeddings(nn.Module):
  """Sum of word, position and token-type embeddings, normalised."""

  config: TransformerConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, token_ids: jax.Array, first_row: jax.Array | None
  ) -> jax.Array:
    """`[batch, length]` int32 to `[batch * length, dim]`.

    All that is not attention works on a matrix of tokens: on a CPU, the
    gradient of a product with more axes takes 1.7 times as long.
    """
    config = self.config
    batch, length = token_ids.shape
    word = self._table('word', config.vocab_size)
    position = self._table('position', config.max_positions)
    # [length, dim], the same for every text of the batch
    shared = position[:length]
    if config.type_vocab_size:
      shared += self._table('token_type', config.type_vocab_size)[0]
    hidden = jnp.take(word, token_ids, axis=0) + shared
    hidden = hidden.reshape(-1, config.dim)
    hidden = _layer_norm(config, self.dtype, 'norm')(hidden)
    return Dropout(config.dropout)(hidden, batch, first_row)

  def _table(self, name: str, rows: int) -> jax.Array:
    init = nn.initializers.normal(self.config.init_std)
    return self.param(name, init, (rows, self.config.dim))


class Layer(nn.Module):
  """Self-attention, then a feed-forward network, each added and normalised."""

  config: TransformerConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    hidden: jax.Array,
    bias: jax.Array,
    lengths: jax.Array | None,
    first_row: jax.Array | None,
  ) -> jax.Array:
    """Runs one layer.

    Args:
      hidden: `[batch * length, dim]`.
      bias: `[batch, 1 or heads, 1 or length, length]`, added to the attention
        scores of `[batch, heads, query, key]`.
      lengths: `[batch]` int32, tokens of each text, to attend by instead of
        `bias` where flash attention can be used; None: it is not.
      first_row: see `Transformer`.

    Returns:
      `[batch * length, dim]`.
    """
    config, batch = self.config, bias.shape[0]
    x = Attention(config, self.dtype, name='attention')(
      hidden, bias, lengths, first_row
    )
    hidden = _layer_norm(config, self.dtype, 'attention_norm')(hidden + x)
    x = _dense(config, self.dtype, config.ffn_dim, 'ffn_in')(hidden)
    x = ACTIVATIONS[config.activation](x)
    x = _dense(config, self.dtype, config.dim, 'ffn_out')(x)
    x = Dropout(config.dropout)(x, batch, first_row)
    return _layer_norm(config, self.dtype, 'ffn_norm')(hidden + x)


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
    bias: jax.Array,
    lengths: jax.Array | None,
    first_row: jax.Array | None,
  ) -> jax.Array:
    """See `Layer`."""
    config = self.config
    batch, length = bias.shape[0], bias.shape[-1]
    head_dim = config.dim // config.num_heads
    qkv = _dense(config, self.dtype, 3 * config.dim, 'qkv')(hidden)
    qkv = qkv.reshape(batch, length, 3, config.num_heads, head_dim)
    dropout = first_row is not None and config.attention_dropout > 0
    if lengths is not None and not dropout:
      context = _flash(qkv, lengths)
    else:
      context = self._two_products(qkv, bias, first_row)
    context = context.reshape(hidden.shape)
    out = _dense(config, self.dtype, config.dim, 'out')(context)
    return Dropout(config.projection_dropout)(out, batch, first_row)

  def _two_products(
    self, qkv: jax.Array, bias: jax.Array, first_row: jax.Array | None
  ) -> jax.Array:
    """`[batch, length, 3, heads, head_dim]` to the same without the 3."""
    batch, head_dim = qkv.shape[0], qkv.shape[-1]
    # each [batch, heads, length, head_dim], as a batched product reads it
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    scores = jnp.einsum(
      'bhqd,bhkd->bhqk', q, k, preferred_element_type=jnp.float32
    )
    weights = nn.softmax(scores * head_dim**-0.5 + bias).astype(self.dtype)
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


def _dense(
  config: TransformerConfig, dtype: jnp.dtype, features: int, name: str
) -> nn.Dense:
  return nn.Dense(
    features,
    dtype=dtype,
    kernel_init=nn.initializers.normal(config.init_std),
    name=name,
  )


class LayerNorm(nn.Module):
  """Layer norm in float32, by two passes (one loses digits)."""

  eps: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., dim]` to the same in `dtype`."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    x = x.astype(jnp.float32)
    x -= x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + self.eps) * scale + bias
    return x.astype(self.dtype)


def _layer_norm(
  config: TransformerConfig, dtype: jnp.dtype, name: str
) -> LayerNorm:
  return LayerNorm(config.layer_norm_eps, dtype, name=name)
