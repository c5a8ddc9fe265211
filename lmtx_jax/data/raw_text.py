"""Layouts with a label map: a file with the text of one label a line.

EURLex-4K, Wiki10-31K and AmazonCat-13K are handed round like this, under the
file names of AttentionXML, X-Transformer and LightXML (`train_raw_texts.txt`),
of XR-Transformer (`X.trn.txt`), or of the extreme-classification repository
(`trn.json` with `Yf.txt` for `lbl.json`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import itertools
import os
import zipfile

import scipy.sparse

from lmtx_jax.data import reading
from lmtx_jax.types import Record, UserError

_TEXTS = {
  reading.TRAIN: ('train_raw_texts.txt', 'train_texts.txt', 'X.trn.txt'),
  reading.TEST: ('test_raw_texts.txt', 'test_texts.txt', 'X.tst.txt'),
}
_TARGETS = {
  reading.TRAIN: ('train_labels.txt', 'Y.trn.npz'),
  reading.TEST: ('test_labels.txt', 'Y.tst.npz'),
}
_LABEL_MAPS = ('output-items.txt', 'label_map.txt', 'Yf.txt')
_TITLE_END = '/SEP/'  # AttentionXML's mark between title and body


class LabelMapFolder(reading.DataFolder):
  """A data folder with a label map in the place of `lbl.json`."""

  def __init__(self, folder: str):
    super().__init__(folder, labels=_find_one(folder, _LABEL_MAPS))

  def records(self, split: str) -> Iterator[tuple[Record, Sequence[int]]]:
    """One record a line; the uid of a label is its index."""
    if split != reading.LABEL:
      yield from super().records(split)
      return
    for i, text in enumerate(_label_texts(self.files[reading.LABEL])):
      yield Record(str(i), text, ''), ()


class RawText:
  """One document a line, its labels in a second file.

  A line of labels holds, separated by spaces, either indices into the label
  map or the labels themselves with `_` for a space: whichever explains more
  of the words of both files. Without a label map the labels
  themselves are the label set, in alphabetical order.

  Each different label is held as a Python object: these are the layouts of
  small sets, of some ten thousand labels; millions come as `lbl.json`.
  """

  def __init__(self, folder: str):
    self._folder = folder
    self._texts = {s: _find_one(folder, names) for s, names in _TEXTS.items()}
    self._targets = {
      s: _find_one(folder, names) for s, names in _TARGETS.items()
    }
    self._label_map = _find_one(folder, _LABEL_MAPS, required=False)

  @staticmethod
  def is_in(folder: str) -> bool:
    """Whether the folder has this layout."""
    return bool(_find_one(folder, _TEXTS[reading.TRAIN], required=False))

  def digest(self) -> str:
    """Hex digest of the files' bytes."""
    files = [*self._texts.values(), *self._targets.values(), self._label_map]
    return reading.digest_of_files([file for file in files if file])

  def records(self, split: str) -> Iterator[tuple[Record, Sequence[int]]]:
    """One record a line; its uid is the number of the line, from 0."""
    if split == reading.LABEL:
      for i, text in enumerate(self._labels):
        yield Record(str(i), text, ''), ()
      return
    texts, targets = self._texts[split], self._targets[split]
    for row, (line, labels) in enumerate(
      itertools.zip_longest(reading.lines(texts, split), self._rows(split))
    ):
      if line is None or labels is None:
        short, long = (texts, targets) if line is None else (targets, texts)
        raise UserError(f'{short}:{row + 1}: missing, {long} goes on')
      title, mark, content = line[1].partition(_TITLE_END)
      if not mark:
        title, content = '', title
      yield Record(str(row), title.strip(), content.strip()), labels

  def filters(self, split: str) -> Iterator[tuple[str, int, int]]:
    """The layout has none."""
    return iter(())

  def place(self, split: str, row: int) -> str:
    """FILE:LINE of the labels, the first line being 1."""
    if split == reading.LABEL:
      return f'{self._label_map}:{row + 1}'
    return f'{self._targets[split]}:{row + 1}'

  @functools.cached_property
  def _labels(self) -> list[str]:
    """Text of each label."""
    if self._label_map:
      return list(_label_texts(self._label_map))
    words = self._words
    if all(word.isdecimal() for word in words):
      raise UserError(
        f'{self._folder}: the labels are numbers, which needs a file with the '
        f'text of one label a line: {" or ".join(_LABEL_MAPS)}'
      )
    return [_readable(word) for word in sorted(words)]

  @functools.cached_property
  def _words(self) -> set[str]:
    """All different words of the label files."""
    return {
      word
      for split, file in self._targets.items()
      if not file.endswith('.npz')
      for _, line in reading.lines(file, f'{split} labels')
      for word in line.split()
    }

  @functools.cached_property
  def _index(self) -> dict[str, int]:
    """Label of each word of the label files."""
    words = self._words
    if not self._label_map:
      return {word: i for i, word in enumerate(sorted(words))}
    texts = {text: i for i, text in enumerate(self._labels)}
    as_indices = {
      word: int(word)
      for word in words
      if word.isdecimal() and int(word) < len(self._labels)
    }
    as_texts = {
      word: texts[text] for word in words if (text := _readable(word)) in texts
    }
    return max(as_indices, as_texts, key=len)

  def _rows(self, split: str) -> Iterator[list[int]]:
    """The labels of each document."""
    file = self._targets[split]
    if file.endswith('.npz'):
      yield from _rows_of_matrix(file)
      return
    for place, line in reading.lines(file, f'{split} labels'):
      words = line.split()
      for word in words:
        if word not in self._index:
          raise UserError(
            f'{place}: label {reading.shown(word)} is neither an index nor a '
            f'line of {self._label_map}'
          )
      yield [self._index[word] for word in words]


def _find_one(folder: str, names: Sequence[str], required: bool = True) -> str:
  """Path of the first of the files that is there; '' if optional."""
  for name in names:
    if path := reading.find(folder, name, required=False):
      return path
  if required:
    path = os.path.join(folder, names[0])
    raise UserError(f'{path}: no such file (nor {", ".join(names[1:])})')
  return ''


def _label_texts(path: str) -> Iterator[str]:
  return (_readable(line) for _, line in reading.lines(path, 'labels'))


def _readable(label: str) -> str:
  """Undoes the `_` that stands for a space in a label made one word."""
  label = label.strip()
  return label if ' ' in label else label.replace('_', ' ').strip()


def _rows_of_matrix(file: str) -> Iterator[list[int]]:
  """Column indices of each row of a scipy.sparse file (no pickle)."""
  try:
    matrix = scipy.sparse.load_npz(file).tocsr()
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
    raise UserError(f'{file}: not a scipy.sparse matrix: {e}') from e
  for start, end in itertools.pairwise(matrix.indptr):
    yield matrix.indices[start:end].tolist()
