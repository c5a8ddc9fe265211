"""Processes find each other, or are told who is missing."""

from concurrent.futures import ThreadPoolExecutor
import socket
import time

import pytest

from lmtx_jax.config import ProcessConfig
from lmtx_jax.rendezvous import meet
from lmtx_jax.types import UserError


def free_port() -> int:
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def meet_all(*calls, timeout_s=20):
  """What each of (num_processes, process_id) is told; '' if all is well."""
  address = f'127.0.0.1:{free_port()}'

  def one(call):
    try:
      meet(address, *call, timeout_s)
    except UserError as e:
      return str(e)
    return ''

  with ThreadPoolExecutor(len(calls)) as pool:
    return list(pool.map(one, calls))


def test_in_any_order():
  assert meet_all((4, 2), (4, 3), (4, 0), (4, 1)) == [''] * 4


def test_one_is_missing():
  found = meet_all((3, 2), (3, 0), timeout_s=1)
  assert set(found) == {
    'of 3 processes, 1 did not join within 1 s; see their logs, and'
    ' --join_timeout_s'
  }


def test_the_leading_one_is_missing():
  (found,) = meet_all((2, 1), timeout_s=1)
  assert found.startswith('process 0 was not found at --coordinator_address=')


def test_two_of_one_number():
  found = meet_all((3, 0), (3, 1), (3, 1), timeout_s=5)
  assert 'two processes have --process_id=1' in found


def test_they_count_differently():
  found = meet_all((2, 0), (3, 1))
  assert set(found) == {
    'process 1 was started with --num_processes=3, process 0 with 2'
  }


def test_a_stranger_knocks():
  port = free_port()
  address = f'127.0.0.1:{port}'
  with ThreadPoolExecutor(2) as pool:
    lead = pool.submit(meet, address, 2, 0, 20)
    for _ in range(100):
      try:
        with socket.create_connection(('127.0.0.1', port)) as stranger:
          stranger.sendall(b'GET / HTTP/1.0\r\n\r\n')
        break
      except OSError:
        time.sleep(0.05)
    follower = pool.submit(meet, address, 2, 1, 20)
    assert lead.result() is follower.result() is None


@pytest.mark.parametrize(
  ('address', 'number', 'told'),
  [
    ('here', 0, '--coordinator_address=here is not HOST:PORT'),
    ('here:x', 0, '--coordinator_address=here:x is not HOST:PORT'),
    ('h:1', 2, '--process_id=2 is not one of --num_processes=2'),
  ],
)
def test_what_makes_no_sense(address, number, told):
  with pytest.raises(UserError, match=told):
    meet(address, 2, number, 1)


def test_several_without_an_address():
  with pytest.raises(UserError, match='--num_processes=2 needs --coordinator'):
    ProcessConfig(num_processes=2)


def test_the_port_is_in_use():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    told = f'port {port} cannot be listened at'
    with pytest.raises(UserError, match=f'{told}.*--coordinator_address'):
      meet(f'127.0.0.1:{port}', 2, 0, 1)
    with pytest.raises(UserError, match=f'{told}.*JAX_COORDINATOR_PORT'):
      meet(f'127.0.0.1:{port}', 2, 0, 1, flag='')
