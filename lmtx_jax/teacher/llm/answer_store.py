"""Every text that an LLM wrote for us, in one SQLite file: none is asked twice.

A text is found by who wrote it and by the digest of its prompt. Each chunk of
answers is stored as it comes, in one transaction with what it cost.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import hashlib
import time
from typing import Literal, NamedTuple

import numpy as np

from lmtx_jax.interrupts import deferred
from lmtx_jax.teacher.llm.writer import Generated, Writer
from lmtx_jax.teacher.store_file import (
  ASKERS_TABLE,
  TEACHERS_TABLE,
  USAGE_TABLE,
  StoreFile,
)

_PROMPTS_A_QUERY = 500  # SQLite takes at least 999 parameters

# asked_by: who asked first. num_asked: how often an answer came; more than 1
# only if two runs asked at the same time. The first answer stays.
_ANSWERS_TABLE = """CREATE TABLE answers (
  teacher INTEGER NOT NULL REFERENCES teachers,
  prompt BLOB NOT NULL,
  text TEXT NOT NULL,
  is_cut INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  new_tokens INTEGER NOT NULL,
  asked_by INTEGER NOT NULL REFERENCES askers,
  num_asked INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (teacher, prompt)
) WITHOUT ROWID"""
_ASKED_BY_INDEX = """CREATE INDEX answers_asked_by ON answers (
  asked_by, prompt_tokens, new_tokens)"""
_INSERT = """
  INSERT INTO answers (
    teacher, prompt, text, is_cut, prompt_tokens, new_tokens, asked_by)
  VALUES (?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET num_asked = num_asked + 1
"""
_SPENT = """
  SELECT count(*), total(prompt_tokens), total(new_tokens)
  FROM answers WHERE asked_by = ?
"""


class Answer(NamedTuple):
  """A text that an LLM wrote.

  Attributes:
    text: what it wrote.
    is_cut: whether it would have gone on.
    prompt_tokens: of what it was asked.
    new_tokens: of the text.
  """

  text: str
  is_cut: bool
  prompt_tokens: int
  new_tokens: int


class AnswerFile(StoreFile):
  """One open file, see `StoreFile`."""

  kind = 'answer store'
  application_id = 0x4C4D5441  # 'LMTA'
  schema_version = 1
  schema = (
    *(TEACHERS_TABLE, ASKERS_TABLE, USAGE_TABLE),
    *(_ANSWERS_TABLE, _ASKED_BY_INDEX),
  )


class AnswerStore:
  """A file of answers in front of a writer."""

  def __init__(
    self,
    path: str,
    mode: Literal['create', 'write', 'read'] = 'create',
    flag: str = '--run_dir',
  ):
    """Opens the file or makes it, see `StoreFile`.

    Raises:
      UserError: it cannot be opened, or is of a newer version, or no store.
    """
    self._file = AnswerFile(path, mode, flag)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def answers(
    self, writer: Writer, prompts: Sequence[str], asked_by: str
  ) -> list[Answer | None]:
    """What is written to each prompt; asks what the store does not know.

    Args:
      writer: who is asked, once for each distinct prompt.
      prompts: whole questions, all held in memory.
      asked_by: a name of its own for each stage of each run; see `spent`.

    Returns:
      An answer to each prompt, in order; None where none came, which is asked
      again the next time.

    Raises:
      UserError: the file is locked, read-only, broken, or the disk is full, or
        what the writer raises.
    """
    if not prompts:
      return []
    keys = [_digest(prompt) for prompt in prompts]
    first = dict(zip(reversed(keys), reversed(prompts), strict=True))
    distinct = list(dict.fromkeys(keys))
    with self._file.user_errors():
      teacher = self._file.id('teachers', writer.identity)
      found = self._look_up(teacher, distinct)
      unknown = [key for key in distinct if key not in found]
      if unknown:
        asker = self._file.id('askers', asked_by)
        self._ask(writer, [first[k] for k in unknown], unknown, teacher, asker)
        found |= self._look_up(teacher, unknown)
    return [found.get(key) for key in keys]

  def spent(self, asked_by: str) -> dict[str, float]:
    """What a stage has asked, over all its attempts, and what that cost.

    Returns:
      `asked` (prompts answered), `prompt_tokens` and `new_tokens` of those,
      `seconds`, and the other counters of its writer.
    """
    with self._file.user_errors():
      asker = self._file.find_id('askers', asked_by)
      if asker is None:
        return {'asked': 0, 'prompt_tokens': 0, 'new_tokens': 0, 'seconds': 0.0}
      numbers = self._file.db.execute(_SPENT, (asker,)).fetchone()
      counters = self._file.usage().get(asker, {})
    names = ('asked', 'prompt_tokens', 'new_tokens')
    exact = {n: int(x) for n, x in zip(names, numbers, strict=True)}
    return {'seconds': 0.0, **counters, **exact}

  def _ask(
    self,
    writer: Writer,
    prompts: list[str],
    keys: list[bytes],
    teacher: int,
    asker: int,
  ) -> None:
    """Asks, and stores the answers as they come."""
    before, since = dict(writer.usage()), time.monotonic()

    def store(positions: np.ndarray, texts: Generated) -> None:
      nonlocal before, since
      rows = [
        (teacher, keys[i], *row, asker)
        for i, row in zip(positions.tolist(), _rows(texts), strict=True)
        if row[0] is not None
      ]
      now, usage = time.monotonic(), dict(writer.usage())
      spent = {k: value - before.get(k, 0) for k, value in usage.items()}
      spent['seconds'] = now - since
      # Ctrl-C between storing and forgetting would count the same again.
      with deferred():
        with self._file.transaction():
          self._file.db.executemany(_INSERT, rows)
          self._file.spend(asker, spent)
        before, since = usage, now

    nothing = np.zeros(0, np.int64), Generated.from_rows([])
    with contextlib.closing(writer.generate(prompts)) as chunks:
      try:
        for positions, texts in chunks:
          if len(positions):
            store(positions, texts)
      finally:  # also on Ctrl-C or when the writer fails: costs are kept
        store(*nothing)

  def _look_up(self, teacher: int, keys: list[bytes]) -> dict[bytes, Answer]:
    """What is stored of some prompts, by their digests."""
    found = {}
    for start in range(0, len(keys), _PROMPTS_A_QUERY):
      some = keys[start : start + _PROMPTS_A_QUERY]
      for key, text, is_cut, *tokens in self._file.db.execute(
        'SELECT prompt, text, is_cut, prompt_tokens, new_tokens FROM answers'
        f' WHERE teacher = ? AND prompt IN ({",".join("?" * len(some))})',
        (teacher, *some),
      ):
        found[key] = Answer(text, bool(is_cut), *tokens)
    return found


def _rows(texts: Generated) -> list[tuple[str | None, bool, int, int]]:
  columns = (texts.text, texts.is_cut, texts.prompt_tokens, texts.new_tokens)
  return list(zip(*(column.tolist() for column in columns), strict=True))


def _digest(prompt: str) -> bytes:
  return hashlib.blake2b(prompt.encode(), digest_size=16).digest()
