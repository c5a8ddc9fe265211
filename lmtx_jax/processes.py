"""The processes of one run: who they are, and what they tell each other.

One process leads (number 0): it alone writes into the run directory, which all
see. Every process makes the same calls in the same order. Small values travel
by the key-value store of JAX's coordination service, where a process may wait
as long as another works; arrays by collectives of the devices.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Sequence
import glob
import importlib.util
import itertools
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn, TypeVar

from absl import logging
import jax
from jax._src import distributed  # its client has no public name
from jax.experimental import multihost_utils
import numpy as np

from lmtx_jax.interrupts import deferred, raise_when_preempted
from lmtx_jax.rendezvous import cluster, meet
from lmtx_jax.types import UserError

T = TypeVar('T')

_FAILED = 'lmtx_jax/failed'
_FIRST_PAUSE_S, _POLL_S, _GRACE_S = 0.01, 1.0, 10.0
_is_leaving = threading.Event()
_told: list[dict[str, Any]] = []  # of a failure elsewhere
_names = itertools.count()  # of what is told, the same on all processes


def join(
  coordinator_address: str,
  num_processes: int,
  process_id: int,
  timeout_s: int,
) -> None:
  """Joins the other processes; call it before anything uses a device.

  Without an address, JAX finds the others on a TPU pod and in a job step of
  Slurm, and a process is alone anywhere else.

  Args:
    coordinator_address: host:port of process 0; empty: see above.
    num_processes: how many there are.
    process_id: which of them this one is, from 0.
    timeout_s: how long to wait for the others, in seconds.

  Raises:
    UserError: a process did not come in time, or they do not fit.
  """
  if distributed.global_state.client is not None:
    return
  if coordinator_address:
    meet(coordinator_address, num_processes, process_id, timeout_s)
    if num_processes == 1:
      return
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      initialization_timeout=timeout_s,
    )
  elif not _join_cluster(timeout_s):
    return
  logging.info('process %d of %d', index(), count())
  # JAX's own watch for a preemption would take the signal away.
  raise_when_preempted()
  _watcher.start()
  sys.excepthook = _crash


def _join_cluster(timeout_s: int) -> bool:
  """Joins where the surroundings tell who the others are."""
  environ, ids = os.environ, None
  if 'SLURM_STEP_NODELIST' in environ:  # not so in an interactive allocation
    # JAX takes one GPU a task, also where a task is alone on its node.
    alone = environ.get('SLURM_STEP_NUM_NODES') == environ.get('SLURM_NTASKS')
    gpus = int(environ.get('SLURM_GPUS_ON_NODE', '0'))
    ids = list(range(gpus)) if alone and gpus else None
  elif not _has_tpu():
    return False
  try:
    address, num_processes, process_id, ids = cluster(ids, timeout_s)
    if address:
      meet(address, num_processes, process_id, timeout_s, flag='')
    jax.distributed.initialize(
      address,
      num_processes,
      process_id,
      local_device_ids=ids,
      initialization_timeout=timeout_s,
    )
  except ValueError as e:  # a TPU, but none of a pod
    if 'SLURM_STEP_NODELIST' in environ:
      raise
    logging.info('no other TPU hosts: %s', e)
    return False
  return True


def _has_tpu() -> bool:
  devices = glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
  return bool(devices and importlib.util.find_spec('libtpu'))


def index() -> int:
  """Number of this process."""
  return distributed.global_state.process_id or 0


def count() -> int:
  """Number of all processes."""
  return distributed.global_state.num_processes or 1


def is_lead() -> bool:
  """Whether this process writes what is written once."""
  return index() == 0


def lead(make: Callable[[], Any]) -> Any:
  """What the leading process makes (of JSON's types), told to all.

  The others wait, however long it takes. If it raises, the run ends.
  """
  if count() == 1:
    return make()
  key = f'lmtx_jax/lead/{next(_names)}'
  client = distributed.global_state.client
  if is_lead():
    value = make()
    client.key_value_set(key, json.dumps(value))
    return value
  return json.loads(_await(key, lambda said: True))


def lead_first(make: Callable[[], T]) -> T:
  """Made on the leading process, then on all: what it leaves is found there."""
  value = make() if is_lead() else None
  wait_for_all()
  return value if is_lead() else make()


def wait_for_all() -> None:
  """Returns when every process has come here, however long that takes."""
  if count() > 1:
    key = f'lmtx_jax/wait/{next(_names)}'
    distributed.global_state.client.key_value_increment(key, 1)
    _await(key, lambda said: int(said) == count())


def _await(key: str, is_enough: Callable[[str], bool]) -> str:
  """Looks for a value until it is there; Ctrl-C is heard in between."""
  client, pause_s = distributed.global_state.client, _FIRST_PAUSE_S
  while True:
    said = _try_get(client, key)
    if said is not None and is_enough(said):
      return said
    time.sleep(pause_s)
    pause_s = min(2 * pause_s, _POLL_S)


def _try_get(client: Any, key: str) -> str | None:
  try:
    return client.key_value_try_get(key)
  except jax.errors.JaxRuntimeError as e:
    if 'NOT_FOUND' not in str(e):
      raise
    return None


def check_same(name: str, value: dict[str, str]) -> None:
  """Compares what must be the same everywhere, key by key.

  Args:
    name: what it is, as a message names it.
    value: of this process.

  Raises:
    UserError: on a process that differs from the leading one, naming the key.
  """
  wanted = lead(lambda: value)
  differ = [
    f'{key}={value.get(key, "absent")} (process 0: {wanted.get(key, "absent")})'
    for key in sorted(wanted.keys() | value.keys())
    if wanted.get(key) != value.get(key)
  ]
  if differ:
    raise UserError(
      f'process {index()} has another {name}: {", ".join(differ)}'
    )
  wait_for_all()  # nobody goes on who is alone in the right


def share(num_rows: int) -> slice:
  """The rows that this process works on, all processes about as many."""
  each = -(-num_rows // count())
  return slice(
    min(index() * each, num_rows), min((index() + 1) * each, num_rows)
  )


def gather(part: np.ndarray, num_rows: int) -> np.ndarray:
  """`[num_rows, ...]`, put together of every process's `share` of it."""
  if count() == 1:
    return part
  each = -(-num_rows // count())
  padded = np.zeros((each, *part.shape[1:]), part.dtype)
  padded[: len(part)] = part
  wait_for_all()  # a collective would not wait for long
  parts = multihost_utils.process_allgather(padded)
  return parts.reshape(-1, *part.shape[1:])[:num_rows]


def broadcast(array: np.ndarray) -> np.ndarray:
  """The leading process's array; the others give one of its shape and dtype."""
  if count() == 1:
    return array
  wait_for_all()
  if array.dtype == bool:
    return broadcast(array.view(np.uint8)).view(bool)
  return np.asarray(multihost_utils.broadcast_one_to_all(array))


def lead_arrays(make: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
  """Arrays that the leading process makes, told to all.

  Args:
    make: gives numeric arrays of any shapes; called on the leading process
      only, for which the others wait.

  Returns:
    The same arrays everywhere.
  """
  made = list(make()) if is_lead() else []
  kinds = lead(lambda: [(list(array.shape), array.dtype.str) for array in made])
  if count() == 1:
    return made
  told = []
  for i, (shape, dtype) in enumerate(kinds):
    # As bytes: JAX has no 64 bits here.
    mine = (
      made[i].tobytes()
      if made
      else bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    )
    data = broadcast(np.frombuffer(mine, np.uint8))
    told.append(np.frombuffer(data.tobytes(), dtype).reshape(shape).copy())
  return told


def leave() -> None:
  """Ends when all others end as well; call it where all has been done."""
  if distributed.global_state.client is not None:  # also of one in a cluster
    wait_for_all()
    _is_leaving.set()
    _watcher.join()  # the service that it asks is about to end
    jax.distributed.shutdown()


def abandon(message: str, code: int) -> None:
  """Ends every process of the run, this one at once and without a farewell.

  Nothing happens if this process is alone.

  Args:
    message: what went wrong, printed by this process, unless it is the end of
      one that another told of, and by all others.
    code: exit code of all.
  """
  client = distributed.global_state.client
  if client is None:
    return
  _is_leaving.set()
  with deferred():  # what the watcher just heard, or Ctrl-C once more
    if _told:
      _exit(_told[0]['code'])
    _print(message, code)
    if client.key_value_increment(f'{_FAILED}/number', 1) == 1:
      mine = f'process {index()}'
      if not message.startswith(f'{mine} '):
        message = f'{mine}: {message}'
      said = {'process': index(), 'message': message, 'code': code}
      client.key_value_set(_FAILED, json.dumps(said))
    if is_lead():
      time.sleep(3 * _POLL_S)  # it is the one whom the others ask
    _exit(code)


def _crash(kind, error, trace) -> None:
  """A bug in one process ends all."""
  sys.__excepthook__(kind, error, trace)
  abandon(f'crashed ({kind.__name__}), see its log', 1)


def _watch() -> None:
  """Ends this process soon after another has failed."""
  client = distributed.global_state.client
  while not _is_leaving.wait(_POLL_S):
    said = _try_get(client, _FAILED)
    if said is None:
      continue
    said = json.loads(said)
    if said['process'] == index():
      return
    if _is_leaving.is_set():
      return
    _told.append(said)
    _print(said['message'], said['code'])
    _thread.interrupt_main()  # so that what is under way is put away,
    time.sleep(_GRACE_S)  # unless it waits for one who does not come
    _exit(said['code'])


_watcher = threading.Thread(target=_watch, daemon=True)


def _print(message: str, code: int) -> None:
  sys.stderr.write(f'{"error: " if code else ""}{message}\n')


def _exit(code: int) -> NoReturn:
  """JAX would wait for the others, and end with a stack trace."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
