"""Reads an SQLite file page by page, for files that SQLite gives up on.

Follows sqlite.org/fileformat2.html. No tree is walked: every page that looks
like one with entries is read, and what cannot be read is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import functools
import os
import struct
from typing import Any, BinaryIO

_MAGIC = b'SQLite format 3\0'
_DEFAULT_PAGE_SIZE = 4096
_INNER_INDEX, _LEAF_INDEX, _LEAF_TABLE = 2, 10, 13  # kinds of pages
_WAL_HEADER, _FRAME_HEADER = 32, 24
_INT_SIZES = (0, 1, 2, 3, 4, 6, 8)  # bytes, by serial type

Entry = tuple[Any, ...]


class Pages:
  """The pages of a file and of its write-ahead log.

  Attributes:
    path: of the file.
    has_header: whether the header is still there; the next two are of it.
    application_id: whose file it is.
    user_version: which version of its schema.
  """

  def __init__(self, file: BinaryIO):
    """Reads the header, if there is one left, of a file that stays open."""
    self.path, self._file = file.name, file
    header = os.pread(file.fileno(), 100, 0).ljust(100, b'\0')
    self.has_header = header.startswith(_MAGIC)
    self.user_version, self.application_id = struct.unpack(
      '>I4xI', header[60:72]
    )
    size = struct.unpack('>H', header[16:18])[0]
    size = 65536 if size == 1 else size
    if not self.has_header or size < 512 or size & (size - 1):
      size, header = _DEFAULT_PAGE_SIZE, bytes(100)
    self._size, self._usable = size, size - header[20]

  def entries(self) -> Iterator[Entry]:
    """The values of each readable entry, in the order of the pages.

    An entry of a table with an INTEGER PRIMARY KEY as first column has it.
    Entries may come twice: from an index, or from an old copy of a page.
    """
    for page in self._images():
      kind = page[0] if page else 0
      if kind not in (_INNER_INDEX, _LEAF_INDEX, _LEAF_TABLE):
        continue
      start = 12 if kind == _INNER_INDEX else 8
      count = int.from_bytes(page[3:5])
      for place in range(start, min(start + 2 * count, len(page) - 1), 2):
        offset = int.from_bytes(page[place : place + 2])
        with contextlib.suppress(ValueError, IndexError, OverflowError):
          yield self._entry(page, kind, offset)

  def _images(self) -> Iterator[bytes]:
    """All pages but the first, and their versions in the log."""
    number = 2
    while page := self._stored(number):
      yield page
      number += 1
    with contextlib.suppress(FileNotFoundError), open(self._wal, 'rb') as f:
      f.seek(_WAL_HEADER)
      while frame := f.read(_FRAME_HEADER + self._size):
        yield frame[_FRAME_HEADER:]

  @property
  def _wal(self) -> str:
    return f'{self.path}-wal'

  def _entry(self, page: bytes, kind: int, offset: int) -> Entry:
    """One entry; raises ValueError or IndexError if it makes no sense."""
    row_id = None
    if kind == _INNER_INDEX:
      offset += 4  # the child page
    size, offset = _varint(page, offset)
    if kind == _LEAF_TABLE:
      row_id, offset = _varint(page, offset)
    values = _values(self._payload(page, kind, offset, size))
    if row_id is not None and values[0] is None:
      values[0] = row_id
    return tuple(values)

  def _payload(self, page: bytes, kind: int, offset: int, size: int) -> bytes:
    """The bytes of an entry, the rest of a long one from further pages."""
    usable = self._usable
    fits = (usable - 12) * 64 // 255 - 23
    if kind == _LEAF_TABLE:
      fits = usable - 35
    if size <= fits:
      return page[offset : offset + size]
    least = (usable - 12) * 32 // 255 - 23
    here = least + (size - least) % (usable - 4)
    if here > fits:
      here = least
    payload = page[offset : offset + here]
    number = int.from_bytes(page[offset + here : offset + here + 4])
    while number and len(payload) < size:
      more = self._page(number)
      if len(more) < usable:
        raise ValueError('a page is missing')
      payload += more[4:usable]
      number = int.from_bytes(more[:4])
    return payload[:size]

  def _page(self, number: int) -> bytes:
    """The latest version of a page, 1 being the first; b'' if there is none."""
    if number not in self._frames:
      return self._stored(number)
    with open(self._wal, 'rb') as f:
      f.seek(self._frames[number])
      return f.read(self._size)

  def _stored(self, number: int) -> bytes:
    """A page as it is in the file."""
    place = (number - 1) * self._size
    return os.pread(self._file.fileno(), self._size, place)

  @functools.cached_property
  def _frames(self) -> dict[int, int]:
    """Where in the log the last version of each page begins."""
    if not os.path.exists(self._wal):
      return {}
    frames = {}
    with open(self._wal, 'rb') as f:
      f.seek(_WAL_HEADER)
      while len(header := f.read(_FRAME_HEADER)) == _FRAME_HEADER:
        frames[int.from_bytes(header[:4])] = f.tell()
        f.seek(self._size, os.SEEK_CUR)
    return frames


def _varint(data: bytes, offset: int) -> tuple[int, int]:
  """A number of 1 to 9 bytes, and where it ends."""
  value = 0
  for i in range(8):
    byte = data[offset + i]
    value = value << 7 | byte & 0x7F
    if byte < 0x80:
      return value, offset + i + 1
  return value << 8 | data[offset + 8], offset + 9


def _values(record: bytes) -> list[Any]:
  """The columns of an entry."""
  end, offset = _varint(record, 0)
  place, values = end, []
  while offset < end:
    serial, offset = _varint(record, offset)
    size = _INT_SIZES[serial] if serial < 7 else max(0, serial - 12) // 2
    if serial == 7:
      size = 8
    part = record[place : place + size]
    if len(part) < size:
      raise ValueError('the entry is cut off')
    place += size
    values.append(_value(serial, part))
  return values


def _value(serial: int, part: bytes) -> Any:
  if serial == 0:
    return None
  if serial < 7:
    return int.from_bytes(part, signed=True)
  if serial == 7:
    return struct.unpack('>d', part)[0]
  if serial in (8, 9):
    return serial - 8
  if serial < 12:
    raise ValueError('a kind of value that does not exist')
  return part.decode() if serial % 2 else part
