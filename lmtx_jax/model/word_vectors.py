"""The mean of word vectors: an encoder without any layer (GloVe)."""

from __future__ import annotations

import dataclasses
from typing import NoReturn

import jax
import jax.numpy as jnp

from lmtx_jax.model.bi_encoder import Params, unit
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class WordVectorsConfig:
  """Shape of a table of word vectors.

  Attributes:
    vocab_size: rows.
    dim: width.
    max_positions: the longest text in tokens; any is read.
  """

  vocab_size: int
  dim: int
  max_positions: int = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class WordVectors:
  """As `BiEncoder`, but embeds a text as the mean of its words' vectors.

  An unknown word has a vector of zeros, so that it does not count once an
  embedding has unit norm. The first and the last token, which frame a text, are
  left out.

  Attributes:
    config: shape of the table.
    normalize: scales embeddings to length 1, so a dot product is a cosine.
    dtype: of matrix products, of which there are none here.
  """

  config: WordVectorsConfig
  normalize: bool = True
  dtype: str = 'float32'

  @property
  def dim(self) -> int:
    """Width of an embedding."""
    return self.config.dim

  def with_dense(self, dim: int, activation: str = 'tanh') -> NoReturn:
    """Raises a UserError: a dense layer is for transformers."""
    del dim, activation
    raise UserError(
      'the word vectors of this --encoder take no dense layer; leave out'
      ' --projection_dim and --training_head'
    )

  def with_dropout(self, rate: float) -> WordVectors:
    """The same encoder: word vectors have no dropout."""
    del rate
    return self

  def with_best_attention(self) -> WordVectors:
    """The same encoder: there is no attention."""
    return self

  def for_inference(self, params: Params) -> Params:
    """The same parameters: nothing is multiplied by them."""
    return params

  def init(self, rng: jax.Array) -> Params:
    """Random parameters, float32."""
    shape = (self.config.vocab_size, self.config.dim)
    return {'word_vectors': jax.random.normal(rng, shape)}

  def apply(
    self,
    params: Params,
    token_ids: jax.Array,
    lengths: jax.Array,
    *,
    dropout_rng: jax.Array | None = None,
    first_row: jax.Array | int = 0,
  ) -> jax.Array:
    """Embeds texts.

    Args:
      params: as `init` makes them.
      token_ids: `[batch, length]` int32, framing tokens included.
      lengths: `[batch]` int32, tokens of each text; what stands after them
        never matters.
      dropout_rng: is not used.
      first_row: is not used.

    Returns:
      `[batch, dim]` float32, of unit norm if `normalize`; a text without any
      known word embeds as zeros.
    """
    del dropout_rng, first_row
    column = jnp.arange(token_ids.shape[1])
    # [batch, length]
    inside = (column > 0) & (column < lengths[:, None] - 1)
    vectors = jnp.take(params['word_vectors'], token_ids, axis=0)
    total = (vectors * inside[:, :, None]).sum(axis=1)
    mean = total / jnp.maximum(inside.sum(axis=1, keepdims=True), 1)
    return unit(mean) if self.normalize else mean
