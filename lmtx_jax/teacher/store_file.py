"""An SQLite file of answers that cost money: opened, made, checked, locked.

What is kept is found by who answered, a teacher's identity; who asked is kept
beside it, and what asking cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import os
import sqlite3
import time
from typing import ClassVar, Literal
import urllib.parse

from lmtx_jax.types import UserError

_BUSY_TIMEOUT_S = 30.0
_ADD_USAGE = """
  INSERT INTO usage (asker, name, value) VALUES (?, ?, ?)
  ON CONFLICT DO UPDATE SET value = value + excluded.value
"""

TEACHERS_TABLE = (
  'CREATE TABLE teachers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)'
)
ASKERS_TABLE = (
  'CREATE TABLE askers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)'
)
# What asking cost, by counter (such as prompt_tokens), for each asker.
USAGE_TABLE = """CREATE TABLE usage (
  asker INTEGER NOT NULL REFERENCES askers,
  name TEXT NOT NULL,
  value REAL NOT NULL,
  PRIMARY KEY (asker, name)
) WITHOUT ROWID"""


class StoreFile:
  """One open file; its path is named in every error.

  Attributes:
    kind: what such a file is called in messages.
    application_id: says in its header whose file it is.
    schema_version: of the files that are written here.
    schema: statements that make the tables.
    path: where it lies.
    db: the connection; use it within `user_errors`.
  """

  kind: ClassVar[str]
  application_id: ClassVar[int]
  schema_version: ClassVar[int]
  schema: ClassVar[tuple[str, ...]]

  def __init__(
    self,
    path: str,
    mode: Literal['create', 'write', 'read'] = 'create',
    flag: str = '',
  ):
    """Opens the file; an older one is upgraded, unless it is only read.

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

  @classmethod
  def check_version(
    cls, path: str, application_id: int, version: int, flag: str
  ) -> None:
    """Raises a UserError where a file is no store that can be read here.

    Args:
      path: of the file.
      application_id: from its header.
      version: from its header.
      flag: what the user named it with.
    """
    if application_id != cls.application_id:
      what = 'of another program' if application_id else f'but no {cls.kind}'
      raise UserError(
        f'{path} is an SQLite file {what}; name another with {flag}'
      )
    if version > cls.schema_version:
      raise UserError(
        f'{cls.kind} {path} was written by a newer lmtx_jax (schema {version},'
        f' this one reads up to {cls.schema_version})'
      )

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

  def spend(self, asker: int, usage: Mapping[str, float]) -> None:
    """Raises an asker's counters by `usage`; use it within `transaction`."""
    self.db.executemany(
      _ADD_USAGE, [(asker, name, value) for name, value in usage.items()]
    )

  def usage(self) -> dict[int, dict[str, float]]:
    """Counters by name, for each asker that has any."""
    found: dict[int, dict[str, float]] = {}
    for asker, name, value in self.db.execute('SELECT * FROM usage'):
      found.setdefault(asker, {})[name] = value
    return found

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
      raise UserError(f'{self.kind} {self.path}: {e}{what_helps}') from e

  def _what_helps(self, code: int) -> str | None:
    return {
      sqlite3.SQLITE_BUSY: f' by another process for {_BUSY_TIMEOUT_S:.0f} s',
      sqlite3.SQLITE_LOCKED: ' by another process',
      sqlite3.SQLITE_PERM: '',
      sqlite3.SQLITE_READONLY: '',
      sqlite3.SQLITE_IOERR: ' (is the disk full?)',
      sqlite3.SQLITE_CORRUPT: self._if_damaged(),
      sqlite3.SQLITE_FULL: ' (free some space; the same command goes on)',
      sqlite3.SQLITE_CANTOPEN: ' (is its folder there and may it be written?)',
      sqlite3.SQLITE_NOTADB: f'; name another with {self._flag}'
      f'{self._if_no_store()}',
    }.get(code)

  def _check(self, mode: str) -> None:
    """Makes sure that the file is a store of this version."""
    application_id = self._pragma('application_id')
    if not application_id and mode != 'read':
      self._create()
      application_id = self._pragma('application_id')
    self.check_version(self.path, application_id, self.version, self._flag)
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
      for statement in self.schema:
        self.db.execute(statement)
      self.db.execute(f'PRAGMA application_id = {self.application_id}')
      self.db.execute(f'PRAGMA user_version = {self.schema_version}')

  def _upgrade(self) -> None:
    """Brings an older file up to date."""

  def _if_damaged(self) -> str:
    """What to do with a damaged file, after a semicolon."""
    return '; move it away'

  def _if_no_store(self) -> str:
    """What to do with a file that may once have been one."""
    return ''

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


def _read_only_uri(path: str) -> str:
  path = os.path.abspath(path)
  uri = f'file:{urllib.parse.quote(path)}?mode=ro'
  if os.access(os.path.dirname(path), os.W_OK) or os.path.exists(f'{path}-wal'):
    return uri
  # Even readers need a lock file beside it, unless nobody can write.
  return f'{uri}&immutable=1'
