"""What the layers of a transformer share."""

from __future__ import annotations

import dataclasses

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


def dense(
  config: TransformerConfig, dtype: jnp.dtype, features: int, name: str
) -> nn.Dense:
  """A linear map with the initial weights that the configuration asks for."""
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


def layer_norm(
  config: TransformerConfig, dtype: jnp.dtype, name: str
) -> LayerNorm:
  """A layer norm with the configuration's epsilon."""
  return LayerNorm(config.layer_norm_eps, dtype, name=name)
