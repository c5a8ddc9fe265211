"""One device and eight do the same."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from run_fixtures import on_devices

from lmtx_jax import devices
from lmtx_jax.types import UserError

SCRIPT = pathlib.Path(__file__).with_name('devices_run.py')
ROOT = SCRIPT.parent.parent


@pytest.fixture(
  scope='module',
  params=[False, pytest.param(True, marks=pytest.mark.slow)],
  ids=['as_tests_are_compiled', 'as_for_a_user'],
)
def results(tmp_path_factory, request):
  """What one and eight devices compute, by their number."""
  folder = tmp_path_factory.mktemp('devices')
  running = {}
  for count in (1, 8):
    running[count] = subprocess.Popen(
      [sys.executable, str(SCRIPT), str(count), str(folder / f'{count}.npz')],
      env=on_devices(count, request.param) | {'PYTHONPATH': str(ROOT)},
      stderr=subprocess.PIPE,
      text=True,
    )
  found = {}
  for count, process in running.items():
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found[count] = dict(np.load(folder / f'{count}.npz'))
  return found


def test_the_same_losses_and_parameters_after_20_steps(results):
  one, eight = results[1]['loss'], results[8]['loss']
  assert len(one) == 20
  assert one[-1] < one[0]
  np.testing.assert_allclose(eight, one, rtol=1e-6)
  one, eight = results[1]['params'], results[8]['params']
  np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5)


def test_the_same_embeddings_in_the_same_order(results):
  one, eight = (results[count]['embeddings'] for count in (1, 8))
  assert one.shape == (101, 32)
  np.testing.assert_allclose(eight, one, rtol=0, atol=1e-6)


def test_setup_leaves_the_users_own_memory_settings(monkeypatch, tmp_path):
  names = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')
  environ = {names[0]: '0.35', 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  own = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'true'}
  for given, expected in (
    ({}, environ),
    (own, {**environ, **own}),
    ({names[0]: '0.2', **own}, {names[0]: '0.2', **own}),
    # JAX fails where both names are set.
    ({names[1]: '0.2', **own}, {names[1]: '0.2', **own}),
  ):
    monkeypatch.setattr(os, 'environ', dict(given))
    devices.setup(str(tmp_path), environ)
    found = {k: v for k, v in os.environ.items() if k.startswith('XLA')}
    assert found == expected


def test_a_device_without_memory_is_one_line():
  with (
    pytest.raises(UserError, match='out of memory on cpu: lower --x') as e,
    devices.memory_advice('lower --x'),
  ):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of\nmemory, 9G')
  assert '\n' not in str(e.value)
  with (
    pytest.raises(UserError, match='out of memory: lower --x'),
    devices.memory_advice('lower --x'),
  ):
    raise MemoryError
  with (
    pytest.raises(jax.errors.JaxRuntimeError),
    devices.memory_advice('lower --x'),
  ):
    raise jax.errors.JaxRuntimeError('INTERNAL: something else')
