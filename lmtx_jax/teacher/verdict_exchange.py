"""Verdicts in and out of a store: JSON lines, and other stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
import gzip
import io
import itertools
import json
import os
import re
from typing import Any, NamedTuple, TextIO

from lmtx_jax.data import reading
from lmtx_jax.files import staged
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.types import INVALID, NO, YES, UserError

ANSWERS = {YES: 'yes', NO: 'no', INVALID: 'invalid'}
_CODES = {name: code for code, name in ANSWERS.items()}
_DIGEST = re.compile('[0-9a-fA-F]{32}')
_ROWS_A_COMMIT = 10_000  # other writers get their turn in between


class Row(NamedTuple):
  """One verdict, whose teacher and asker are named in full.

  Attributes:
    teacher: identity of the teacher.
    document: digest, 16 bytes.
    label: digest, 16 bytes.
    answer: YES, NO or INVALID.
    p_yes: None where invalid.
    asked_by: who asked.
  """

  teacher: str
  document: bytes
  label: bytes
  answer: int
  p_yes: float | None
  asked_by: str


def read_store(file: VerdictFile) -> Iterator[Row]:
  """All verdicts of a store as of now, in the order of the table."""
  with file.user_errors():
    file.db.execute('BEGIN')  # names and verdicts of one moment
    try:
      teachers, askers = file.names('teachers'), file.names('askers')
      for teacher, document, label, answer, p_yes, asker in file.db.execute(
        'SELECT teacher, document, label, answer, p_yes, asked_by FROM verdicts'
      ):
        yield Row(
          teachers[teacher], document, label, answer, p_yes, askers[asker]
        )
    finally:
      file.db.execute('COMMIT')


def add(target: VerdictFile, rows: Iterable[Row]) -> tuple[int, int]:
  """Adds the verdicts that a store lacks; returns how many came, were added."""
  rows = iter(rows)
  num_rows = num_added = 0
  while batch := list(itertools.islice(rows, _ROWS_A_COMMIT)):
    with target.user_errors(), target.transaction():
      teachers = {name: target.id('teachers', name) for name, *_ in batch}
      askers = {
        row.asked_by: target.id('askers', row.asked_by) for row in batch
      }
      num_added += target.add(
        (teachers[teacher], *values, askers[asked_by])
        for teacher, *values, asked_by in batch
      )
    num_rows += len(batch)
  return num_rows, num_added


def merge(target: VerdictFile, other: VerdictFile) -> tuple[int, int]:
  """Adds what another store knows, its usage included, see `add`."""
  counts = add(target, read_store(other))
  with other.user_errors():
    usage, askers = other.usage(), other.names('askers')
  with target.user_errors(), target.transaction():
    target.add_usage(
      (target.id('askers', askers[asker]), name, value)
      for asker, counters in usage.items()
      for name, value in counters.items()
    )
  return counts


def export(file: VerdictFile, path: str) -> int:
  """Writes all verdicts as JSON lines, gz if the name ends so; their number."""
  teachers: dict[str, str] = {}
  askers: dict[str, str] = {}
  count = 0
  with staged(os.path.abspath(path)) as temporary, _writer(temporary) as f:
    for row in read_store(file):
      if row.teacher not in teachers:
        teachers[row.teacher] = _teacher_json(row.teacher)
      if row.asked_by not in askers:
        askers[row.asked_by] = json.dumps(row.asked_by)
      p_yes = 'null' if row.p_yes is None else repr(row.p_yes)
      f.write(
        f'{{"teacher": {teachers[row.teacher]}, '
        f'"document": "{row.document.hex()}", "label": "{row.label.hex()}", '
        f'"answer": "{ANSWERS[row.answer]}", "p_yes": {p_yes}, '
        f'"asked_by": {askers[row.asked_by]}}}\n'
      )
      count += 1
  return count


def read_lines(path: str) -> Iterator[Row]:
  """The verdicts of JSON lines as `export` writes them.

  Raises:
    UserError: a line is none, with its place.
  """
  for place, line in reading.lines(path, 'verdicts', may_be_empty=True):
    yield _row(place, reading.parse_object(place, line))


def _row(place: str, item: dict[str, Any]) -> Row:
  def wrong(key: str, what: str) -> UserError:
    if key not in item:
      return UserError(f'{place}: lacks {key}')
    return UserError(f'{place}: {key} {what}: {reading.shown(item[key])}')

  teacher, answer, p_yes = map(item.get, ('teacher', 'answer', 'p_yes'))
  if isinstance(teacher, dict) and teacher:
    teacher = json.dumps(teacher, sort_keys=True)
  elif not isinstance(teacher, str) or not teacher:
    raise wrong('teacher', 'is not a JSON object')
  for key in ('document', 'label'):
    if not isinstance(item.get(key), str) or not _DIGEST.fullmatch(item[key]):
      raise wrong(key, 'is not a digest of 32 hexadecimal digits')
  if not isinstance(answer, str) or answer not in _CODES:
    raise wrong('answer', 'is not yes, no or invalid')
  if p_yes is not None and (
    not isinstance(p_yes, int | float)
    or isinstance(p_yes, bool)
    or not 0 <= p_yes <= 1
  ):
    raise wrong('p_yes', 'is not a number from 0 to 1, nor null')
  if (p_yes is None) != (answer == 'invalid'):
    raise wrong('p_yes', 'must be null if and only if the answer is invalid')
  if not isinstance(item.get('asked_by'), str) or not item['asked_by']:
    raise wrong('asked_by', 'is not a name')
  return Row(
    teacher,
    bytes.fromhex(item['document']),
    bytes.fromhex(item['label']),
    _CODES[answer],
    p_yes,
    item['asked_by'],
  )


def _teacher_json(identity: str) -> str:
  """An identity as JSON that leads back to it: an object, if it is one."""
  try:
    if json.dumps(json.loads(identity), sort_keys=True) == identity:
      return identity
  except ValueError:
    pass
  return json.dumps(identity)


@contextlib.contextmanager
def _writer(path: str) -> Iterator[TextIO]:
  if not path.endswith('.gz'):
    with open(path, 'w', encoding='utf-8') as f:
      yield f
    return
  # No name and no time in it: the same verdicts are the same bytes.
  with (
    open(path, 'wb') as raw,
    gzip.GzipFile('', 'wb', 6, raw, mtime=0) as packed,
    io.TextIOWrapper(packed, encoding='utf-8') as f,
  ):
    yield f
