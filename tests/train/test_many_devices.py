"""Gradient caching and checkpoints on other numbers of devices."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from run_fixtures import on_devices
import training_run

SCRIPT = pathlib.Path(training_run.__file__)
ROOT = SCRIPT.parent.parent.parent


def run(count, task, folder):
  """Runs the script on so many devices."""
  subprocess.run(
    [sys.executable, str(SCRIPT), str(count), task, str(folder)],
    env=on_devices(count) | {'PYTHONPATH': str(ROOT)},
    check=True,
    timeout=300,
  )


@pytest.fixture(scope='module')
def started(tmp_path_factory):
  """What eight devices leave when they are killed."""
  folder = tmp_path_factory.mktemp('started')
  run(8, 'start', folder)
  return folder


def test_gradient_in_chunks_on_eight_devices(started):
  plain, cached = np.load(started / 'gradients_8.npy')
  error = np.linalg.norm(cached - plain) / np.linalg.norm(plain)
  assert error < 1e-5
  one, _ = training_run.gradients()
  assert np.linalg.norm(plain - one) / np.linalg.norm(one) < 1e-5


def test_a_checkpoint_of_eight_devices_goes_on_on_one_and_on_four(
  started, tmp_path
):
  for count in ('one', 'four'):
    shutil.copytree(started, tmp_path / count)
  one = training_run.train(tmp_path / 'one')
  run(4, 'resume', tmp_path / 'four')
  four = np.load(tmp_path / 'four' / 'params_4.npy')
  (tmp_path / 'whole').mkdir()
  whole = training_run.train(tmp_path / 'whole')
  np.testing.assert_allclose(four, one, rtol=0, atol=1e-4)
  np.testing.assert_allclose(whole, one, rtol=0, atol=1e-4)
  # It went on from the checkpoint: without it, other parameters come out.
  rows = (tmp_path / 'one' / 'metrics.jsonl').read_text().splitlines()
  assert len(rows) == 1 and '"step": 0' in rows[0]
