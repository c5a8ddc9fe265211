"""The SQLite file that verdicts are kept in: opened, made, upgraded, written.

A row is found by the teacher's identity and digests of the two texts. Rows are
only ever added; that is what makes a damaged file easy to save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import os
import shlex
import sqlite3
import time
from typing import Literal
import urllib.parse

from lmtx_jax.types import UserError

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x4C4D5458  # 'LMTX', says whose SQLite file it is
_BUSY_TIMEOUT_S = 30.0

# What asking cost, by counter (such as prompt_tokens), for each asker.
_USAGE_TABLE = """CREATE TABLE usage (
  asker INTEGER NOT NULL REFERENCES askers,
  name TEXT NOT NULL,
  value REAL NOT NULL,
  PRIMARY KEY (asker, name)
) WITHOUT ROWID"""
_SCHEMA = (
  'CREATE TABLE teachers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)',
  'CREATE TABLE askers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)',
  # answer: 1 yes, 0 no, -1 invalid. asked_by: who asked first. num_asked: how
  # often an answer came; more than 1 only if two runs asked at the same time.
  """CREATE TABLE verdicts (
    teacher INTEGER NOT NULL REFERENCES teachers,
    document BLOB NOT NULL,
    label BLOB NOT NULL,
    answer INTEGER NOT NULL,
    p_yes REAL,
    asked_by INTEGER NOT NULL REFERENCES askers,
    num_asked INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (teacher, document, label)
  ) WITHOUT ROWID""",
  _USAGE_TABLE,
)
# The first answer stays, so that all who read the row agree.
_INSERT = """
  INSERT INTO verdicts (teacher, document, label, answer, p_yes, asked_by)
  VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT DO """
_AGAIN = 'UPDATE SET num_asked = num_asked + 1'
_ADD_USAGE = """
  INSERT INTO usage (asker, name, value) VALUES (?, ?, ?)
  ON CONFLICT DO UPDATE SET value = value + excluded.value
