"""A real SGLang server on the CPU, for tests named test_live_*.

See tests/sglang_cpu/README.md: LMTX_SGLANG_VENV names its environment.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import random
import shlex
import signal
import socket
import subprocess
import sys
import time

from processes import children
import pytest

from lmtx_jax.teacher.llm import guardian
from lmtx_jax.teacher.llm.memory_saver import call

VENV = os.environ.get('LMTX_SGLANG_VENV', '')
START_S = 240  # it takes 20 s where nothing else runs
# One that ends or hangs while it starts is started again, as by systemd.
_STARTS = 3
_FIRST_OUTGOING = 32_768  # Linux gives local ports from here on
LAUNCH_CPU = pathlib.Path(__file__).parents[2] / 'sglang_cpu' / 'launch_cpu.py'
# What a server of one GPU does not need; see tests/sglang_cpu/README.md.
CPU_FLAGS = (
  *('--device', 'cpu', '--dtype', 'float32'),
  *('--attention-backend', 'torch_native'),
  '--cuda-graph-backend-decode=disabled',
  '--cuda-graph-backend-prefill=disabled',
  *('--mem-fraction-static', '0.1', '--max-total-tokens', '65536'),
  *('--random-seed', '0', '--schedule-policy', 'lpm', '--sleep-on-idle'),
)

requires_sglang = pytest.mark.skipif(
  not VENV,
  reason='LMTX_SGLANG_VENV names no environment with SGLang'
  ' (tests/sglang_cpu/install.sh makes one)',
)


def launcher() -> str:
  """For `--teacher_launcher`."""
  return shlex.join([python(), str(LAUNCH_CPU)])


def python() -> str:
  """The Python that has SGLang."""
  return os.path.join(os.path.abspath(VENV), 'bin', 'python')


def model_path(name: str = 'tiny-llama') -> str:
  """Folder of a model: tiny-llama or tiny-qwen2."""
  return os.path.join(os.path.abspath(VENV), 'models', name)


class SglangServer:
  """Starts, stops, kills and starts again, always at the same address.

  As a context it starts at the beginning and stops at the end.

  Attributes:
    url: its address.
    model: the folder of its model.
    log: path of its log.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    model: str = 'tiny-llama',
    flags: tuple[str, ...] = (),
    port: int = 0,
  ):
    """Takes a folder for the log, the name of the model and more flags."""
    self.model = model_path(model)
    self._port = port or _free_port()
    self.url = f'http://127.0.0.1:{self._port}'
    self.log = folder / f'sglang_{self._port}.log'
    self._flags = flags
    self._guardian: subprocess.Popen | None = None

  def __enter__(self) -> SglangServer:
    self.start()
    return self

  def __exit__(self, *_) -> None:
    self.stop()

  def start(self) -> None:
    """Starts it and waits until it answers."""
    for _ in range(_STARTS):
      self.launch()
      deadline = time.monotonic() + START_S
      while self.is_running and time.monotonic() < deadline:
        if self.is_healthy():
          return
        time.sleep(0.5)
      self.stop()
    raise AssertionError(self.log.read_text(errors='replace')[-3000:])

  def launch(self) -> None:
    """Starts it and waits for nothing."""
    assert self._guardian is None, 'it runs'
    command = [
      *(python(), str(LAUNCH_CPU), '--model-path', self.model),
      *('--host', '127.0.0.1', '--port', str(self._port)),
      *('--nccl-port', str(_free_port())),
      *CPU_FLAGS,
      *self._flags,
    ]
    with self.log.open('ab') as log:
      self._guardian = subprocess.Popen(
        # Nothing stays behind when the tests are killed.
        [sys.executable, '-I', guardian.__file__, '20', *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, 'HF_HUB_OFFLINE': '1', 'TRANSFORMERS_OFFLINE': '1'},
      )

  @property
  def is_running(self) -> bool:
    """Whether it has not ended by itself."""
    return self._guardian is not None and self._guardian.poll() is None

  def is_healthy(self) -> bool:
    """Whether it answers."""
    try:
      return call(self.url, 'GET', '/health')[0] == 200
    except (OSError, http.client.HTTPException):
      return False

  @property
  def group(self) -> int:
    """Id of its process group, which is that of its first process."""
    (leader,) = children(self._guardian.pid)
    return leader

  def kill(self) -> None:
    """Kills all its processes at once, as a power cut does."""
    os.killpg(self.group, signal.SIGKILL)
    self.stop()

  def stop(self) -> None:
    """Ends all its processes."""
    if self._guardian is not None:
      self._guardian.stdin.close()
      self._guardian.wait()
      self._guardian = None


def _free_port() -> int:
  """One that no outgoing connection is given while nobody listens there.

  A killed server must find its port free, but the clients that look for it
  meanwhile are given local ports above `_FIRST_OUTGOING`: the very same, once
  in a while.
  """
  for port in random.SystemRandom().sample(range(10_000, _FIRST_OUTGOING), 100):
    with contextlib.suppress(OSError), socket.create_server(('', port)):
      return port
  raise OSError('no port is free')
