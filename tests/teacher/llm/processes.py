"""Looks at processes, through /proc."""

import contextlib
import os
import pathlib
import signal
import time


def children(pid):
  """Process ids of the children of all threads of a process."""
  found = []
  for tasks in pathlib.Path('/proc', str(pid), 'task').glob('*/children'):
    with contextlib.suppress(OSError):  # the thread ended meanwhile
      found += map(int, tasks.read_text().split())
  return found


def group(leader):
  """Process ids of a group, those that have ended but were not noted too."""
  found = []
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      # pid (name) state ppid pgrp session: the name may hold anything.
      _, ppid_pgrp_session = stat.read_text().rsplit(')', 1)
    except OSError:  # it ended meanwhile
      continue
    pgrp, session = map(int, ppid_pgrp_session.split()[2:4])
    if leader in (pgrp, session):
      found.append(int(stat.parent.name))
  return found


def gone(leader, timeout_s=30.0):
  """Whether a group has ended, after some waiting."""
  return wait_until(lambda: not group(leader), timeout_s)


def wait_until(condition, timeout_s=30.0):
  """Whether a condition came true in time."""
  deadline = time.monotonic() + timeout_s
  while not condition():
    if time.monotonic() > deadline:
      return False
    time.sleep(0.05)
  return True


def end_group(leader):
  """Cleans up after a test, failed or not."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(leader, signal.SIGKILL)
