"""A whole run with a real server that it starts itself."""

import json
import os
import shlex
import signal
import sqlite3

from live_fixtures import CPU_FLAGS, launcher, model_path, requires_sglang
from processes import children, gone, group
import pytest
from run_fixtures import spawn, wait_for

pytestmark = requires_sglang


@pytest.fixture
def flags(tiny, tmp_path):
  launch = shlex.join([model_path(), *CPU_FLAGS])
  return (
    *tiny,
    '--teacher=sglang',
    f'--teacher_launch={launch}',
    f'--teacher_launcher={launcher()}',
    '--teacher_batch_size=1',  # slowly, to be in time to disturb it
    '--teacher_in_flight=1',
    f'--run_dir={tmp_path / "run"}',
  )


def verdicts(run):
  path = run / 'verdicts.sqlite'
  try:
    with sqlite3.connect(f'file:{path}?mode=ro', uri=True) as db:
      return db.execute('SELECT num_asked FROM verdicts').fetchall()
  except sqlite3.OperationalError:
    return []


def leader_of(driver):
  (guardian,) = children(driver.pid)
  (leader,) = children(guardian)
  return leader


def test_server_killed_then_interrupted_then_finished(flags, tmp_path):
  run = tmp_path / 'run'
  driver = spawn('main', *flags)
  try:
    wait_for(driver, lambda: len(verdicts(run)) > 50, 900)
    first = leader_of(driver)
    assert len(group(first)) >= 3
    os.killpg(first, signal.SIGKILL)
    before = len(verdicts(run))
    # It is started again and asked the rest.
    wait_for(driver, lambda: len(verdicts(run)) > before + 50, 900)
    second = leader_of(driver)
    assert first != second and not group(first)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert 'Traceback' not in err and 'started again' in err
    assert gone(second)
  finally:
    driver.kill()
  stored = len(verdicts(run))
  driver = spawn('main', *flags)
  try:
    out, err = driver.communicate(timeout=1800)
  finally:
    driver.kill()
  assert driver.returncode == 0, err
  assert 'bundle' in out
  assert len(verdicts(run)) > stored
  assert set(verdicts(run)) == {(1,)}
  cycle = json.loads((run / 'summary.json').read_text())['cycles'][0]
  assert cycle['prompt_tokens'] > 0 and cycle['asked'] > stored
