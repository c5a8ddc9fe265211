"""What the layers of a transformer share."""

from __future__ import annotations

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape and constants of an encoder.

  Attributes:
    num_layers: blocks of attention and feed-forward network.
    dim: width of the hidden states.
    num_heads: attention heads, a divisor of `dim`.
    ffn_dim: width inside the feed-forward network.
    vocab_size: rows of the word embedding.
    max_positions: the longest text in tokens.
    first_position: row of the position embedding that the first token gets;
      MPNet leaves the two before it unused.
    relative_buckets: rows of the table of relative positions, which attention
      adds to its scores; 0: there is none (all but MPNet).
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
  first_position: int = 0
  relative_buckets: int = 0
  type_vocab_size: int = 0
  pad_token_id: int = 0
  activation: str = 'gelu'
  layer_norm_eps: float = 1e-12
  dropout: float = 0.1
  attention_dropout: float = 0.1
  projection_dropout: float = 0.0
  init_std: float = 0.02


def gelu(x: jax.Array) -> jax.Array:
  """Exact GELU, x Phi(x).

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


class Linear(nn.Module):
  """A linear map whose bias is added where its product is read.

  That saves a pass over the product on an accelerator, which does not add a
  bias to each product that it writes.

  Attributes:
    config: for the initial weights.
    dtype: of the product.
    features: columns of it.
  """

  config: TransformerConfig
  dtype: jnp.dtype
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[..., any]` to the product, `[..., features]`, and its bias, f32."""
    init = nn.initializers.normal(self.config.init_std)
    kernel = self.param('kernel', init, (x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return x @ kernel.astype(self.dtype), bias


def add_bias(product: jax.Array, bias: jax.Array) -> jax.Array:
  """The sum, in float32, in the dtype of the product."""
  return (product + bias).astype(product.dtype)


@functools.partial(jax.checkpoint, static_argnums=2)
def activated(
  product: jax.Array, bias: jax.Array, activation: str
) -> jax.Array:
  """One of `ACTIVATIONS` of the sum; its gradient keeps the product alone."""
  return ACTIVATIONS[activation](product + bias).astype(product.dtype)


class LayerNorm(nn.Module):
  """Layer norm in float32."""

  config: TransformerConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., dim]` to the same in `dtype`."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return _normalize(x, scale, bias, self.config.layer_norm_eps, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  eps: float,
  dtype: jnp.dtype,
) -> jax.Array:
  """Its gradient keeps x alone, and two numbers a row."""
  return _normalized(x, scale, bias, eps, dtype)[0]


def _normalized(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  eps: float,
  dtype: jnp.dtype,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  centre = x.astype(jnp.float32).mean(axis=-1, keepdims=True)
  # By two passes: one loses digits.
  variance = jnp.square(x - centre).mean(axis=-1, keepdims=True)
  unit = jax.lax.rsqrt(variance + eps)
  y = (x - centre) * unit * scale + bias
  return y.astype(dtype), (x, scale, centre, unit)


def _normalize_gradient(
  eps: float, dtype: jnp.dtype, kept: tuple[jax.Array, ...], d_y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  del eps, dtype
  x, scale, centre, unit = kept
  y, d_y = (x - centre) * unit, d_y.astype(jnp.float32)
  rows = tuple(range(x.ndim - 1))
  d_scale, d_bias = (d_y * y).sum(axis=rows), d_y.sum(axis=rows)
  d_y *= scale
  along = (d_y * y).mean(axis=-1, keepdims=True)
  d_x = (d_y - d_y.mean(axis=-1, keepdims=True) - along * y) * unit
  return d_x.astype(x.dtype), d_scale, d_bias


_normalize.defvjp(_normalized, _normalize_gradient)
