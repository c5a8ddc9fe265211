"""What `--teacher_launch` starts, and what it leaves of the GPU to JAX."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import shlex
import shutil
import socket

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.types import UserError

_HOST = '127.0.0.1'
_FRACTION, _SAVER_FRACTION = 0.6, 0.8  # of the GPU's memory, for the server
_MARGIN, _LEAST_SHARE = 0.05, 0.1  # CUDA's own needs; JAX's share at least


@dataclasses.dataclass(frozen=True)
class ServerCommand:
  """What `--teacher_launch` asks for.

  Attributes:
    words: program and arguments.
    host: that the server is reached at.
    port: that it listens at.
    api_key: that it asks for before its memory may be touched; may be empty.
    memory_fraction: its share of the GPU's memory, 0 if it runs on the CPU.
    saved_memory: tags of the memory that it can give back for a while.
  """

  words: tuple[str, ...]
  host: str
  port: int
  api_key: str
  memory_fraction: float
  saved_memory: tuple[str, ...]

  @classmethod
  def from_config(cls, config: LlmConfig) -> ServerCommand:
    """Reads the flags; what the user gives wins.

    Raises:
      UserError: no model, no such launcher, or a flag without a number.
    """
    model, *flags = shlex.split(config.teacher_launch) or ['']
    if not model or model.startswith('-'):
      raise UserError(
        f'--teacher_launch={config.teacher_launch!r} must begin with a model'
      )
    program, *launcher = shlex.split(config.teacher_launcher) or ['']
    if not shutil.which(program):
      raise UserError(f'--teacher_launcher: there is no program {program!r}')
    given = _Options(flags)
    host = given.last('--host') or _HOST
    port = given.port() or _free_port()
    has_saver = '--enable-memory-saver' in flags
    if given.last('--device') == 'cpu':
      fraction, added = 0.0, []
    else:
      default = _SAVER_FRACTION if has_saver else _FRACTION
      fraction = given.number('--mem-fraction-static', default)
      added = ['--mem-fraction-static', str(fraction)]
    return cls(
      # The last one wins, so the user's come last.
      words=(
        *(program, *launcher),
        *('--model-path', model, '--host', host, '--port', str(port)),
        *added,
        *flags,
      ),
      host=_HOST if host in ('0.0.0.0', '::') else host,
      port=port,
      api_key=given.last('--admin-api-key') or given.last('--api-key'),
      memory_fraction=fraction,
      saved_memory=_saved_memory(flags) if has_saver else (),
    )


def _saved_memory(flags: Sequence[str]) -> tuple[str, ...]:
  """Weights that have no copy in the host's memory would come back as noise."""
  if '--enable-weights-cpu-backup' in flags:
    return ('kv_cache', 'weights')
  return ('kv_cache',)


def jax_environ(config: LlmConfig) -> dict[str, str]:
  """JAX's share of a GPU that `--teacher_launch` puts a server on.

  Returns:
    Environment variables, for `devices.setup`; none without such a server.

  Raises:
    UserError: see `ServerCommand.from_config`.
  """
  if not config.teacher_launch:
    return {}
  command = ServerCommand.from_config(config)
  if not command.memory_fraction:
    return {}
  # Memory that JAX takes at once, while the server measures what is free,
  # would be counted twice.
  environ = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  if command.saved_memory:  # then both have nearly all of it, in turns
    # The one allocator that gives memory back as soon as an array is gone.
    return {**environ, 'XLA_PYTHON_CLIENT_ALLOCATOR': 'platform'}
  share = max(1 - command.memory_fraction - _MARGIN, _LEAST_SHARE)
  return {**environ, 'XLA_CLIENT_MEM_FRACTION': f'{share:.2f}'}


class _Options:
  """`--name value` and `--name=value` among a server's flags."""

  def __init__(self, words: Sequence[str]):
    self._words = words

  def last(self, name: str) -> str:
    """The value that counts, empty if there is none."""
    found = ''
    for word, following in itertools.pairwise([*self._words, '']):
      if word == name:
        found = following
      elif word.startswith(f'{name}='):
        found = word.removeprefix(f'{name}=')
    return found

  def port(self) -> int:
    """`--port`, 0 if there is none.

    Raises:
      UserError: it is no port.
    """
    text = self.last('--port') or '0'
    if not (text.isdecimal() and int(text) < 2**16):
      raise UserError(f'--teacher_launch: --port needs a number, not {text!r}')
    return int(text)

  def number(self, name: str, default: float) -> float:
    """The value as a number.

    Raises:
      UserError: it is none.
    """
    text = self.last(name)
    try:
      return float(text) if text else default
    except ValueError as e:
      raise UserError(
        f'--teacher_launch: {name} needs a number, not {text!r}'
      ) from e


def _free_port() -> int:
  with socket.create_server((_HOST, 0)) as server:
    return server.getsockname()[1]
