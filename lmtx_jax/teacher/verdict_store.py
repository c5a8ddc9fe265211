"""Every verdict ever given, in one SQLite file, so that none is asked twice.

A row is found by the teacher's identity and digests of the two texts; indices,
runs and cycles play no part, so the file outlives the run and may be shared.
Answers are committed in small batches as they come: whatever kills the process
costs at most the last second of them.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import sqlite3
import time

import numpy as np
from tqdm import tqdm

from lmtx_jax.teacher.pairs import Pairs, Tally, Teacher
from lmtx_jax.teacher.questions import Questions, join
from lmtx_jax.types import INVALID, YES, UserError, Verdicts

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x4C4D5458  # 'LMTX', says whose SQLite file it is
_BUSY_TIMEOUT_S = 30.0
_COMMIT_ANSWERS, _COMMIT_S = 1000, 1.0
_BLOCK = 16384  # questions looked up at a time
_DOCS_A_QUERY = 500  # SQLite takes at least 999 parameters

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
)
# The first answer stays, so that all who read the row agree.
_INSERT = """
  INSERT INTO verdicts (teacher, document, label, answer, p_yes, asked_by)
  VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET num_asked = num_asked + 1
"""
_WHAT_HELPS = {
  sqlite3.SQLITE_BUSY: f' by another process for {_BUSY_TIMEOUT_S:.0f} s',
  sqlite3.SQLITE_LOCKED: ' by another process',
  sqlite3.SQLITE_PERM: '',
  sqlite3.SQLITE_READONLY: '',
  sqlite3.SQLITE_IOERR: ' (is the disk full?)',
  sqlite3.SQLITE_CORRUPT: '; move it away to start a new one',
  sqlite3.SQLITE_FULL: ' (free some space; the same command goes on)',
  sqlite3.SQLITE_CANTOPEN: ' (is its folder there and may it be written?)',
  sqlite3.SQLITE_NOTADB: '; name another with --verdict_store',
}


class VerdictStore:
  """A file of verdicts in front of every teacher."""

  def __init__(self, path: str):
    """Opens the file or makes it.

    Raises:
      UserError: it cannot be opened, or is of a newer version, or no store.
    """
    self._path = path
    with self._user_errors():
      self._db = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None
      )
      self._check_or_create()
      # An answer may have cost money: not even a power failure takes it away.
      self._db.execute('PRAGMA synchronous = FULL')

  def close(self) -> None:
    """Closes the file."""
    self._db.close()

  def judge(
    self, teacher: Teacher, pairs: Pairs, asked_by: str
  ) -> tuple[Verdicts, Tally]:
    """Verdicts of all pairs; asks only what the store does not know.

    Args:
      teacher: who is asked, once for each distinct pair of texts.
      pairs: the `num_pairs` questions.
      asked_by: a name of its own for each stage of each run, such as
        `<run id>/cycle_00`. The tally is derived from the rows that carry it,
        so a stage that was killed and goes on reports what it would have
        reported undisturbed.

    Returns:
      `[num_pairs]` verdicts in order (INVALID where no answer came), and the
      tally.

    Raises:
      UserError: the file is locked, read-only, broken, or the disk is full.
    """
    with self._user_errors():
      teacher_id = self._id('teachers', teacher.identity)
      asker_id = self._id('askers', asked_by)
      questions = Questions(pairs)
      answer = np.full(len(questions), INVALID, np.int8)
      p_yes = np.full(len(questions), np.nan, np.float32)
      asker = np.full(len(questions), -1, np.int64)  # -1: not in the store

      def look_up(wanted: np.ndarray) -> None:
        for block in np.array_split(wanted, len(wanted) // _BLOCK + 1):
          for hits, *row in self._find(teacher_id, questions, block):
            answer[hits], p_yes[hits], asker[hits] = row

      look_up(np.arange(len(questions)))
      unknown = np.flatnonzero(asker < 0)
      # In the order of the pairs: a document's labels stay together.
      unknown = unknown[np.argsort(questions.first[unknown])]
      if len(unknown):
        self._ask(teacher, teacher_id, asker_id, pairs, questions, unknown)
        look_up(np.sort(unknown))
    asked = int((asker == asker_id).sum())
    verdicts = Verdicts(answer[questions.of_pair], p_yes[questions.of_pair])
    return verdicts, Tally(
      pairs=len(pairs),
      asked=asked,
      reused=int((asker[questions.of_pair] >= 0).sum()) - asked,
      invalid=int((verdicts.answer == INVALID).sum()),
      yes=int((verdicts.answer == YES).sum()),
    )

  def _find(
    self, teacher_id: int, questions: Questions, block: np.ndarray
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields `(questions, answer, p_yes, asker)` of those that are stored.

    Args:
      teacher_id: row of `teachers`.
      questions: all questions.
      block: `[n]` int64, the ones wanted, ascending.
    """
    keys = join(questions.documents[block], questions.labels[block])
    documents = np.unique(questions.documents[block]).tolist()
    for start in range(0, len(documents), _DOCS_A_QUERY):
      some = documents[start : start + _DOCS_A_QUERY]
      rows = self._db.execute(
        'SELECT CAST(document || label AS BLOB), answer, p_yes, asked_by '
        'FROM verdicts '
        f'WHERE teacher = ? AND document IN ({",".join("?" * len(some))})',
        (teacher_id, *some),
      ).fetchall()
      if not rows:
        continue
      found, answer, p_yes, asker = zip(*rows, strict=True)
      found = np.frombuffer(b''.join(found), keys.dtype)
      place = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
      hit = keys[place] == found  # the rest are other labels of a document
      yield (
        block[place[hit]],
        np.array(answer, np.int8)[hit],
        np.array(p_yes, np.float32)[hit],
        np.array(asker, np.int64)[hit],
      )

  def _ask(
    self,
    teacher: Teacher,
    teacher_id: int,
    asker_id: int,
    pairs: Pairs,
    questions: Questions,
    unknown: np.ndarray,
  ) -> None:
    """Puts the unknown questions to the teacher and stores the answers."""
    answers = teacher.judge(pairs.take(questions.first[unknown]))
    waiting: list[tuple] = []
    last_commit = time.monotonic()
    num_answers = num_yes = 0
    with tqdm(total=len(unknown), desc='teacher', unit='pair') as bar:
      try:
        for positions, verdicts in answers:
          asked = unknown[positions]
          rows = zip(
            questions.documents[asked].tolist(),
            questions.labels[asked].tolist(),
            verdicts.answer.tolist(),
            verdicts.p_yes.tolist(),
            strict=True,
          )
          waiting += [(teacher_id, *row, asker_id) for row in rows]
          num_answers += len(positions)
          num_yes += int((verdicts.answer == YES).sum())
          bar.set_postfix(
            yes=f'{num_yes / max(num_answers, 1):.1%}', refresh=False
          )
          bar.update(len(positions))
          if (
            len(waiting) >= _COMMIT_ANSWERS
            or time.monotonic() - last_commit >= _COMMIT_S
          ):
            batch, waiting = waiting, []
            self._write(batch)
            last_commit = time.monotonic()
      finally:  # also on Ctrl-C or when the teacher fails: answers are kept
        self._write(waiting)

  def _write(self, rows: list[tuple]) -> None:
    """Stores answers in one transaction."""
    with self._transaction():
      self._db.executemany(_INSERT, rows)

  def _id(self, table: str, name: str) -> int:
    """The small number that stands for a name."""
    query = f'SELECT id FROM {table} WHERE name = ?'
    row = self._db.execute(query, (name,)).fetchone()
    if row is None:
      # OR IGNORE: another process may have been faster.
      self._db.execute(
        f'INSERT OR IGNORE INTO {table} (name) VALUES (?)', (name,)
      )
      row = self._db.execute(query, (name,)).fetchone()
    return row[0]

  def _check_or_create(self) -> None:
    """Makes sure that the file is a store of this version."""
    if not self._pragma('application_id'):
      with self._transaction():
        # Looked at again: another process may just have made it.
        if not self._pragma('application_id'):
          if self._db.execute('SELECT 1 FROM sqlite_schema').fetchone():
            raise UserError(
              f'{self._path} is an SQLite file but no verdict store; name '
              'another with --verdict_store'
            )
          for statement in _SCHEMA:
            self._db.execute(statement)
          self._db.execute(f'PRAGMA application_id = {_APPLICATION_ID}')
          self._db.execute(f'PRAGMA user_version = {SCHEMA_VERSION}')
    if self._pragma('application_id') != _APPLICATION_ID:
      raise UserError(
        f'{self._path} is an SQLite file of another program; name another '
        'with --verdict_store'
      )
    version = self._pragma('user_version')
    if version > SCHEMA_VERSION:
      raise UserError(
        f'verdict store {self._path} was written by a newer lmtx_jax (schema '
        f'{version}, this one reads up to {SCHEMA_VERSION})'
      )
    self._use_wal()

  def _use_wal(self) -> None:
    """Lets others read while one writes.

    SQLite does not wait for a lock when it changes the mode, so we do.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
      try:
        self._db.execute('PRAGMA journal_mode = WAL')
        return
      except sqlite3.OperationalError as e:
        if e.sqlite_errorcode != sqlite3.SQLITE_BUSY:
          raise
        if time.monotonic() > deadline:
          raise
        time.sleep(0.05)

  def _pragma(self, name: str) -> int:
    return self._db.execute(f'PRAGMA {name}').fetchone()[0]

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[None]:
    self._db.execute('BEGIN IMMEDIATE')
    try:
      yield
      self._db.execute('COMMIT')
    except BaseException:
      if self._db.in_transaction:
        self._db.execute('ROLLBACK')
      raise

  @contextlib.contextmanager
  def _user_errors(self) -> Iterator[None]:
    """Turns what can be wrong with the file into one line."""
    try:
      yield
    except sqlite3.Error as e:
      # The lower byte is the kind, the rest says where it happened.
      code = getattr(e, 'sqlite_errorcode', -1) & 0xFF
      if code not in _WHAT_HELPS:
        raise
      raise UserError(
        f'verdict store {self._path}: {e}{_WHAT_HELPS[code]}'
      ) from e
