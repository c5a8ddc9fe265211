"""Files that are whole or absent, whatever ends the process."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import shutil
import sys
from typing import Any

import numpy as np

from lmtx_jax.types import UserError


@contextlib.contextmanager
def staged(path: str) -> Iterator[str]:
  """Yields a temporary path; what is written there appears whole at `path`.

  Works for a file or a folder. Nothing is left behind by an exception, and
  what a kill left is removed by the next attempt. Takes the place of an older
  file, but never of a folder, nor of a device.

  Raises:
    UserError: something that is no file is there already.
  """
  if os.path.lexists(path) and not os.path.isfile(path):
    raise UserError(f'{path} is there and is no file')
  os.makedirs(os.path.dirname(path), exist_ok=True)
  head, tail = os.path.split(path)
  temporary = os.path.join(head, f'.unfinished-{tail}')  # keeps the suffix
  remove(temporary)
  try:
    yield temporary
    _sync(temporary)
    os.replace(temporary, path)
    _sync_entry(head)
  finally:
    remove(temporary)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
  """Holds a file lock, which the system frees when the process dies."""
  with open(path, 'w') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    yield


def remove(path: str) -> None:
  """Removes a file or a folder, if there is one."""
  if os.path.isdir(path):
    shutil.rmtree(path, ignore_errors=True)
  elif os.path.exists(path):
    os.remove(path)


def _sync(path: str) -> None:
  """Makes a file safe on the disk, or a folder with all that is in it."""
  if os.path.isdir(path) and not os.path.islink(path):
    for entry in os.scandir(path):
      _sync(entry.path)
  _sync_entry(path)


def _sync_entry(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_json(path: str, value: Any) -> None:
  """Writes indented JSON."""
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2, ensure_ascii=False)
    f.write('\n')


def read_json(path: str) -> Any:
  """Reads JSON."""
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def write_arrays(path: str, value: dict[str, np.ndarray]) -> None:
  """Writes named arrays as .npz."""
  np.savez(path, **value)


def read_arrays(path: str) -> dict[str, np.ndarray]:
  """Reads what `write_arrays` wrote."""
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)


class StandardOutput:
  """Standard output, as a file of bytes: UTF-8 whatever the locale is."""

  def __init__(self, name: str):
    """Takes what an error message calls it."""
    self._name = name

  def write(self, data: bytes) -> None:
    """Writes at once.

    Raises:
      UserError: whoever read it has stopped.
    """
    try:
      sys.stdout.flush()
      if hasattr(sys.stdout, 'buffer'):
        sys.stdout.buffer.write(data)
      else:  # a StringIO took its place
        sys.stdout.write(data.decode())
      sys.stdout.flush()
    except BrokenPipeError as e:
      # Python would write what is left at its end, and fail again.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      raise UserError(f'{self._name}: whoever read it has stopped') from e

  def flush(self) -> None:
    """Nothing is left to write."""

  def close(self) -> None:
    """It stays open."""
