"""Lines of JSON from a file or a pipe, in blocks that are made ahead of use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import gzip
import math
import os
import queue
import threading
from typing import BinaryIO, Generic, TypeVar
import zlib

from lmtx_jax.data.reading import (
  decoded,
  parse_object,
  record,
  shown,
  well_formed,
)
from lmtx_jax.types import Record, UserError

STANDARD = '-'  # instead of a path: standard input or output
_T = TypeVar('_T')
_POLL_S = 0.2  # how soon a thread that waits sees that nobody reads any more


@dataclasses.dataclass(frozen=True)
class Block(Generic[_T]):
  """Some input lines that follow each other.

  Attributes:
    first: number of the first line, from 1.
    uids: of the document in each line, None where there is none.
    errors: why there is none, in their order.
    inputs: what was made of the documents, without the lines that are none.
    read: share of the input's bytes that were read, NaN of a pipe.
  """

  first: int
  uids: list[str | None]
  errors: list[str]
  inputs: _T
  read: float


def check_input(path: str) -> None:
  """Raises UserError where there is no such input."""
  if path != STANDARD and not os.path.isfile(path):
    why = 'is a folder' if os.path.isdir(path) else 'no such file'
    raise UserError(f'--input={path}: {why}')


def read_documents(path: str) -> Iterator[Record]:
  """Streams documents; one without a uid is named by its line number.

  Raises:
    UserError: a line that is no JSON object of texts, as FILE:LINE.
  """
  for number, (line, _) in enumerate(_lines(path), 1):
    yield _document(_place(path, number), line, number)


def decoded_lines(path: str) -> Iterator[tuple[str, str]]:
  """`FILE:LINE` and the text of each line.

  Raises:
    UserError: no such file, an empty one, or a line that is not UTF-8.
  """
  check_input(path)
  for number, (line, _) in enumerate(_lines(path), 1):
    place = _place(path, number)
    yield place, decoded(place, line)


def read_blocks(
  path: str,
  prepare: Callable[[list[Record]], _T],
  *,
  answered: int = 0,
  skip_errors: bool = False,
  max_documents: int = 4096,
  max_characters: int = 2**25,
) -> Iterator[Block[_T]]:
  """Streams documents in blocks of bounded memory.

  Which lines are a block does not depend on how many are answered, so that what
  is computed for a line does not either, to the last digit.

  Args:
    path: JSON lines, plain or .gz, or STANDARD.
    prepare: what makes of documents all that is needed of them, for their
      texts are not kept.
    answered: lines at the beginning whose blocks are left out, but for the
      block that holds the first line after them.
    skip_errors: a line that is no document is noted, and does not end it.
    max_documents: lines of a block at most.
    max_characters: after so many no more lines are added.

  Raises:
    UserError: a line that is no document, after a block of those before it;
      fewer lines than are answered.
  """
  lines, size, number = [], 0, 0
  for line, read in _lines(path):
    number += 1
    lines.append(line)
    size += len(line)
    if len(lines) == max_documents or size >= max_characters:
      if number > answered:
        first = number - len(lines) + 1
        yield from _parsed(path, first, lines, prepare, skip_errors, read)
      lines, size = [], 0
  if number < answered:
    raise UserError(f'{path} has {number} lines, but {answered} were answered')
  if lines and number > answered:
    first = number - len(lines) + 1
    yield from _parsed(path, first, lines, prepare, skip_errors, 1.0)


def _parsed(
  path: str,
  first: int,
  lines: list[bytes],
  prepare: Callable[[list[Record]], _T],
  skip_errors: bool,
  read: float,
) -> Iterator[Block[_T]]:
  """The block of these lines; see `read_blocks`."""
  records, uids, errors = [], [], []
  failure = None
  for number, line in enumerate(lines, first):
    try:
      document = _document(_place(path, number), line, number)
    except UserError as e:
      if not skip_errors:
        failure = e
        break
      errors.append(str(e))
      uids.append(None)
    else:
      records.append(document)
      uids.append(document.uid)
  if uids:
    inputs = prepare(records)
    # The texts are not held while the block waits for its turn.
    lines.clear()
    records.clear()
    yield Block(first, uids, errors, inputs, read)
  if failure:
    raise failure


def ahead(items: Iterator[_T], depth: int) -> Iterator[_T]:
  """The same items, up to `depth` of them made by a thread before their turn.

  The thread ends when the items do, or soon after nobody wants them; one that
  waits for a pipe does not keep the process.
  """
  ready: queue.Queue = queue.Queue(depth)
  unwanted = threading.Event()

  def hand_over(item: object) -> bool:
    while not unwanted.is_set():
      with contextlib.suppress(queue.Full):
        ready.put(item, timeout=_POLL_S)
        return True
    return False

  def work() -> None:
    try:
      for item in items:
        if not hand_over((item, None)):
          return
      hand_over((None, StopIteration()))
    except BaseException as e:  # raised where it is waited for
      hand_over((None, e))

  threading.Thread(target=work, daemon=True, name='ahead').start()
  try:
    while True:
      item, error = ready.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    unwanted.set()


def _document(place: str, line: bytes, number: int) -> Record:
  item = parse_object(place, decoded(place, line))
  if not item.keys() & {'title', 'content'}:
    others = sorted(item.keys() - {'uid'})
    but = f', but {shown(others)}' if others else ''
    raise UserError(f'{place}: has neither title nor content{but}')
  return Record(*map(well_formed, record(place, item, uid=str(number))))


def _place(path: str, number: int) -> str:
  return f'{_name(path)}:{number}'


def _name(path: str) -> str:
  return 'standard input' if path == STANDARD else path


def _lines(path: str) -> Iterator[tuple[bytes, float]]:
  """Each line, and the share of the bytes that were read with it."""
  number, size = 0, math.nan
  with _opened(path) as raw:
    if path != STANDARD:
      size = os.path.getsize(path)
    stream = gzip.GzipFile(fileobj=raw) if path.endswith('.gz') else raw
    try:
      for line in stream:
        number += 1
        yield line, size if math.isnan(size) else raw.tell() / size
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
      raise UserError(
        f'{path}:{number + 1}: the gzip file is cut short or damaged ({e})'
      ) from e
  if not number:
    raise UserError(f'{_name(path)}: is empty')


def _opened(path: str) -> BinaryIO:
  if path != STANDARD:
    return open(path, 'rb')
  # Not sys.stdin, which a thread that waits for it would keep locked.
  return open(0, 'rb', closefd=False)
