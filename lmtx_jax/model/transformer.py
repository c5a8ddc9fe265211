"""A post-layer-norm encoder: DistilBERT, BERT and MPNet, in Flax linen."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from lmtx_jax.model.attention import Attention, Keys
from lmtx_jax.model.dropout import draw_seed, drop
from lmtx_jax.model.layers import (
  LayerNorm,
  Linear,
  TransformerConfig,
  activated,
  add_bias,
)
from lmtx_jax.model.relative_positions import RelativePositions


class Transformer(nn.Module):
  """Token ids to hidden states.

  Attributes:
    config: shape and constants.
    dtype: of matrix products and hidden states; parameters, layer norms and
      softmax are float32.
    attention: 'xla' or 'flash', see `best_attention`; with relative positions
      it is 'xla' in any case.
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
    config, lengths, relative = self.config, None, None
    if config.relative_buckets:
      relative = RelativePositions(config, name='relative_positions')(
        token_ids.shape[1]
      )
    elif self.attention == 'flash':
      lengths = mask.sum(axis=1)
    keys = Keys(mask, lengths, relative)
    hidden = Embeddings(config, self.dtype, name='embeddings')(
      token_ids, first_row
    )
    for i in range(config.num_layers):
      hidden = Layer(config, self.dtype, name=f'layer_{i}')(
        hidden, keys, first_row
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
    length = token_ids.shape[1]
    word = self._table('word', config.vocab_size)
    first = config.first_position
    position = self._table('position', first + config.max_positions)
    # [length, dim], the same for every text of the batch
    shared = position[first : first + length]
    if config.type_vocab_size:
      shared += self._table('token_type', config.type_vocab_size)[0]
    hidden = jnp.take(word, token_ids, axis=0) + shared
    hidden = LayerNorm(config, self.dtype, name='norm')(hidden)
    seed = draw_seed(self, config.dropout, length * config.dim, first_row)
    return drop(hidden.reshape(-1, config.dim), config.dropout, seed)

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
    keys: Keys,
    first_row: jax.Array | None,
  ) -> jax.Array:
    """`[batch * length, dim]` to the same; see `Transformer`."""
    config, dtype = self.config, self.dtype
    per_text = hidden.size // keys.mask.shape[0]

    def add(x: jax.Array, bias: jax.Array, rate: float, norm: str) -> jax.Array:
      seed = draw_seed(self, rate, per_text, first_row)
      x = drop(add_bias(x, bias), rate, seed)
      return LayerNorm(config, dtype, name=norm)(hidden + x)

    attention = Attention(config, dtype, name='attention')
    x, bias = attention(hidden, keys, first_row)
    hidden = add(x, bias, config.projection_dropout, 'attention_norm')
    x, bias = Linear(config, dtype, config.ffn_dim, name='ffn_in')(hidden)
    x = activated(x, bias, config.activation)
    x, bias = Linear(config, dtype, config.dim, name='ffn_out')(x)
    return add(x, bias, config.dropout, 'ffn_norm')
