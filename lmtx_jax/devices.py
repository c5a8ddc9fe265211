"""The only file that knows pmap's layout: a leading axis of local devices.

With several processes, collectives span the devices of all; every process
makes the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import os
from typing import Any

import jax
import numpy as np

from lmtx_jax.types import UserError

AXIS = 'device'
# Two names of one setting; JAX takes either, but not both.
_SAME = {'XLA_CLIENT_MEM_FRACTION': 'XLA_PYTHON_CLIENT_MEM_FRACTION'}


def setup(cache_dir: str, environ: Mapping[str, str] = {}) -> None:
  """Sets the process up for JAX; call it before anything uses a device.

  Args:
    cache_dir: folder where compiled programs are kept between runs.
    environ: environment variables that JAX reads when it first uses a device;
      where the user has set one, that one stays.
  """
  for name, value in environ.items():
    if _SAME.get(name, name) not in os.environ:
      os.environ.setdefault(name, value)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  path = os.path.join(os.path.expanduser(cache_dir), 'xla')
  jax.config.update('jax_compilation_cache_dir', path)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
  """Turns a device that runs out of memory into one line.

  Args:
    advice: which flag to turn, such as 'lower --batch_size'.

  Raises:
    UserError: what is done within needs more memory than there is.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e) and 'Out of memory' not in str(e):
      raise
    kind = jax.local_devices()[0].device_kind
    reason = ' '.join(str(e).split())[:120]
    raise UserError(f'out of memory on {kind}: {advice} ({reason})') from e
  except MemoryError as e:
    raise UserError(f'out of memory: {advice}') from e


def count() -> int:
  """Number of local devices."""
  return jax.local_device_count()


def total() -> int:
  """Number of devices of all processes."""
  return jax.device_count()


def replicate(tree: Any) -> Any:
  """`[...]` arrays on the host to `[devices, ...]`, one copy a device."""
  copies = jax.tree.map(
    lambda x: np.broadcast_to(x, (count(), *np.shape(x))), tree
  )
  return _p_identity(copies)


def unreplicate(tree: Any) -> Any:
  """The first device's copy of a replicated tree, as numpy arrays."""
  return jax.tree.map(
    lambda x: np.asarray(x.addressable_shards[0].data)[0], tree
  )


def shard(tree: Any) -> Any:
  """`[total * n, ...]` arrays to the `[devices, n, ...]` of this process."""

  def split(x: np.ndarray) -> np.ndarray:
    x = x.reshape((total(), x.shape[0] // total(), *x.shape[1:]))
    return x if total() == count() else x[_places()]

  return jax.tree.map(split, tree)


@functools.cache
def _places() -> np.ndarray:
  """`[devices]`, where the local devices stand on the axis of all."""
  place = p_map(lambda x: x + jax.lax.axis_index(AXIS))
  return np.asarray(place(np.zeros(count(), np.int32)))


def p_gathered(function: Callable) -> Callable:
  """`p_map` of a function whose rows are wanted by the host, see `gather`."""
  if total() == count():
    return p_map(function)
  # Every process gets all rows; one copy of them is read.
  return p_map(
    lambda *args: jax.lax.all_gather(function(*args), AXIS, tiled=True)
  )


def gather(x: jax.Array) -> np.ndarray:
  """What `p_gathered` gave: `[total * n, ...]` on the host of each process."""
  if total() > count():
    return unreplicate(x)
  x = np.asarray(x)
  return x.reshape((-1, *x.shape[2:]))


def p_map(function: Callable, **kwargs) -> Callable:
  """`jax.pmap` over the axis that collectives name."""
  return jax.pmap(function, axis_name=AXIS, **kwargs)


# With the axis of every other function: an array laid out along another axis
# makes them compile again. One object, so that it compiles once itself.
_p_identity = p_map(lambda x: x)
