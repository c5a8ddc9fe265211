"""The only file that knows pmap's layout: a leading axis of local devices."""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import os
import sys
from typing import Any

import jax
import numpy as np

AXIS = 'device'


def setup(cache_dir: str) -> None:
  """Sets the process up for JAX; call it before anything uses a device.

  Args:
    cache_dir: folder where compiled programs are kept between runs.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  _keep_freed_memory()
  path = os.path.join(os.path.expanduser(cache_dir), 'xla')
  jax.config.update('jax_compilation_cache_dir', path)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def _keep_freed_memory() -> None:
  """Lets glibc keep the big buffers that XLA frees and asks for again.

  Given back to the kernel, they cost a page fault for every 4 KiB of every
  call: about half of the time of a step on a CPU.
  """
  if not sys.platform.startswith('linux'):
    return
  libc = ctypes.CDLL(None)
  if hasattr(libc, 'mallopt'):  # glibc
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)
    libc.mallopt(arena_max, 1)


def count() -> int:
  """Number of local devices."""
  return jax.local_device_count()


_p_identity = jax.pmap(lambda x: x)  # one object, so that it compiles once


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
