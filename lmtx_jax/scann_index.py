"""ScaNN in parts: labels split into runs of rows, each an index of its own.

A part is built from its rows alone, so that memory is one part's. On disk:

    FOLDER/parts.json          how many parts and labels; written last
    FOLDER/part_000/ ...       ScaNN's files, each folder whole or absent

Without ScaNN's tree, whose training draws at random, the same embeddings make
the same files.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from typing import Any

from absl import logging
import numpy as np

from lmtx_jax.best_labels import merge
from lmtx_jax.embeddings import as_float32
from lmtx_jax.files import read_json, staged, write_json
from lmtx_jax.host import memory_bytes, num_cores
from lmtx_jax.types import UserError

# Measured by tests/benchmarks/shortlist.py, 30k to 320k labels of 768
# dimensions: recall@10 above 0.99. A tree, or a threshold for anisotropic
# quantisation, costs more to build than it saves, for most leaves are needed.
BRUTE_FORCE_BELOW = 20_000
_DIMS_PER_BLOCK = 4  # hashed to four bits together
_FEW_DIMS = 256  # below, two of them, for too few bits were left
_TRAINING_SAMPLE = 10_000  # labels that the hashing is trained on
_REORDER = 300  # candidates of each part whose true scores are compared,
_REORDER_PER_LABEL = 10  # or as many for each label that is wanted
_PART_BYTES = 2**30  # float32 rows in a part; building takes thrice that
_QUERY_BLOCK = 4096
_ABOUT = 'parts.json'
_ASSETS = 'scann_assets.pbtxt'  # ScaNN's list of its files


def is_installed() -> bool:
  """Whether ScaNN is here; it has builds for Linux only."""
  return importlib.util.find_spec('scann') is not None


def num_parts(num_labels: int, dim: int, wanted: int = 0) -> int:
  """Parts to build: as many as wanted, or by size where that is 0."""
  by_size = -(-num_labels * dim * 4 // _PART_BYTES)
  return max(1, min(wanted or by_size, num_labels))


def part_rows(num_labels: int, parts: int, part: int) -> slice:
  """The labels of a part; parts differ by one label at most."""
  return slice(num_labels * part // parts, num_labels * (part + 1) // parts)


def write_index(folder: str, embeddings: np.ndarray, shards: int = 0) -> None:
  """Builds an index in a folder, part by part.

  A part that is there already is kept, so a build that was killed goes on.

  Args:
    folder: where.
    embeddings: `[num_labels, dim]` f32 or bf16, memory-mapped.
    shards: parts; 0 for as many as the size asks for.

  Raises:
    UserError: ScaNN cannot write it.
  """
  num_labels, dim = embeddings.shape
  parts = num_parts(num_labels, dim, shards)
  try:
    for part in range(parts):
      write_part(folder, embeddings, parts, part)
  except RuntimeError as e:  # ScaNN's word for a full disk too
    raise UserError(
      f'{folder}: ScaNN cannot write its index ({e}); is the disk full?'
    ) from e
  seal(folder, num_labels, parts)


def write_part(
  folder: str, embeddings: np.ndarray, parts: int, part: int
) -> None:
  """Builds one part, unless it is there; any process may build any part.

  Args:
    folder: of the whole index.
    embeddings: `[num_labels, dim]`, of all labels.
    parts: how many there are.
    part: which one, from 0.
  """
  path = _part_folder(folder, part)
  if os.path.isdir(path):
    return
  rows = part_rows(len(embeddings), parts, part)
  if parts > 1:
    logging.info('ScaNN: part %d of %d', part + 1, parts)
  with staged(path) as temporary:
    _serialize(_build(embeddings[rows]), temporary)


def seal(folder: str, num_labels: int, parts: int) -> None:
  """Notes that all parts are there; an index is whole from then on."""
  with staged(os.path.join(folder, _ABOUT)) as temporary:
    write_json(temporary, {'num_labels': num_labels, 'parts': parts})


def is_whole(folder: str) -> bool:
  """Whether `seal` was called on the folder."""
  return os.path.exists(os.path.join(folder, _ABOUT))


class ScannIndex:
  """Brute force for few labels, hashing and true scores for many."""

  def __init__(self, parts: list[_Part], folder: str = ''):
    """Takes parts in the order of their labels; see `build` and `load`."""
    self._parts = parts
    self._folder = folder

  @classmethod
  def build(cls, embeddings: np.ndarray) -> ScannIndex:
    """Indexes `[num_labels, dim]` f32 or bf16 embeddings in memory."""
    rows = slice(0, len(embeddings))
    return cls([_Part(rows, '', _build(embeddings))])

  @classmethod
  def load(
    cls, folder: str, num_labels: int, memory: int | None = None
  ) -> ScannIndex:
    """Opens what `write_index` or `save` wrote.

    Args:
      folder: of the index.
      num_labels: how many labels it must have.
      memory: bytes that parts may hold; where all of them are more, each is
        opened anew for each search. Half of what there is by default.

    Raises:
      UserError: something is missing or damaged.
    """
    if memory is None:
      memory = memory_bytes() // 2
    if os.path.exists(os.path.join(folder, _ASSETS)):
      count = 1  # the layout of bundles of format 1
      paths = [folder]
    else:
      count = _read_about(folder, num_labels)
      paths = [_part_folder(folder, part) for part in range(count)]
    parts = [
      _Part(part_rows(num_labels, count, i), path)
      for i, path in enumerate(paths)
    ]
    if sum(_num_bytes(path) for path in paths) <= memory:
      parts = [
        dataclasses.replace(part, searcher=part.open()) for part in parts
      ]
    return cls(parts, folder)

  def save(self, folder: str) -> None:
    """Writes the index into a folder that can be moved."""
    if self._folder and is_whole(self._folder):
      shutil.copytree(self._folder, folder, dirs_exist_ok=True)
      return
    for i, part in enumerate(self._parts):
      _serialize(part.open(), _part_folder(folder, i))
    seal(folder, self._num_labels, len(self._parts))

  @property
  def _num_labels(self) -> int:
    return self._parts[-1].rows.stop

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """See MipsIndex; each part is opened once, for all queries."""
    k = min(k, self._num_labels)
    labels = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for part in self._parts if len(queries) else ():
      searcher = part.open()
      for start in range(0, len(queries), _QUERY_BLOCK):
        rows = slice(start, min(start + _QUERY_BLOCK, len(queries)))
        found = part.search(searcher, as_float32(queries[rows]), k)
        labels[rows], scores[rows] = merge(labels[rows], scores[rows], *found)
    return labels, scores


@dataclasses.dataclass(frozen=True)
class _Part:
  """A part of an index.

  Attributes:
    rows: its labels.
    path: its folder, if it has one.
    searcher: ScaNN's, where it is kept open.
  """

  rows: slice
  path: str
  searcher: Any = None

  def open(self) -> Any:
    """ScaNN's searcher, read from the folder if it is not kept open."""
    if self.searcher is not None:
      return self.searcher
    from scann.scann_ops.py import scann_ops_pybind

    if os.path.exists(os.path.join(self.path, 'scann_docids.pkl')):
      # ScaNN would load it, and it could do anything.
      raise UserError(
        f'{self.path}/scann_docids.pkl is a pickle, which no index has; delete'
        ' it'
      )
    if not os.path.exists(os.path.join(self.path, _ASSETS)):
      # ScaNN would guess what it lists, and write into the folder.
      raise UserError(f'{self.path} is not a whole ScaNN index: no {_ASSETS}')
    try:
      searcher = scann_ops_pybind.load_searcher(self.path)
    except (RuntimeError, ValueError, OSError) as e:
      raise UserError(f'{self.path} is not a whole ScaNN index: {e}') from e
    size = self.rows.stop - self.rows.start
    if searcher.size() != size:
      raise UserError(
        f'{self.path} is an index of {searcher.size()} labels, not of {size}'
      )
    return searcher

  def search(
    self, searcher: Any, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """As ScannIndex.search, among the labels of the part."""
    size = self.rows.stop - self.rows.start
    k = min(k, size)
    kwargs = {}
    if size >= BRUTE_FORCE_BELOW:
      # Hashed scores choose these many, whose true scores are then compared.
      kwargs['pre_reorder_num_neighbors'] = max(
        _REORDER, _REORDER_PER_LABEL * k
      )
    labels, scores = searcher.search_batched_parallel(
      queries, final_num_neighbors=k, **kwargs
    )
    absent = np.isnan(scores)  # fewer than k were reached
    return (
      np.where(absent, -1, labels.astype(np.int32) + self.rows.start),
      np.where(absent, -np.inf, scores),
    )


def _build(embeddings: np.ndarray) -> Any:
  """ScaNN's searcher of `[n, dim]` embeddings; true scores in their type."""
  from scann.scann_ops.py import scann_ops_pybind
  from scann.scann_ops.py.scann_builder import ReorderType

  n = len(embeddings)
  exact = ReorderType.FLOAT32
  if embeddings.dtype != np.float32:
    exact = ReorderType.BFLOAT16
  builder = scann_ops_pybind.builder(
    as_float32(embeddings), min(10, n), 'dot_product'
  )
  if n < BRUTE_FORCE_BELOW:
    return builder.score_brute_force(exact).build()
  dims = _DIMS_PER_BLOCK if embeddings.shape[1] >= _FEW_DIMS else 2
  return (
    builder.set_n_training_threads(num_cores())
    .score_ah(dims, training_sample_size=min(n, _TRAINING_SAMPLE))
    .reorder(_REORDER, exact)
    .build()
  )


def _part_folder(folder: str, part: int) -> str:
  return os.path.join(folder, f'part_{part:03d}')


def _serialize(searcher: Any, folder: str) -> None:
  os.makedirs(folder)
  searcher.serialize(folder, relative_path=True)


def _num_bytes(folder: str) -> int:
  try:
    return sum(entry.stat().st_size for entry in os.scandir(folder))
  except FileNotFoundError as e:
    raise UserError(f'{folder}: this part of the index is missing') from e


def _read_about(folder: str, num_labels: int) -> int:
  path = os.path.join(folder, _ABOUT)
  try:
    about = read_json(path)
    known, parts = int(about['num_labels']), int(about['parts'])
  except (OSError, ValueError, KeyError, TypeError, OverflowError) as e:
    raise UserError(f'{path} is not what an index has there: {e}') from e
  if known != num_labels or not 1 <= parts <= max(1, known):
    raise UserError(
      f'{path}: an index of {known} labels in {parts} parts, not of'
      f' {num_labels} labels'
    )
  return parts
