"""The SQLite file that verdicts are kept in: opened, made, upgraded, written.

A row is found by the teacher's identity and digests of the two texts. Rows are
only ever added; that is what makes a damaged file easy to save.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import shlex
from typing import Literal

from lmtx_jax.teacher.store_file import (
  ASKERS_TABLE,
  TEACHERS_TABLE,
  USAGE_TABLE,
  StoreFile,
)

SCHEMA_VERSION = 2

# answer: 1 yes, 0 no, -1 invalid. asked_by: who asked first. num_asked: how
# often an answer came; more than 1 only if two runs asked at the same time.
_VERDICTS_TABLE = """CREATE TABLE verdicts (
  teacher INTEGER NOT NULL REFERENCES teachers,
  document BLOB NOT NULL,
  label BLOB NOT NULL,
  answer INTEGER NOT NULL,
  p_yes REAL,
  asked_by INTEGER NOT NULL REFERENCES askers,
  num_asked INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (teacher, document, label)
) WITHOUT ROWID"""
# The first answer stays, so that all who read the row agree.
_INSERT = """
  INSERT INTO verdicts (teacher, document, label, answer, p_yes, asked_by)
  VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT DO """
_AGAIN = 'UPDATE SET num_asked = num_asked + 1'


class VerdictFile(StoreFile):
  """One open file, see `StoreFile`."""

  kind = 'verdict store'
  application_id = 0x4C4D5458  # 'LMTX'
  schema_version = SCHEMA_VERSION
  schema = (TEACHERS_TABLE, ASKERS_TABLE, _VERDICTS_TABLE, USAGE_TABLE)

  def __init__(
    self,
    path: str,
    mode: Literal['create', 'write', 'read'] = 'create',
    flag: str = '--verdict_store',
  ):
    """Opens the file, see `StoreFile`; one of version 1 is upgraded."""
    super().__init__(path, mode, flag)

  def write(
    self, rows: Iterable[tuple], asker: int, usage: Mapping[str, float]
  ) -> None:
    """Stores answers and adds what they cost, in one transaction.

    Args:
      rows: `(teacher, document, label, answer, p_yes, asker)`.
      asker: whose usage it is.
      usage: increase of each counter.
    """
    with self.transaction():
      self.db.executemany(_INSERT + _AGAIN, rows)
      self.spend(asker, usage)

  def add(self, rows: Iterable[tuple]) -> int:
    """Adds rows as in `write` where there is none; returns how many."""
    return self.db.executemany(_INSERT + 'NOTHING', rows).rowcount

  def usage(self) -> dict[int, dict[str, float]]:
    """Counters by name, for each asker that has any."""
    return super().usage() if self.version > 1 else {}

  def add_usage(self, rows: Iterable[tuple[int, str, float]]) -> None:
    """Adds counters `(asker, name, value)` where there are none."""
    self.db.executemany('INSERT OR IGNORE INTO usage VALUES (?, ?, ?)', rows)

  def _upgrade(self) -> None:
    if self.version == SCHEMA_VERSION:
      return
    with self.transaction():
      # Looked at again: another process may just have done it.
      if self.version == 1:
        self.db.execute(USAGE_TABLE)
        self.db.execute('PRAGMA user_version = 2')

  def _if_damaged(self) -> str:
    return repair_hint(self.path)

  def _if_no_store(self) -> str:
    return f', or if it was a store{repair_hint(self.path).removeprefix(";")}'


def repair_hint(path: str) -> str:
  """What to do with a damaged file."""
  return (
    '; what can be read is saved by python -m lmtx_jax.teacher.verdicts '
    f'--store={shlex.quote(path)} --repair'
  )
