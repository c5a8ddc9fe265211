"""GloVe's text files: a word and its vector on each line."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from typing import NamedTuple
import warnings

from absl import logging
import numpy as np

from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.model.tokenizer import FRAME, word_level
from lmtx_jax.model.word_vectors import WordVectors, WordVectorsConfig
from lmtx_jax.types import UserError

_BLOCK = 1 << 22  # bytes read at a time, to count lines
_LINES = 1024  # lines whose numbers are read at a time


class _Line(NamedTuple):
  """A line: its number from 1, its word, and its numbers as they stand."""

  number: int
  word: str
  values: str


class _Shape(NamedTuple):
  """Of a file: lines without a vector (0 or 1), those with one, its numbers."""

  header: int
  rows: int
  dim: int


def load_word_vectors(file: str, compute_dtype: str = 'float32') -> Pretrained:
  """Reads a text file of word vectors.

  Each line is a word and its numbers, a space between them; a word may hold
  spaces itself (glove.840B). word2vec's first line, 'words numbers', is known.
  Of a word that comes twice the first vector counts. Texts are made small
  letters where no word of the file has a capital one.

  Args:
    file: UTF-8.
    compute_dtype: 'float32' or 'bfloat16', see `WordVectors`.

  Raises:
    UserError: a line that is no word with as many finite numbers as the others
      have; names the file and the line.
  """
  shape = _shape(file)
  table = np.zeros((len(FRAME) + shape.rows, shape.dim), np.float32)
  row_of = {word: i for i, word in enumerate(FRAME.values())}
  lines = _lines(file, shape)
  while block := list(itertools.islice(lines, _LINES)):
    vectors = _vectors(file, block, shape.dim)
    for line, vector in zip(block, vectors, strict=True):
      if line.word not in row_of:
        table[len(row_of)] = vector
        row_of[line.word] = len(row_of)
  table = table[: len(row_of)]
  words = list(row_of)[len(FRAME) :]
  logging.info('%s: %d words of %d numbers', file, len(words), shape.dim)
  return Pretrained(
    WordVectors(WordVectorsConfig(*table.shape), dtype=compute_dtype),
    {'word_vectors': table},
    word_level(words, lowercase=all(word == word.lower() for word in words)),
    {},
  )


def _shape(file: str) -> _Shape:
  """Counts the lines, and the numbers of the first one."""
  lines, last = 0, b'\n'
  with open(file, 'rb') as f:
    fields = f.readline().rstrip().split(b' ')
    f.seek(0)
    while block := f.read(_BLOCK):
      lines += block.count(b'\n')
      last = block[-1:]
  lines += last != b'\n'
  if len(fields) == 2 and all(field.isdigit() for field in fields):
    told, dim = int(fields[0]), int(fields[1])
    if told != lines - 1 or not dim:
      raise UserError(
        f'{file}: line 1 tells of {told} words of {dim} numbers, but'
        f' {lines - 1} lines follow'
      )
    shape = _Shape(1, lines - 1, dim)
  else:
    shape = _Shape(0, lines, len(fields) - 1)
  if not shape.dim or not shape.rows:
    raise UserError(
      f'{file}: line 1 is no word with numbers behind it, a space between them'
      ' (a file is read as word vectors, in the text format of GloVe)'
    )
  return shape


def _lines(file: str, shape: _Shape) -> Iterator[_Line]:
  """The lines with a vector; one that has too few or many fields raises."""
  with open(file, 'rb') as f:
    for number, line in enumerate(f, 1):
      if number <= shape.header:
        continue
      try:
        text = line.rstrip(b' \r\n').decode()
      except UnicodeDecodeError as e:
        raise UserError(f'{file}: line {number} is not UTF-8') from e
      word, _, values = text.partition(' ')
      if values.count(' ') != shape.dim - 1 or not values:
        # The word holds spaces, or the line is broken.
        word, *fields = text.rsplit(' ', shape.dim)
        values = ' '.join(fields)
        surplus = word.rpartition(' ')[2] if ' ' in word else ''
        if len(fields) < shape.dim or _parse(surplus, 1) is not None:
          raise UserError(
            f'{file}: line {number} does not have {shape.dim} numbers behind'
            ' a word, as line 1 has it'
          )
      yield _Line(number, word, values)


def _vectors(file: str, block: list[_Line], dim: int) -> np.ndarray:
  """`[lines, dim]` float32; a number that is none raises."""
  whole = _parse(' '.join(line.values for line in block), len(block) * dim)
  if whole is not None:
    return whole.reshape(len(block), dim)
  number, value = next(
    (line.number, value)
    for line in block
    for value in line.values.split(' ')
    if _parse(value, 1) is None
  )
  raise UserError(f'{file}: line {number}: {value[:40]!r} is no finite number')


def _parse(text: str, count: int) -> np.ndarray | None:
  """`[count]` float32 of a text of numbers; None: it is not that."""
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    try:
      values = np.fromstring(text, np.float32, sep=' ')
    except (ValueError, DeprecationWarning, RuntimeWarning):
      return None
  return values if len(values) == count and np.isfinite(values).all() else None
