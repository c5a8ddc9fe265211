"""Where predictions go: a file that is whole or absent, or standard output.

They gather in OUTPUT.partial-JOB, a plain file that a killed command leaves and
the same command goes on with; JOB is a digest of all that they follow from.
"""

from __future__ import annotations

from collections.abc import Iterator
import csv
import fcntl
import glob
import gzip
import io
import json
import os
import re
import shutil
import tempfile
from typing import IO, Any

from absl import logging

from lmtx_jax.documents import STANDARD
from lmtx_jax.files import StandardOutput, remove, staged
from lmtx_jax.types import UserError

JSONL, CSV, XC = FORMATS = ('jsonl', 'csv', 'xc')
_COLUMNS = ('line', 'uid', 'rank', 'label', 'title', 'score', 'error')


def jsonl_text(rows: list[dict[str, Any]]) -> str:
  """One JSON object a line."""
  return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


def csv_text(first: int, rows: list[dict[str, Any]]) -> str:
  """A line for each label of each document; one at least for each document.

  Args:
    first: input line of the first document.
    rows: predictions, or `{"uid": None, "error"}` of lines without document.
  """
  out = io.StringIO()
  plain = csv.writer(out, lineterminator='\n')
  # The plain one leaves a carriage return bare, which ends a row for readers.
  quoting = csv.writer(out, lineterminator='\n', quoting=csv.QUOTE_NONNUMERIC)
  for number, row in enumerate(rows, first):
    labels = row.get('labels') or [None]
    for rank, label in enumerate(labels, 1):
      cells = (number, row['uid'], *[''] * 4, row.get('error', ''))
      if label:
        cells = (number, row['uid'], rank, *label.values(), '')
      bare = any(isinstance(cell, str) and '\r' in cell for cell in cells)
      (quoting if bare else plain).writerow(cells)
  return out.getvalue()


def xc_text(rows: list[tuple[list[int], list[float]]]) -> str:
  """`label:score label:score` of each document; labels are counted from 0."""
  return ''.join(
    ' '.join(f'{label}:{score:.6f}' for label, score in zip(*row, strict=True))
    + '\n'
    for row in rows
  )


class PredictionFile:
  """Takes text after text; `finish` makes the file appear.

  Attributes:
    answered: input lines that an earlier command has answered.
  """

  def __init__(self, path: str, kind: str, job: str, *, resume: bool):
    """Opens the output.

    Args:
      path: of the file; one that ends in .gz is compressed; or STANDARD.
      kind: one of FORMATS.
      job: hex digest of all that the predictions follow from.
      resume: whether to go on with what such a job left.

    Raises:
      UserError: a folder or a device is there, or another command writes it.
    """
    self._path, self._kind = path, kind
    self.answered = 0
    if path == STANDARD:
      self._partial = ''
      self._file = StandardOutput('--output=-')
      if kind == XC:
        self._file = tempfile.TemporaryFile('w+b')  # noqa: SIM115
    else:
      self._path = os.path.abspath(path)
      if os.path.lexists(path) and not os.path.isfile(path):
        raise UserError(f'--output={path} is there and is no file')
      os.makedirs(os.path.dirname(self._path), exist_ok=True)
      self._partial = f'{self._path}.partial-{job[:8]}'
      self._file = self._open_partial(resume)
    self._is_empty = not self.answered
    if kind == CSV and self._is_empty:
      self._file.write(f'{",".join(_COLUMNS)}\n'.encode())

  def _open_partial(self, resume: bool) -> IO[bytes]:
    for other in glob.glob(f'{glob.escape(self._path)}.partial-*'):
      if not re.fullmatch(r'.*\.partial-[0-9a-f]{8}', other, re.DOTALL):
        continue
      with _locked(other, self._path):
        if other != self._partial or not resume:
          logging.info(
            '%s is of another input, bundle or flags: deleted', other
          )
          os.remove(other)
    file = _locked(self._partial, self._path)
    self.answered, end = _answered(file, self._kind)
    file.seek(end)
    file.truncate()
    if self.answered:
      logging.info('%s: %d lines are answered', self._partial, self.answered)
    return file

  def write(self, text: str) -> None:
    """Adds whole lines, of which a kill then spares all."""
    self._is_empty = False
    self._file.write(text.encode())
    self._file.flush()

  def finish(self, num_documents: int, num_labels: int) -> None:
    """Makes the file appear under its name.

    Args:
      num_documents: input lines.
      num_labels: of the bundle.
    """
    head = f'{num_documents} {num_labels}\n' if self._kind == XC else ''
    if not self._partial:
      if self._kind == XC:
        self._copy(StandardOutput('--output=-'), head)
      return
    os.fsync(self._file.fileno())
    if not head and not self._path.endswith('.gz'):
      os.replace(self._partial, self._path)
      return
    with staged(self._path) as temporary, open(temporary, 'wb') as out:
      if not self._path.endswith('.gz'):
        self._copy(out, head)
      else:  # nothing of time and place in it
        with gzip.GzipFile('', 'wb', fileobj=out, mtime=0) as compressed:
          self._copy(compressed, head)
    os.remove(self._partial)

  def _copy(self, out: Any, head: str) -> None:
    self._file.seek(0)
    out.write(head.encode())
    shutil.copyfileobj(self._file, out)

  def close(self) -> None:
    """Ends it; what is not finished stays, if there is an answer in it."""
    if self._partial and self._is_empty:
      remove(self._partial)
    self._file.close()

  def __enter__(self) -> PredictionFile:
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _locked(path: str, output: str) -> IO[bytes]:
  """A file to read and append to, which no other command holds."""
  file = open(path, 'a+b')  # noqa: SIM115
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    file.close()
    raise UserError(f'another command writes --output={output} now') from e
  return file


def _answered(file: IO[bytes], kind: str) -> tuple[int, int]:
  """Input lines that are answered in whole, and where the last answer ends."""
  file.seek(0)
  if kind == CSV:
    return _answered_csv(file)
  count, end = 0, 0
  for line in file:
    if not line.endswith(b'\n'):
      break
    count += 1
    end += len(line)
  return count, end


def _answered_csv(file: IO[bytes]) -> tuple[int, int]:
  """As `_answered`; of the last document there may be more rows to come."""
  number = start = 0
  rows = _csv_rows(file)
  header = next(rows, None)
  if header is None:
    return 0, 0
  start = at = len(header)
  for row in rows:
    if (found := int(row.partition(b',')[0])) != number:
      number, start = found, at
    at += len(row)
  return max(0, number - 1), start if number > 1 else 0


def _csv_rows(file: IO[bytes]) -> Iterator[bytes]:
  """Whole rows; a line break within quotes does not end one."""
  row, quotes = b'', 0
  for line in file:
    row += line
    quotes += line.count(b'"')
    if line.endswith(b'\n') and quotes % 2 == 0:
      yield row
      row, quotes = b'', 0
