"""EURLEX57K as its owners distribute it: a JSON file a document.

`train/*.json` and `test/*.json` (in the folder or in its `dataset/`), with
the fields celex_id, title, header, recitals, main_body, attachments and
concepts, and the thesaurus `EURLEX57K.json` (`eurovoc_en.json`): concept id ->
{"label", "alt_labels"}. Chalkidis et al., ACL 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import itertools
import os

from absl import logging
import tqdm

from lmtx_jax.data import reading
from lmtx_jax.types import Record, UserError

_THESAURI = ('EURLEX57K.json', 'eurovoc_en.json')
_FOLDERS = {reading.TRAIN: 'train', 'dev': 'dev', reading.TEST: 'test'}
_PARTS = ('header', 'recitals', 'main_body', 'attachments')


class Eurlex57k:
  """A `reading.Source` of the files.

  The label set is every concept of the thesaurus that any document (of `dev`
  too, which is used for nothing else) is tagged with.
  """

  def __init__(self, folder: str):
    root = os.path.join(folder, 'dataset')
    if not os.path.isdir(root):
      root = folder
    self._files = {
      split: _json_files(os.path.join(root, name))
      for split, name in _FOLDERS.items()
    }
    for split in (reading.TRAIN, reading.TEST):
      if not self._files[split]:
        path = os.path.join(root, _FOLDERS[split])
        raise UserError(f'{path}: no documents (*.json)')
    places = itertools.product((folder, root), _THESAURI)
    paths = [os.path.join(*place) for place in places]
    self._thesaurus = next((p for p in paths if os.path.exists(p)), '')
    if not self._thesaurus:
      raise UserError(f'{paths[0]}: no such file (nor {_THESAURI[1]})')

  @staticmethod
  def is_in(folder: str) -> bool:
    """Whether the folder has this layout."""
    return any(
      _json_files(os.path.join(folder, inner, 'train'))
      for inner in ('dataset', '')
    )

  def digest(self) -> str:
    """Hex digest of the files' bytes."""
    files = itertools.chain([self._thesaurus], *self._files.values())
    return reading.digest_of_files(list(files))

  def records(self, split: str) -> Iterator[tuple[Record, Sequence[int]]]:
    """Documents in the order of their file names, labels as in the file."""
    if split == reading.LABEL:
      yield from ((record, ()) for record in self._labels)
      return
    index = {record.uid: i for i, record in enumerate(self._labels)}
    for file, item in self._items(split):
      uid = item.get('celex_id')
      if not isinstance(uid, str) or not uid:
        raise UserError(f'{file}: lacks celex_id')
      content = '\n'.join(_text(file, item, part) for part in _PARTS)
      targets = [index[name] for name in _concepts(file, item) if name in index]
      yield Record(uid, _text(file, item, 'title'), content.strip()), targets

  def filters(self, split: str) -> Iterator[tuple[str, int, int]]:
    """The set has none."""
    return iter(())

  def place(self, split: str, row: int) -> str:
    """The document's file, or the concept in the thesaurus."""
    if split == reading.LABEL:
      return f'{self._thesaurus}: concept {self._labels[row].uid}'
    return self._files[split][row]

  @functools.cached_property
  def _labels(self) -> list[Record]:
    used = {
      name
      for split in self._files
      for file, item in self._items(split)
      for name in _concepts(file, item)
    }
    labels = []
    for uid, concept in _parsed(self._thesaurus).items():
      if uid in used and isinstance(concept, dict):
        title = _text(self._thesaurus, concept, 'label')
        others = _text(self._thesaurus, concept, 'alt_labels', ', ')
        labels.append(Record(uid, title, others))
    if len(labels) < len(used):
      logging.warning(
        '%d of the %d concepts are left out: %s does not name them',
        len(used) - len(labels),
        len(used),
        self._thesaurus,
      )
    return labels

  def _items(self, split: str) -> Iterator[tuple[str, dict]]:
    for file in tqdm.tqdm(
      self._files[split], f'reading {split}', unit='file', mininterval=0.5
    ):
      yield file, _parsed(file)


def _json_files(folder: str) -> list[str]:
  if not os.path.isdir(folder):
    return []
  names = sorted(os.listdir(folder))
  return [
    os.path.join(folder, name)
    for name in names
    if name.endswith('.json') and not name.startswith('.')
  ]


def _parsed(file: str) -> dict:
  with open(file, 'rb') as f:
    return reading.parse_object(file, reading.decoded(file, f.read()))


def _text(file: str, item: dict, key: str, glue: str = '\n') -> str:
  """A field that is a text, a list of texts, or absent."""
  value = item.get(key) or ''
  parts = value if isinstance(value, list) else [value]
  if not all(isinstance(part, str) for part in parts):
    raise UserError(f'{file}: {key} is not a text: {reading.shown(value)}')
  return glue.join(parts)


def _concepts(file: str, item: dict) -> list[str]:
  concepts = item.get('concepts') or []
  if not isinstance(concepts, list):
    raise UserError(f'{file}: concepts is not a list')
  return [str(concept) for concept in concepts]
