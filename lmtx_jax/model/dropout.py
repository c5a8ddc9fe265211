"""Dropout that is cheap and the same however a batch is split.

A mask is a hash of each element's index and a key. The index is that within the
whole batch, so that the mask does not depend on how a batch is split over
devices, or in chunks. JAX's own generators take as long on a CPU as the whole
attention does; an integer hash melts into the product that it masks.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_SPREAD = np.uint32(0x9E3779B9)


class Seed(NamedTuple):
  """What decides a mask; uint32 scalars.

  Attributes:
    k0: of the key.
    k1: of the key.
    first: index of the first element within the whole batch.
  """

  k0: jax.Array
  k1: jax.Array
  first: jax.Array

  def later(self, elements: int) -> Seed:
    """The same mask from a later element on."""
    first = jnp.uint32(self.first) + np.uint32(elements % 2**32)  # it wraps
    return self._replace(first=first)


def spread(index: jax.Array, seed: Seed | None = None) -> jax.Array:
  """Where the hash of elements begins; that of a sum is the sum of them.

  Args:
    index: uint32, of elements.
    seed: added once in such a sum.
  """
  if seed is None:
    return index * _SPREAD
  return (seed.first + index) * _SPREAD + seed.k0


def is_kept(spreads: jax.Array, seed: Seed, rate: float) -> jax.Array:
  """Which elements dropout leaves: False for a share `rate` of them.

  Two rounds of multiply and shift (constants: the "lowbias32" finaliser,
  hash-prospector) are random enough to drop things by, and give the same mask
  on every platform.
  """
  bits = spreads
  bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D) + seed.k1
  bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
  bits ^= bits >> 16
  return bits >= np.uint32(rate * 2**32)


def drop(x: jax.Array, rate: float, seed: Seed | None) -> jax.Array:
  """Zeroes a share `rate` of x and scales the rest by `1 / (1 - rate)`.

  Without a seed x stays as it is.
  """
  return x if seed is None else _drop(x, rate, seed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: jax.Array, rate: float, seed: Seed) -> jax.Array:
  index = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
  kept = is_kept(spread(index, seed), seed, rate)
  return jnp.where(kept, x * (1 / (1 - rate)), 0).astype(x.dtype)


# The gradient makes the mask again.
_drop.defvjp(
  lambda x, rate, seed: (_drop(x, rate, seed), seed),
  lambda rate, seed, d_y: (_drop(d_y, rate, seed), None),
)


def draw_seed(
  module: nn.Module,
  rate: float,
  per_text: int,
  first_row: jax.Array | None,
) -> Seed | None:
  """The seed of one more dropout, from the module's rng 'dropout'.

  Args:
    module: where it happens.
    rate: 0: there is none.
    per_text: elements of one text.
    first_row: number of the first text within the whole batch; None: there
      is none.
  """
  if first_row is None or not rate:
    return None
  k0, k1 = jax.random.bits(module.make_rng('dropout'), (2,), jnp.uint32)
  return Seed(k0, k1, jnp.uint32(first_row) * jnp.uint32(per_text))
