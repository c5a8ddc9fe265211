"""Runs a server, and ends it with all its processes when its owner is gone.

python guardian.py GRACE_S COMMAND...

The owner holds the other end of this process's standard input. When that
closes, for whatever reason, or on SIGTERM, the process group of the command is
ended: SIGTERM first, SIGKILL after GRACE_S seconds. What the command leaves
behind when it ends by itself is ended as well. The exit code is the command's.

It is run by its path: nothing but the standard library, so it starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_POLL_S = 0.2
_KILL_S = 10.0  # until a killed process must be gone, unless it hangs in I/O
_SET_CHILD_SUBREAPER = 36  # of prctl(2)


class _Group:
  """The process group of the command, and how its first process ended."""

  def __init__(self, command: Sequence[str]):
    if sys.platform == 'linux':
      # Orphans of the group become children of this process, which can so
      # take note of their end; in a container nobody else might.
      ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(
      command, stdin=subprocess.DEVNULL, start_new_session=True
    )
    self._leader = process.pid
    self.exit_code: int | None = None
    # `_reap` takes the exit status, which Popen then never sees.
    process.returncode = 0

  def is_running(self) -> bool:
    """Whether the command itself has not ended."""
    self._reap()
    return self.exit_code is None

  def end(self, grace_s: float) -> None:
    """Ends all processes of the group, kindly and then not."""
    for sign, seconds in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_S)):
      self._signal(sign)
      deadline = time.monotonic() + seconds
      while self._exists() and time.monotonic() < deadline:
        time.sleep(_POLL_S)
      if not self._exists():
        return

  def _exists(self) -> bool:
    self._reap()
    return self._signal(0)

  def _signal(self, sign: int) -> bool:
    try:
      os.killpg(self._leader, sign)
    except ProcessLookupError:
      return False
    except PermissionError:  # macOS, where only zombies are left
      return False
    return True

  def _reap(self) -> None:
    with contextlib.suppress(ChildProcessError):
      while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
          return
        if pid == self._leader:
          self.exit_code = os.waitstatus_to_exitcode(status)


def main(grace_s: float, command: Sequence[str]) -> int:
  """Runs a command until it ends or has to.

  Args:
    grace_s: seconds between SIGTERM and SIGKILL.
    command: program and arguments.

  Returns:
    Its exit code, or as in a shell 128 more than the signal that ended it.
  """
  asked_to_end = False

  def ask(*_) -> None:
    nonlocal asked_to_end
    asked_to_end = True

  signal.signal(signal.SIGTERM, ask)
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # the command inherits it
  try:
    group = _Group(command)
  except OSError as e:
    sys.stderr.write(f'error: cannot start {command[0]}: {e.strerror}\n')
    return 127
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  owner = os.getppid()
  while group.is_running() and not asked_to_end:
    readable, _, _ = select.select([sys.stdin], [], [], _POLL_S)
    # A child that the owner has forked can hold the pipe open.
    if readable or os.getppid() != owner:
      break
  group.end(grace_s)
  code = group.exit_code or 0
  return code if code >= 0 else 128 - code


if __name__ == '__main__':
  sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
