"""Dropout that is cheap and the same however a batch is split."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
  """Dropout whose mask is a hash of each element's index and the key.

  The index is that within the whole batch, so that the mask does not depend on
  how a batch is split over devices, or in chunks.

  JAX's own generators take as long on a CPU as the whole attention does; an
  integer hash melts into the product that it masks. Two rounds of multiply and
  shift (constants: the "lowbias32" finaliser, hash-prospector) are random
  enough to drop things by, and give the same mask on every platform.
  """

  rate: float

  @nn.compact
  def __call__(
    self, x: jax.Array, batch: int, first_row: jax.Array | None
  ) -> jax.Array:
    """Zeroes a share `rate` of x and scales the rest by `1 / (1 - rate)`.

    Args:
      x: of `batch` texts, one after the other.
      batch: texts in x.
      first_row: number of the first text within the whole batch; None: no
        dropout.
    """
    if first_row is None or not self.rate:
      return x
    k0, k1 = jax.random.bits(self.make_rng('dropout'), (2,), jnp.uint32)
    first = jnp.uint32(first_row) * jnp.uint32(x.size // batch)
    bits = first + jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    bits = bits * jnp.uint32(0x9E3779B9) + k0
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D) + k1
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    bits ^= bits >> 16
    keep = bits >= jnp.uint32(self.rate * 2**32)
    return jnp.where(keep, x / (1 - self.rate), 0)
