"""Saves what can be read of a damaged store.

SQLite gives up at the first bad page of a table, so the pages are read here one
by one, whatever table they belong to, and entries are known by their shape. A
store only ever grows: an entry on any page, be it of an old copy in the
write-ahead log, is a true one.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
from typing import Any

from absl import logging
from tqdm import tqdm

from lmtx_jax.teacher.sqlite_pages import Pages
from lmtx_jax.teacher.verdict_exchange import ANSWERS, Row, add
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.types import UserError

# Where SQLite's readers hold their lock, as long as they have a store open.
_LOCK_START, _LOCK_LENGTH = 0x40000002, 510


def repair(path: str, flag: str) -> tuple[int, str]:
  """Puts a new store with all readable verdicts in place of a damaged one.

  Returns:
    The number of verdicts saved, and where the damaged file lies now.

  Raises:
    UserError: another process uses the store, it is of a newer version or of
      another program, or nothing can be read.
  """
  damaged = f'{path}.damaged'
  for old in (damaged, f'{damaged}-wal'):
    if os.path.lexists(old):
      raise UserError(f'{old} is there from an earlier repair; move it away')
  if not os.path.isfile(path):
    raise UserError(f'{flag}={path}: no such file')
  head, tail = os.path.split(path)
  fresh = os.path.join(head, f'.unfinished-{tail}')
  with open(path, 'r+b') as f:
    try:
      # Held to the end: others who open the store wait.
      fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_LENGTH, _LOCK_START)
    except OSError as e:
      raise UserError(
        f'verdict store {path} is in use by another process; repair it when '
        'that has ended'
      ) from e
    pages = Pages(f)  # a second open file would, when closed, free the lock
    if pages.has_header:
      VerdictFile.check_version(
        path, pages.application_id, pages.user_version, flag
      )
    _remove(fresh)
    try:
      num_saved = _save(pages, fresh)
      os.rename(path, damaged)
      # SQLite would play the old log back into the new file.
      with contextlib.suppress(FileNotFoundError):
        os.rename(f'{path}-wal', f'{damaged}-wal')
      with contextlib.suppress(FileNotFoundError):
        os.remove(f'{path}-shm')
      os.rename(fresh, path)
    finally:
      _remove(fresh)
  return num_saved, damaged


def _save(pages: Pages, fresh: str) -> int:
  """Makes a store of what the pages hold; returns the number of verdicts."""
  teachers: dict[int, str] = {}
  askers: dict[int, str] = {}
  usage: dict[tuple[int, str], float] = {}
  for entry in tqdm(pages.entries(), desc='names', unit=' entries'):
    match entry:
      case (int(row), str(name)) | (str(name), int(row)):
        (teachers if _is_identity(name) else askers)[row] = name
      case (int(asker), str(name), int(value) | float(value)):
        # Counters only rise.
        usage[asker, name] = max(usage.get((asker, name), value), value)
  lost: set[int] = set()

  def rows() -> Iterator[Row]:
    for entry in tqdm(pages.entries(), desc='verdicts', unit=' entries'):
      if _is_verdict(entry):
        teacher, document, label, answer, p_yes, asker, _ = entry
        if teacher not in teachers:
          lost.add(teacher)
          continue
        yield Row(
          teachers[teacher],
          document,
          label,
          answer,
          p_yes if p_yes is None else float(p_yes),
          askers.get(asker, f'lost name {asker}'),
        )

  with contextlib.closing(VerdictFile(fresh)) as file:
    _, num_saved = add(file, rows())
    if not num_saved and not teachers:
      raise UserError(f'{pages.path}: nothing of a verdict store is in it')
    with file.user_errors(), file.transaction():
      file.add_usage(
        (file.id('askers', askers[asker]), name, value)
        for (asker, name), value in usage.items()
        if asker in askers
      )
  if lost:
    logging.warning(
      'verdicts of %d teachers are lost: their names cannot be read', len(lost)
    )
  return num_saved


def _is_identity(name: str) -> bool:
  """Whether a name is a teacher's; those of askers are no JSON objects."""
  try:
    return isinstance(json.loads(name), dict)
  except ValueError:
    return False


def _is_verdict(entry: tuple[Any, ...]) -> bool:
  match entry:
    case (
      int(),
      bytes(document),
      bytes(label),
      int(answer),
      None | int() | float() as p_yes,
      int(),
      int(),
    ):
      return (
        len(document) == len(label) == 16
        and answer in ANSWERS
        and (p_yes is None or 0 <= p_yes <= 1)
      )
  return False


def _remove(path: str) -> None:
  for end in ('', '-wal', '-shm', '-journal'):
    with contextlib.suppress(FileNotFoundError):
      os.remove(path + end)
