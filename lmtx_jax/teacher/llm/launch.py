"""An SGLang server that belongs to the run."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time

from absl import logging

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm import guardian
from lmtx_jax.teacher.llm.memory_saver import MemorySaver, call
from lmtx_jax.teacher.llm.server_command import ServerCommand
from lmtx_jax.types import UserError

_POLL_S = 0.5
_SAY_S = 30.0  # between two lines about a server that is still starting
_LOG_TAIL_BYTES = 1 << 16
_TELLING = re.compile(r'\w(Error|Exception)\b: \S|\berror: \S')


class LaunchedServer:
  """The server of `--teacher_launch`, from start to end.

  A guardian process holds it: whatever becomes of this process, no process of
  the server stays behind.

  Attributes:
    url: its address, also before it is there.
    memory: gives its memory back and takes it again; None if it cannot.
  """

  def __init__(self, config: LlmConfig, log_path: str, grace_s: float = 15.0):
    """Takes the flags.

    Args:
      config: with `--teacher_launch`.
      log_path: file for all that the server writes.
      grace_s: seconds that the server has to end by itself.

    Raises:
      UserError: see `ServerCommand.from_config`.
    """
    self._command = ServerCommand.from_config(config)
    self.url = f'http://{self._command.host}:{self._command.port}'
    self._log_path = log_path
    self._grace_s = grace_s
    self._guardian: subprocess.Popen | None = None
    self._log_start = 0
    self.memory: MemorySaver | None = None

  @property
  def has_memory_saver(self) -> bool:
    """Whether its flags let it give memory back."""
    return bool(self._command.saved_memory)

  def alive(self) -> bool:
    """Whether it was started and has not ended."""
    return self._guardian is not None and self._guardian.poll() is None

  def start(self) -> None:
    """Starts it, again if it has ended, and does not wait for it.

    Raises:
      UserError: somebody else listens at its port.
      OSError: the log cannot be written.
    """
    if self.alive():
      return
    self.stop()
    if _listens(self._command.host, self._command.port):
      raise UserError(
        f'--teacher_launch: port {self._command.port} is in use; end what'
        ' listens there or set another --port'
      )
    logging.info('the teacher starts; its log is %s', self._log_path)
    with open(self._log_path, 'ab') as log:  # why the last one died stays
      self._log_start = log.tell()
      self._guardian = subprocess.Popen(
        [
          *(sys.executable, '-I', guardian.__file__, str(self._grace_s)),
          *self._command.words,
        ],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,  # a Ctrl-C is for the driver alone
      )
    if self.has_memory_saver:
      self.memory = MemorySaver(
        self.url, self._command.saved_memory, self._command.api_key
      )

  def wait(self, timeout_s: float) -> None:
    """Waits until it answers.

    Raises:
      UserError: it ended, or is not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    say_at = time.monotonic() + _SAY_S
    while self.alive():
      with contextlib.suppress(OSError, http.client.HTTPException):
        # The check is a generation of its own; SGLang gives it 20 seconds.
        if call(self.url, 'GET', '/health', timeout_s=30)[0] == 200:
          return
      now = time.monotonic()
      if now > deadline:
        raise UserError(
          f'--teacher_launch: the server does not answer after {timeout_s:g} s;'
          f' its log is {self._log_path}'
        )
      if now > say_at:
        logging.info('waiting for the teacher: %s', self._last_line())
        say_at = now + _SAY_S
      time.sleep(_POLL_S)
    raise self.ended()

  def ended(self) -> UserError:
    """Says how the server ended, once it is not `alive` any more."""
    code = self._guardian.returncode if self._guardian else None
    return UserError(
      f'--teacher_launch: the server ended ({_reason(code)}):'
      f' {self._last_line(telling=True)}; its log is {self._log_path}'
    )

  def stop(self) -> None:
    """Ends all its processes; there is nothing to do a second time."""
    if self._guardian is None:
      return
    self._guardian.stdin.close()
    # A child that was forked from this process can hold the pipe open.
    self._guardian.terminate()
    self._guardian.wait()
    self._guardian = self.memory = None

  def _last_line(self, telling: bool = False) -> str:
    """The log's last line, or the last one that tells of an error."""
    with open(self._log_path, 'rb') as log:
      end = os.path.getsize(self._log_path)
      log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
      text = log.read().decode(errors='replace')
    lines = [' '.join(x.split()) for x in text.splitlines() if x.strip()]
    if telling:
      lines = [x for x in lines if _TELLING.search(x)] or lines
    return lines[-1][:300] if lines else 'it wrote nothing'


def _listens(host: str, port: int) -> bool:
  with contextlib.suppress(OSError), socket.create_connection((host, port), 5):
    return True
  return False


def _reason(code: int | None) -> str:
  """How a process ended, by its exit code."""
  if code is not None and code > 128:
    with contextlib.suppress(ValueError):
      return signal.Signals(code - 128).name
  return f'exit code {code}'
