"""The only file that knows pmap's layout: a leading axis of local devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import os
from typing import Any

import jax
import numpy as np

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


def count() -> int:
  """Number of local devices."""
  return jax.local_device_count()


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
  """`[devices * n, ...]` arrays to `[devices, n, ...]`, in order."""
  return jax.tree.map(
    lambda x: x.reshape((count(), x.shape[0] // count(), *x.shape[1:])), tree
  )


def gather(x: jax.Array) -> np.ndarray:
  """`[devices, n, ...]` on the devices to `[devices * n, ...]` on the host."""
  x = np.asarray(x)
  return x.reshape((-1, *x.shape[2:]))


def p_map(function: Callable, **kwargs) -> Callable:
  """`jax.pmap` over the axis that collectives name."""
  return jax.pmap(function, axis_name=AXIS, **kwargs)


# With the axis of every other function: an array laid out along another axis
# makes them compile again. One object, so that it compiles once itself.
_p_identity = p_map(lambda x: x)
