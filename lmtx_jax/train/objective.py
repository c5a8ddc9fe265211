"""What the loss of a batch of pairs is made of, on one of the devices."""

from __future__ import annotations

import jax

from lmtx_jax import devices

DeviceBatch = dict[str, jax.Array]
# Passages of a batch may come in up to eight parts, each with its own width.
PASSAGES = ('passage', *(f'passage_{part}' for part in range(1, 8)))
_SIDES = ('query', *PASSAGES, 'extra')


def passage_sides(batch: DeviceBatch) -> tuple[str, ...]:
  """The sides that are passages, in the order in which a loss sees them."""
  return tuple(side for side in _SIDES[1:] if f'{side}_ids' in batch)


def side_number(side: str) -> int:
  """Tells the sides apart, whichever of them there are."""
  return _SIDES.index(side)


def side_of(batch: DeviceBatch, side: str) -> DeviceBatch:
  """The texts of one side: 'ids' `[b, width]` and 'lengths' `[b]`."""
  return {name: batch[f'{side}_{name}'] for name in ('ids', 'lengths')}


def first_row(ids: jax.Array) -> jax.Array:
  """The number of this device's first row of a side within the whole batch."""
  return jax.lax.axis_index(devices.AXIS) * ids.shape[0]


def masked(accepted: jax.Array, passage_key: jax.Array) -> jax.Array:
  """Which passages are no negatives of a query.

  Args:
    accepted: `[b, any]` int32, keys that are no negatives of each query.
    passage_key: `[P]` int32, of the passages of the whole batch.

  Returns:
    `[b, P]` bool.
  """
  return (accepted[:, :, None] == passage_key[None, None, :]).any(axis=1)
