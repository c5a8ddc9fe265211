"""The label set in a bundle: uid and title a line, read when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import json
from typing import NamedTuple

import numpy as np

from lmtx_jax.data.corpus import Corpus
from lmtx_jax.types import Record, UserError

_BLOCK = 4096  # records read at a time
_CHUNK = 2**24  # bytes looked through at a time


class Label(NamedTuple):
  """What a prediction tells of a label."""

  uid: str
  title: str


def write_labels(path: str, labels: Corpus) -> None:
  """Writes `{"uid", "title"}` of each label, one a line, in their order."""
  write_rows(path, (Label(r.uid, r.title) for r in _all_records(labels)))


def write_rows(path: str, labels: Iterable[Label]) -> None:
  """Writes labels that are at hand, one a line."""
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(label_line(label) for label in labels)


def label_line(label: Label) -> str:
  """`{"uid", "title"}` and a line break."""
  return json.dumps(label._asdict(), ensure_ascii=False) + '\n'


def _all_records(corpus: Corpus) -> Iterator[Record]:
  for start in range(0, len(corpus), _BLOCK):
    yield from corpus.records(range(start, min(start + _BLOCK, len(corpus))))


class LabelFile:
  """What `write_labels` wrote: eight bytes of memory a label, no objects."""

  def __init__(self, path: str, num_labels: int):
    """Finds the lines; what stands in one is looked at when it is read.

    Args:
      path: of the file.
      num_labels: lines that it must have.

    Raises:
      UserError: it has more or fewer, or the last one is cut short.
    """
    self._path = path
    self._ends = _line_ends(path)
    if len(self._ends) != num_labels:
      raise UserError(f'{path} has {len(self._ends)} labels, not {num_labels}')
    self._bytes = np.memmap(path, np.uint8, mode='r')
    if num_labels:
      self._read(num_labels - 1)

  def __len__(self) -> int:
    return len(self._ends)

  def __iter__(self) -> Iterator[Label]:
    for index in range(len(self)):
      yield self._read(index)

  def get(self, indices: Sequence[int]) -> list[Label]:
    """Labels, in the order of `indices`.

    Raises:
      UserError: a line that is no label, by its number.
    """
    return [self._read(int(index)) for index in indices]

  def _read(self, index: int) -> Label:
    start = self._ends[index - 1] if index else 0
    try:
      row = json.loads(bytes(self._bytes[start : self._ends[index]]))
      label = Label(row['uid'], row['title'])
      if not all(isinstance(text, str) for text in label):
        raise TypeError('uid and title must be strings')
    except (ValueError, KeyError, TypeError) as e:
      raise UserError(f'{self._path}:{index + 1}: not a label: {e}') from e
    return label


def _line_ends(path: str) -> np.ndarray:
  """`[num_lines]` int64, where each line ends, its line break included."""
  ends, size, last = [], 0, b'\n'
  with open(path, 'rb') as f:
    while chunk := f.read(_CHUNK):
      breaks = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord('\n'))
      ends.append(size + breaks + 1)
      size += len(chunk)
      last = chunk[-1:]
  if last != b'\n':
    ends.append(np.array([size]))
  return np.concatenate(ends or [np.zeros(0)]).astype(np.int64)
