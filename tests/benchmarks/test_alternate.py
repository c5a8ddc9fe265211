import time

import pytest

from lmtx_jax.types import UserError
from tests.benchmarks.alternate import alternate, medians


def make_sleep(seconds: float):
  return lambda: time.sleep(seconds)


def make_nothing():
  raise RuntimeError('no such model')


def test_each_peer_is_timed_in_each_round():
  found = alternate(
    {'short': (make_sleep, (0.0,)), 'long': (make_sleep, (0.2,))}, rounds=2
  )
  assert {name: len(times) for name, times in found.items()} == {
    'short': 2,
    'long': 2,
  }
  assert medians(found)['long'] >= 0.2


def test_a_peer_that_fails_is_named():
  with pytest.raises(UserError, match='second failed'):
    alternate(
      {'first': (make_sleep, (0.0,)), 'second': (make_nothing, ())}, rounds=1
    )
