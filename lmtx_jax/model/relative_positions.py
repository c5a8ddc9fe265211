"""MPNet's relative positions: a bias of attention, one for all layers."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmtx_jax.model.layers import TransformerConfig

_FARTHEST = 128  # tokens away, from where on all share one bucket


class RelativePositions(nn.Module):
  """One number a head for each distance between a query and a key.

  Distances share rows of the table: half of them for keys before the query,
  half for keys after it; of each half, the first half one row a distance, the
  second half ever wider spans (T5; Raffel et al., JMLR 2020).
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    """`[heads, query, key]` float32, of `length` queries and keys."""
    config = self.config
    table = self.param(
      'table',
      nn.initializers.normal(config.init_std),
      (config.relative_buckets, config.num_heads),
    )
    # Column c is of distance c, or c - 2 * length from the middle on: distances
    # go around, and one column is of none that occurs.
    column = np.arange(2 * length)
    distance = np.where(column < length, column, column - 2 * length)
    values = table[buckets(distance, config.relative_buckets)].T
    # Row q, column k is of distance k - q. Written one after the other, rows
    # of 2 * length - 1 columns read 2 * length columns over and over: no
    # gather, whose gradient would be one addition after another.
    rows = jnp.tile(values, (1, length))[:, : length * (2 * length - 1)]
    return rows.reshape(-1, length, 2 * length - 1)[:, :, :length]


def buckets(distance: np.ndarray, num_buckets: int) -> np.ndarray:
  """Rows of the table.

  Args:
    distance: any shape, int; the key's position less the query's.
    num_buckets: rows, a multiple of 4.

  Returns:
    The same shape, int32.
  """
  half, far = num_buckets // 2, np.abs(distance)
  exact = half // 2
  # In float32 and in this order, as models were trained by: the borders of
  # the spans are powers of two, where a digit decides.
  ratio = np.maximum(far, 1).astype(np.float32) / np.float32(exact)
  scale = np.float32(np.log(_FARTHEST / exact))
  span = (np.log(ratio) / scale * np.float32(half - exact)).astype(np.int32)
  row = np.where(far < exact, far, np.minimum(exact + span, half - 1))
  return (row + np.where(distance > 0, half, 0)).astype(np.int32)