"""


class VerdictFile:
  """One open file; its path is named in every error.

  Attributes:
    path: where it lies.
    db: the connection; use it within `user_errors`.
  """

  def __init__(
    self,
    path: str,
    mode: Literal['create', 'write', 'read'] = 'create',
    flag: str = '--verdict_store',
  ):
    """Opens the file; one of version 1 is upgraded, unless it is only read.

    Args:
      path: of the file.
      mode: 'create' makes one that is not there yet.
      flag: what the user named it with.

    Raises:
      UserError: it cannot be opened, or is of a newer version, or no store.
    """
    self.path, self._flag = path, flag
    if mode != 'create' and not os.path.exists(path):
      raise UserError(f'{flag}={path}: no such file')
    with self.user_errors():
      self.db = sqlite3.connect(
        _read_only_uri(path) if mode == 'read' else path,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        uri=mode == 'read',
      )
      try:
        self._check(mode)
      except BaseException:
        self.db.close()
        raise

  def close(self) -> None:
    """Closes the file."""
    self.db.close()

  @property
  def version(self) -> int:
    """Schema version."""
    return self._pragma('user_version')

  def id(self, table: Literal['teachers', 'askers'], name: str) -> int:
    """The small number that stands for a name, given now if it has none."""
    found = self.find_id(table, name)
    if found is None:
      # OR IGNORE: another process may have been faster.
      self.db.execute(
        f'INSERT OR IGNORE INTO {table} (name) VALUES (?)', (name,)
      )
      found = self.find_id(table, name)
    return found

  def find_id(
    self, table: Literal['teachers', 'askers'], name: str
  ) -> int | None:
    """The small number that stands for a name, None if it has none."""
    query = f'SELECT id FROM {table} WHERE name = ?'
    row = self.db.execute(query, (name,)).fetchone()
    return row and row[0]

  def names(self, table: Literal['teachers', 'askers']) -> dict[int, str]:
    """All names by their numbers."""
    return dict(self.db.execute(f'SELECT id, name FROM {table}'))

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
      self.db.executemany(
        _ADD_USAGE, [(asker, name, value) for name, value in usage.items()]
      )

  def add(self, rows: Iterable[tuple]) -> int:
    """Adds rows as in `write` where there is none; returns how many."""
    return self.db.executemany(_INSERT + 'NOTHING', rows).rowcount

  def usage(self) -> dict[int, dict[str, float]]:
    """Counters by name, for each asker that has any."""
    found: dict[int, dict[str, float]] = {}
    if self.version > 1:
      for asker, name, value in self.db.execute('SELECT * FROM usage'):
        found.setdefault(asker, {})[name] = value
    return found

  def add_usage(self, rows: Iterable[tuple[int, str, float]]) -> None:
    """Adds counters `(asker, name, value)` where there are none."""
    self.db.executemany('INSERT OR IGNORE INTO usage VALUES (?, ?, ?)', rows)

  @contextlib.contextmanager
  def transaction(self) -> Iterator[None]:
    """All or nothing of what is written within; waits for other writers."""
    self.db.execute('BEGIN IMMEDIATE')
    try:
      yield
      self.db.execute('COMMIT')
    except BaseException:
      if self.db.in_transaction:
        self.db.execute('ROLLBACK')
      raise

  @contextlib.contextmanager
  def user_errors(self) -> Iterator[None]:
    """Turns what can be wrong with the file into one line."""
    try:
      yield
    except sqlite3.Error as e:
      # The lower byte is the kind, the rest says where it happened.
      code = getattr(e, 'sqlite_errorcode', -1) & 0xFF
      what_helps = self._what_helps(code)
      if what_helps is None:
        raise
      raise UserError(f'verdict store {self.path}: {e}{what_helps}') from e

  def _what_helps(self, code: int) -> str | None:
    return {
      sqlite3.SQLITE_BUSY: f' by another process for {_BUSY_TIMEOUT_S:.0f} s',
      sqlite3.SQLITE_LOCKED: ' by another process',
      sqlite3.SQLITE_PERM: '',
      sqlite3.SQLITE_READONLY: '',
      sqlite3.SQLITE_IOERR: ' (is the disk full?)',
      sqlite3.SQLITE_CORRUPT: repair_hint(self.path),
      sqlite3.SQLITE_FULL: ' (free some space; the same command goes on)',
      sqlite3.SQLITE_CANTOPEN: ' (is its folder there and may it be written?)',
      sqlite3.SQLITE_NOTADB: f'; name another with {self._flag}, or if it was a'
      f' store{repair_hint(self.path).removeprefix(";")}',
    }.get(code)

  def _check(self, mode: str) -> None:
    """Makes sure that the file is a store of this version."""
    application_id = self._pragma('application_id')
    if not application_id and mode != 'read':
      self._create()
      application_id = self._pragma('application_id')
    check_version(self.path, application_id, self.version, self._flag)
    if mode != 'read':
      self._use_wal()
      # An answer may have cost money: not even a power failure takes it away.
      self.db.execute('PRAGMA synchronous = FULL')
      self._upgrade()

  def _create(self) -> None:
    with self.transaction():
      # Looked at again: another process may just have made it.
      if self._pragma('application_id'):
        return
      if self.db.execute('SELECT 1 FROM sqlite_schema').fetchone():
        return
      for statement in _SCHEMA:
        self.db.execute(statement)
      self.db.execute(f'PRAGMA application_id = {_APPLICATION_ID}')
      self.db.execute(f'PRAGMA user_version = {SCHEMA_VERSION}')

  def _upgrade(self) -> None:
    if self.version == SCHEMA_VERSION:
      return
    with self.transaction():
      # Looked at again: another process may just have done it.
      if self.version == 1:
        self.db.execute(_USAGE_TABLE)
        self.db.execute('PRAGMA user_version = 2')

  def _use_wal(self) -> None:
    """Lets others read while one writes.

    SQLite does not wait for a lock when it changes the mode, so we do.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
      try:
        self.db.execute('PRAGMA journal_mode = WAL')
        return
      except sqlite3.OperationalError as e:
        if e.sqlite_errorcode != sqlite3.SQLITE_BUSY:
          raise
        if time.monotonic() > deadline:
          raise
        time.sleep(0.05)

  def _pragma(self, name: str) -> int:
    return self.db.execute(f'PRAGMA {name}').fetchone()[0]


def check_version(
  path: str, application_id: int, version: int, flag: str
) -> None:
  """Raises a UserError where a file is no store that can be read here.

  Args:
    path: of the file.
    application_id: from its header.
    version: from its header.
    flag: what the user named it with.
  """
  if application_id != _APPLICATION_ID:
    what = 'of another program' if application_id else 'but no verdict store'
    raise UserError(
      f'{path} is an SQLite file {what}; name another with {flag}'
    )
  if version > SCHEMA_VERSION:
    raise UserError(
      f'verdict store {path} was written by a newer lmtx_jax (schema {version},'
      f' this one reads up to {SCHEMA_VERSION})'
    )


def repair_hint(path: str) -> str:
  """What to do with a damaged file."""
  return (
    '; what can be read is saved by python -m lmtx_jax.teacher.verdicts '
    f'--store={shlex.quote(path)} --repair'
  )


def _read_only_uri(path: str) -> str:
  path = os.path.abspath(path)
  uri = f'file:{urllib.parse.quote(path)}?mode=ro'
  if os.access(os.path.dirname(path), os.W_OK) or os.path.exists(f'{path}-wal'):
    return uri
  # Even readers need a lock file beside it, unless nobody can write.
  return f'{uri}&immutable=1'
