"""How many rows a step takes, and how many of them at a time."""

from __future__ import annotations

import math

import jax

from lmtx_jax import devices
from lmtx_jax.config import Config
from lmtx_jax.data.batches import default_batch_tokens
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.types import UserError


def check_batch_sizes(config: Config) -> None:
  """Raises a UserError where a batch cannot be split over the devices."""
  num = devices.total()
  sizes = {'batch_size': config.train.batch_size}
  if config.warmup.warmup_epochs:
    sizes['warmup_batch_size'] = config.warmup.warmup_batch_size
  if config.run.method == 'maclr':
    sizes['regulariser_labels'] = config.method.regulariser_labels
  for name, size in sizes.items():
    if size % num:
      raise UserError(
        f'--{name}={size} cannot be split over {num} devices; choose'
        f' {size // num * num or num} or {(size // num + 1) * num}'
      )


def small_batch(num_pairs: int) -> int:
  """The batch of fewer pairs than asked for; on 1 to 8 devices the same one."""
  total = devices.total()
  unit = math.lcm(8, total)
  if num_pairs < unit:
    unit = total
  return max(1, num_pairs // unit) * unit


def cycle_chunk(config: Config) -> Chunk:
  """What a device keeps activations of at a time in a cycle.

  On a CPU few, so that they stay in its caches. Not so in the warm-up, where
  both sides are long, of which one is embedded twice.
  """
  if config.train.grad_cache_chunk or jax.default_backend() != 'cpu':
    return Chunk(config.train.grad_cache_chunk)
  return Chunk(tokens=default_batch_tokens())
