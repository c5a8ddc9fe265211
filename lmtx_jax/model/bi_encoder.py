"""One tower for documents and labels: token ids to one embedding a text."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from lmtx_jax.model.layers import TransformerConfig
from lmtx_jax.model.transformer import Transformer
from lmtx_jax.types import UserError

Params = dict[str, Any]

DENSE_ACTIVATIONS = {'tanh': jnp.tanh, 'identity': lambda x: x}


@dataclasses.dataclass(frozen=True)
class BiEncoder:
  """An encoder without its parameters; hashable, so jit and pmap may hold it.

  Attributes:
    config: shape and constants of the transformer.
    pooling: 'mean' of a text's hidden states, or the first one, 'cls'.
    normalize: scales embeddings to length 1, so a dot product is a cosine.
    dtype: of the matrix products, 'float32' or 'bfloat16'. Parameters, layer
      norm, softmax, pooling and what follows it are float32 either way.
    attention: 'xla', or 'flash' where `best_attention` says so: it never keeps
      the scores.
    dense_dim: width of a dense layer between pooling and normalisation; 0:
      there is none.
    dense_activation: of that layer, one of `DENSE_ACTIVATIONS`.
    dense_bias: whether that layer has a bias.
  """

  config: TransformerConfig
  pooling: str = 'mean'
  normalize: bool = True
  dtype: str = 'float32'
  attention: str = 'xla'
  dense_dim: int = 0
  dense_activation: str = 'tanh'
  dense_bias: bool = True

  @property
  def dim(self) -> int:
    """Width of an embedding."""
    return self.dense_dim or self.config.dim

  def with_dense(
    self, dim: int, activation: str = 'tanh', *, bias: bool = True
  ) -> BiEncoder:
    """The same encoder with a dense layer, whose parameters are `dense`.

    Args:
      dim: width of an embedding then.
      activation: one of `DENSE_ACTIVATIONS`.
      bias: whether the layer has one.

    Raises:
      UserError: it has such a layer already.
    """
    if self.dense_dim:
      raise UserError(
        f'the --encoder has a dense layer of {self.dense_dim} already; leave'
        ' out --projection_dim and --training_head'
      )
    return dataclasses.replace(
      self, dense_dim=dim, dense_activation=activation, dense_bias=bias
    )

  def with_dropout(self, rate: float) -> BiEncoder:
    """The same encoder with another dropout rate; -1 keeps its own."""
    if rate < 0:
      return self
    config = dataclasses.replace(
      self.config,
      dropout=rate,
      attention_dropout=rate,
      projection_dropout=rate if self.config.projection_dropout else 0.0,
    )
    return dataclasses.replace(self, config=config)

  def with_best_attention(self) -> BiEncoder:
    """The same encoder with the attention that suits the local devices."""
    if self.config.relative_buckets:  # which flash attention does not add
      return dataclasses.replace(self, attention='xla')
    device = jax.local_devices()[0]
    attention = best_attention(
      device.platform,
      getattr(device, 'compute_capability', ''),
      self.dtype,
      self.config.dim // self.config.num_heads,
    )
    return dataclasses.replace(self, attention=attention)

  def for_inference(self, params: Params) -> Params:
    """Parameters to embed with and not to train, which take less memory.

    What matrix products read is in their dtype then, as they would cast it.

    Args:
      params: as `init` makes them.
    """

    def cast(path: tuple, x: np.ndarray) -> np.ndarray:
      layer = path[0].key.startswith('layer_') and path[-1].key == 'kernel'
      return np.asarray(x, jnp.dtype(self.dtype)) if layer else x

    return jax.tree.map_with_path(cast, params)

  def init(self, rng: jax.Array) -> Params:
    """Random parameters, nested dicts of float32 arrays."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    transformer = Transformer(self.config)
    params = transformer.init(rng, tokens, tokens == 0, None)['params']
    if self.dense_dim:
      params = {**params, 'dense': self.init_dense(jax.random.fold_in(rng, 1))}
    return params

  def init_dense(self, rng: jax.Array) -> Params:
    """Random parameters of the dense layer, which PyTorch would draw so too.

    Returns:
      'kernel' `[config.dim, dense_dim]` and, if there is one, 'bias'
      `[dense_dim]`, float32.
    """
    kernel_rng, bias_rng = jax.random.split(rng)
    bound = self.config.dim**-0.5
    params = {
      'kernel': jax.random.uniform(
        kernel_rng,
        (self.config.dim, self.dense_dim),
        minval=-bound,
        maxval=bound,
      )
    }
    if self.dense_bias:
      params['bias'] = jax.random.uniform(
        bias_rng, (self.dense_dim,), minval=-bound, maxval=bound
      )
    return params

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
      token_ids: `[batch, length]` int32, special tokens included.
      lengths: `[batch]` int32, tokens of each text; what stands after them
        never matters. A text of 0 tokens embeds as zeros.
      dropout_rng: key of the dropout; None is no dropout.
      first_row: number of the first text within the whole batch, of which
        these may be a part: each text's dropout is the same in every split.

    Returns:
      `[batch, dim]` float32, of unit norm if `normalize`.

    Raises:
      UserError: texts longer than the encoder has positions.
    """
    width = token_ids.shape[1]
    self._check_width(width)
    mask = jnp.arange(width) < lengths[:, None]
    hidden = self._transformer.apply(
      {'params': params},
      token_ids,
      mask,
      None if dropout_rng is None else first_row,
      rngs=None if dropout_rng is None else {'dropout': dropout_rng},
    ).astype(jnp.float32)
    pooled = _pool(hidden, mask, self.pooling)
    if self.dense_dim:
      pooled = self._dense(params['dense'], pooled)
      pooled *= mask[:, :1]  # an empty text stays zeros
    return unit(pooled) if self.normalize else pooled

  def _check_width(self, width: int) -> None:
    limit = self.config.max_positions
    if width > limit:
      raise UserError(
        f'texts of {width} tokens for an --encoder of {limit} positions;'
        ' lower --max_doc_tokens, --max_train_doc_tokens or --max_label_tokens'
      )

  def _dense(self, params: Params, pooled: jax.Array) -> jax.Array:
    """`[batch, config.dim]` float32 to `[batch, dense_dim]`."""
    x = pooled @ params['kernel']
    if self.dense_bias:
      x += params['bias']
    return DENSE_ACTIVATIONS[self.dense_activation](x)

  @property
  def _transformer(self) -> Transformer:
    return Transformer(self.config, jnp.dtype(self.dtype), self.attention)


def best_attention(
  platform: str, capability: str, dtype: str, head_dim: int
) -> str:
  """'flash' where `lmtx_jax.model.flash_attention` runs, else 'xla'.

  Args:
    platform: of the device, as `jax.Device.platform` names it.
    capability: CUDA compute capability such as '9.0'; not a number or empty on
      devices of others.
    dtype: of the matrix products.
    head_dim: width of one attention head.
  """
  if platform != 'gpu' or dtype != 'bfloat16':
    return 'xla'
  # Matrix units for bfloat16 start with Ampere; Triton wants powers of two, of
  # which wider heads may not fit into the shared memory of smaller cards.
  ampere = re.fullmatch(r'(\d+)\.\d+', capability)
  if ampere and int(ampere[1]) >= 8 and head_dim in (16, 32, 64):
    return 'flash'
  logging.info(
    'no flash attention: compute capability %r, heads of %d',
    capability,
    head_dim,
  )
  return 'xla'


def _pool(hidden: jax.Array, mask: jax.Array, pooling: str) -> jax.Array:
  """`[batch, length, dim]` float32 and its mask to `[batch, dim]`."""
  if pooling == 'cls':
    return hidden[:, 0] * mask[:, :1]
  total = (hidden * mask[:, :, None]).sum(axis=1)
  return total / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)


def unit(x: jax.Array) -> jax.Array:
  """Rows scaled to length 1; the floor keeps a zero row's gradient finite."""
  squares = jnp.square(x).sum(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
