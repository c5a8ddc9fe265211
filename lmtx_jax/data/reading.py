"""Reads a data folder, line by line; a mistake in it is named by its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import gzip
import hashlib
import json
import os
from typing import Protocol
import zlib

import tqdm

from lmtx_jax.types import Record, UserError

LABEL, TRAIN, TEST = SPLITS = ('label', 'train', 'test')


class Source(Protocol):
  """What a dataset is converted from, read once from first to last."""

  def digest(self) -> str:
    """Hex digest of all that the records are made of."""

  def records(self, split: str) -> Iterator[tuple[Record, Sequence[int]]]:
    """The records of 'label', 'train' or 'test', and their true labels."""

  def filters(self, split: str) -> Iterator[tuple[str, int, int]]:
    """Place, document and label of each pair that must never be predicted."""

  def place(self, split: str, row: int) -> str:
    """Where a record was read (FILE:LINE), for an error message."""


class DataFolder:
  """The layout of the extreme-classification repository.

  `trn.json`, `tst.json`, `lbl.json`, and if there are any
  `filter_labels_train.txt`, `filter_labels_test.txt`; plain or `.gz`.
  """

  def __init__(self, folder: str, labels: str = ''):
    """`labels` is the path of the label file, where it is not `lbl.json`."""
    self.files = {
      LABEL: labels or find(folder, 'lbl.json'),
      TRAIN: find(folder, 'trn.json'),
      TEST: find(folder, 'tst.json'),
    }
    self._filters = {
      split: find(folder, f'filter_labels_{split}.txt', required=False)
      for split in (TRAIN, TEST)
    }

  def digest(self) -> str:
    """Hex digest of the files' bytes."""
    files = [*self.files.values(), *self._filters.values()]
    return digest_of_files([file for file in files if file])

  def records(self, split: str) -> Iterator[tuple[Record, Sequence[int]]]:
    """One record a line; a label has no `target_ind`."""
    for place, line in lines(self.files[split], split):
      item = parse_object(place, line)
      targets = [] if split == LABEL else _targets(place, item)
      yield record(place, item), targets

  def filters(self, split: str) -> Iterator[tuple[str, int, int]]:
    """Pairs `document_index label_index`, one a line."""
    file = self._filters.get(split)
    if not file:
      return
    for place, line in lines(file, f'{split} filters', may_be_empty=True):
      words = line.split()
      if len(words) != 2 or not all(word.isdecimal() for word in words):
        raise UserError(
          f'{place}: expected "document_index label_index", got {shown(line)}'
        )
      yield place, int(words[0]), int(words[1])

  def place(self, split: str, row: int) -> str:
    """FILE:LINE, the first line being 1."""
    return f'{self.files[split]}:{row + 1}'


def find(folder: str, name: str, required: bool = True) -> str:
  """Path of `name` or `name.gz` in a folder; '' if optional and absent."""
  paths = [os.path.join(folder, name + end) for end in ('', '.gz')]
  found = [path for path in paths if os.path.exists(path)]
  if len(found) > 1:
    raise UserError(f'{folder}: both {name} and {name}.gz are there; keep one')
  if not found and required:
    raise UserError(f'{paths[0]}: no such file (nor {name}.gz)')
  return found[0] if found else ''


def lines(
  path: str, what: str, may_be_empty: bool = False
) -> Iterator[tuple[str, str]]:
  """Lines of a UTF-8 file, plain or gz, with a progress bar in bytes.

  Args:
    path: the file; a name that ends in `.gz` is decompressed.
    what: what is being read, for the progress bar.
    may_be_empty: whether a file without any line is right.

  Yields:
    `FILE:LINE` (first line 1, of the decompressed file) and the line without
    its end.
  """
  number = 0
  bar = tqdm.tqdm(
    desc=f'reading {what}',
    total=os.path.getsize(path),
    unit='B',
    unit_scale=True,
    mininterval=0.5,
  )
  with bar, open(path, 'rb') as raw:
    stream = gzip.GzipFile(fileobj=raw) if path.endswith('.gz') else raw
    try:
      for number, line in enumerate(stream, start=1):
        bar.update(raw.tell() - bar.n)
        yield f'{path}:{number}', decoded(f'{path}:{number}', line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
      raise UserError(
        f'{path}:{number + 1}: the gzip file is cut short or damaged ({e})'
      ) from e
  if not number and not may_be_empty:
    raise UserError(f'{path}: is empty')


def decoded(place: str, line: bytes) -> str:
  """UTF-8 text without its line end, or a UserError naming the place."""
  try:
    return line.rstrip(b'\r\n').decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise UserError(
      f'{place}: not UTF-8 (byte {e.start + 1}: {e.reason})'
    ) from e


def parse_object(place: str, text: str) -> dict:
  """A JSON object, or a UserError that names the place."""
  try:
    item = json.loads(text)
  except (ValueError, RecursionError) as e:
    reason = 'an empty line' if not text.strip() else str(e)
    raise UserError(f'{place}: not JSON: {reason}') from e
  if not isinstance(item, dict):
    raise UserError(f'{place}: not a JSON object: {shown(text)}')
  return item


def digest_of_files(paths: Sequence[str]) -> str:
  """Hex digest of the names and the bytes of files, in the order given."""
  digest = hashlib.sha256()
  for path in paths:
    with open(path, 'rb') as f:
      content = hashlib.file_digest(f, 'sha256').hexdigest()
    digest.update(f'{os.path.basename(path)}\0{content}\n'.encode())
  return digest.hexdigest()


def shown(value, width: int = 40) -> str:
  """A value as an error message shows it."""
  text = repr(value)
  return text if len(text) <= width else text[:width] + '...'


def record(place: str, item: dict, uid: str | None = None) -> Record:
  """A document or label, or a UserError that names the place.

  Args:
    place: `FILE:LINE`.
    item: a JSON object.
    uid: what to call a record that has no uid; None makes that an error.
  """
  uid = item.get('uid', uid)
  if uid is None or uid == '':
    raise UserError(f'{place}: lacks uid')
  if isinstance(uid, bool) or not isinstance(uid, str | int):
    raise UserError(f'{place}: uid is not a string: {shown(uid)}')
  texts = []
  for key in ('title', 'content'):
    text = item.get(key)
    if text is not None and not isinstance(text, str):
      raise UserError(f'{place}: {key} is not a string: {shown(text)}')
    texts.append(text or '')
  return Record(str(uid), *texts)


def well_formed(text: str) -> str:
  """Replaces halves of surrogate pairs, which JSON can hold and UTF-8 not."""
  if text.isascii():
    return text
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _targets(place: str, item: dict) -> list[int]:
  targets = item.get('target_ind')
  if targets is None:
    return []
  if not isinstance(targets, list) or any(type(t) is not int for t in targets):
    raise UserError(
      f'{place}: target_ind is not a list of integers: {shown(targets)}'
    )
  return targets
