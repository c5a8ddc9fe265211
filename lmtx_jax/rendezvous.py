"""The processes of a run find each other, or learn who is missing.

JAX's own start ends with a stack trace where a process does not come; here the
one that is missing is named. Afterwards the port is JAX's.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
import socket
import time

from absl import logging

from lmtx_jax.types import UserError

_RETRY_S = 0.2


def meet(
  address: str,
  num_processes: int,
  process_id: int,
  timeout_s: int,
  flag: str = '--coordinator_address=',
) -> None:
  """Returns when all processes have come.

  Args:
    address: host:port at which process 0 listens.
    num_processes: how many are to come.
    process_id: which of them this is.
    timeout_s: how long to wait, in seconds.
    flag: what messages put before the address; empty where no flag gave it.

  Raises:
    UserError: the address is none, a process did not come in time, or two
      processes do not fit.
  """
  host, _, port = address.rpartition(':')
  if not host or not port.isdigit():
    raise UserError(f'{flag}{address} is not HOST:PORT')
  if not 0 <= process_id < num_processes:
    raise UserError(
      f'--process_id={process_id} is not one of --num_processes='
      f'{num_processes}: they count from 0'
    )
  deadline = time.monotonic() + timeout_s
  if num_processes == 1:
    return
  if process_id == 0:
    _lead(int(port), num_processes, timeout_s, deadline, flag)
  else:
    place = f'{flag}{address}'
    _follow(place, num_processes, process_id, timeout_s, deadline)


def cluster(
  ids: list[int] | None, timeout_s: int
) -> tuple[str | None, int | None, int | None, list[int] | None]:
  """What JAX would find out by itself, to meet before it starts.

  It has no public name: where a version of JAX has it no more, nothing is
  found here, and JAX starts without a meeting.

  Args:
    ids: of the local devices to use; None: as JAX chooses.
    timeout_s: how long the name of process 0's host may be unknown.

  Returns:
    host:port of process 0, number of processes, this one's, and device ids.
  """
  try:
    from jax._src import clusters

    find = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address = os.environ.get('JAX_COORDINATOR_ADDRESS')
    return find(address, None, None, ids, None, timeout_s)
  except (ImportError, AttributeError, TypeError) as e:
    logging.info('JAX finds the other processes alone: %s', e)
    return None, None, None, ids
  except RuntimeError as e:  # of a TPU pod: nobody knows the host
    raise UserError(
      f'process 0 was not found within {timeout_s} s: {e}; see --join_timeout_s'
    ) from e


def _lead(
  port: int, num_processes: int, timeout_s: int, deadline: float, flag: str
) -> None:
  """Waits for everybody, then tells them to go on, or what is wrong."""
  with contextlib.ExitStack() as stack:
    try:
      server = stack.enter_context(socket.create_server(('', port)))
    except OSError as e:
      hint = flag.rstrip('=') or 'JAX_COORDINATOR_PORT sets another'
      raise UserError(
        f'port {port} cannot be listened at: {e.strerror} ({hint})'
      ) from e
    streams = {}
    error = ''
    for stream in _visitors(server, deadline, stack):
      said = _read(stream)
      if not (who := said.get('process_id')):
        continue  # somebody else's knock
      if said.get('num_processes') != num_processes:
        error = (
          f'process {who} was started with --num_processes='
          f'{said.get("num_processes")}, process 0 with {num_processes}'
        )
      elif who in streams:
        error = f'two processes have --process_id={who}'
      streams[who if who not in streams else f'{who} again'] = stream
      if error or len(streams) == num_processes - 1:
        break
    else:
      missing = sorted(set(range(1, num_processes)) - set(streams))
      names = ', '.join(map(str, missing))
      error = (
        f'of {num_processes} processes, {names} did not join within'
        f' {timeout_s} s; see their logs, and --join_timeout_s'
      )
    for stream in streams.values():
      _write(stream, {'error': error})
    if error:
      raise UserError(error)


def _visitors(
  server: socket.socket, deadline: float, stack: contextlib.ExitStack
) -> Iterator:
  """Connections as they come, until the deadline."""
  while (left := deadline - time.monotonic()) > 0:
    server.settimeout(left)
    try:
      connection, _ = server.accept()
    except TimeoutError:
      return
    stack.enter_context(connection)
    connection.settimeout(5)
    yield stack.enter_context(connection.makefile('rw'))


def _follow(
  place: str,
  num_processes: int,
  process_id: int,
  timeout_s: int,
  deadline: float,
) -> None:
  """Tells process 0 that this one is there, and waits for its word."""
  host, _, port = place.rpartition('=')[2].rpartition(':')
  mine = {'process_id': process_id, 'num_processes': num_processes}
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((host, port), _RETRY_S * 10) as connection:
        connection.settimeout(max(1, deadline - time.monotonic() + 5))
        with connection.makefile('rw') as stream:
          _write(stream, mine)
          said = _read(stream)
    except (OSError, TimeoutError):
      time.sleep(_RETRY_S)  # not there yet, or its name is not known yet
      continue
    if said.get('error'):
      raise UserError(said['error'])
    if 'error' in said:
      return
    time.sleep(_RETRY_S)  # it went away in mid-sentence
  raise UserError(
    f'process 0 was not found at {place} within {timeout_s} s; see its log, and'
    ' --join_timeout_s'
  )


def _read(stream) -> dict:
  try:
    said = json.loads(stream.readline() or '{}')
  except (OSError, ValueError):
    return {}
  return said if isinstance(said, dict) else {}


def _write(stream, value: dict) -> None:
  with contextlib.suppress(OSError):
    stream.write(json.dumps(value) + '\n')
    stream.flush()
