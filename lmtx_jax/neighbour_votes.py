"""Labels by the company a document keeps: votes of the nearest documents.

Training documents that have pseudo labels vote for these where a new document
is near them. It finds what no text tells: labels that documents of a kind have,
however far they are from the label's own words (k nearest neighbours, Fix and
Hodges, 1951, with the teacher's yeses in place of true labels).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import zipfile

import jax
import numpy as np
import scipy.sparse as sp

from lmtx_jax.embeddings import open_embeddings
from lmtx_jax.mips import ExactIndex, MipsIndex, ScannIndex
from lmtx_jax.scann_index import is_installed, num_parts
from lmtx_jax.shortlist import make_shortlist
from lmtx_jax.types import Ragged, Shortlist, UserError

_TEMPERATURE = 0.1  # of the weights; bundles count on it (VOTES_FORMAT)
# What numpy says of a file that is none of its archives.
_DAMAGED = (
  *(ValueError, EOFError, KeyError, TypeError, RuntimeError),
  zipfile.BadZipFile,
)


def neighbour_weights(near: Shortlist, num_docs: int) -> sp.csr_matrix:
  """Rows of weights, a softmax of the cosines.

  Args:
    near: the nearest documents of each document, in the place of labels.
    num_docs: documents that these are among.

  Returns:
    `[num_rows, num_docs]` sparse f32; a row adds up to 1 unless it is empty.
  """
  real = near.labels >= 0
  score = np.where(real, near.scores, -np.inf) / _TEMPERATURE
  top = score.max(axis=1, keepdims=True, initial=-np.inf)
  weight = np.exp(score - np.where(np.isfinite(top), top, 0))
  total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
  rows = np.nonzero(real)[0]
  return sp.csr_matrix(
    ((weight / total)[real].astype(np.float32), (rows, near.labels[real])),
    (len(near.labels), num_docs),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class NeighbourVotes:
  """Documents that vote for their labels.

  Attributes:
    embeddings: `[num_docs, dim]` f32 or bf16, memory-mapped or not.
    labels: `[num_docs, num_labels]` sparse f32, 1 for the labels of each.
    weight: of a label that all neighbours have.
    num_neighbours: documents that are listened to.
    scann: folder of ScaNN's index of the embeddings; empty: made when needed.
  """

  embeddings: np.ndarray
  labels: sp.csr_matrix
  weight: float
  num_neighbours: int
  scann: str = ''

  @functools.cached_property
  def _index(self) -> MipsIndex:
    num_docs, dim = self.embeddings.shape
    if is_installed() and jax.default_backend() == 'cpu':
      if self.scann:
        return ScannIndex.load(self.scann, num_docs)
      if num_parts(num_docs, dim) == 1:
        return ScannIndex.build(self.embeddings)  # quick for one query too
    return ExactIndex(self.embeddings)

  def of(self, embeddings: np.ndarray, filters: Ragged) -> sp.csr_matrix:
    """What is added to the scores of labels.

    Args:
      embeddings: `[n, dim]` f32, of the documents.
      filters: row `d` holds the labels that document `d` must not be given.

    Returns:
      `[n, num_labels]` sparse f32: `weight` times the share of the neighbours'
      weights whose documents have the label; only entries above 0.
    """
    num_docs = len(embeddings)
    near = make_shortlist(
      self._index, embeddings, Ragged.empty(num_docs), self.num_neighbours
    )
    votes = neighbour_weights(near, len(self.embeddings)) @ self.labels
    votes = (votes * np.float32(self.weight)).tocoo()
    num_labels = self.labels.shape[1]
    keys = votes.row.astype(np.int64) * num_labels + votes.col
    banned = filters.row_ids * num_labels + filters.values
    kept = ~np.isin(keys, banned) & (votes.data > 0)
    return sp.csr_matrix(
      (votes.data[kept], (votes.row[kept], votes.col[kept])), votes.shape
    )

  def with_labels(self, kept: np.ndarray, num_added: int) -> NeighbourVotes:
    """The same documents with other labels.

    Args:
      kept: `[any]` int, labels that stay, in their new order.
      num_added: labels that come behind them, for which nobody votes.
    """
    added = sp.csr_matrix((len(self.embeddings), num_added), dtype=np.float32)
    labels = sp.hstack([self.labels[:, kept], added], format='csr')
    return dataclasses.replace(self, labels=labels)


def write_votes(path: str, votes: NeighbourVotes) -> None:
  """Writes who has which labels (.npz)."""
  matrix = votes.labels
  np.savez(
    path,
    labels=matrix.indices.astype(np.int32),
    offsets=matrix.indptr.astype(np.int64),
  )


def open_votes(
  documents: str,
  scann: str,
  path: str,
  shape: tuple[int, int],
  weight: float,
  num_neighbours: int,
) -> NeighbourVotes:
  """Opens the votes of a bundle.

  Args:
    documents: the file of the embeddings.
    scann: the folder of their index; none there: they are few.
    path: what `write_votes` wrote.
    shape: labels and dimensions that they must have.
    weight: see NeighbourVotes.
    num_neighbours: see NeighbourVotes.

  Raises:
    UserError: a file is missing, damaged, or does not fit to the others.
  """
  num_labels, dim = shape
  embeddings = _open_documents(documents, dim)
  try:
    with np.load(path, allow_pickle=False) as arrays:
      labels, offsets = arrays['labels'], arrays['offsets']
  except (OSError, *_DAMAGED) as e:
    raise UserError(f'{path}: {e}; the bundle is not whole') from e
  if not (
    labels.dtype == np.int32
    and offsets.dtype == np.int64
    and labels.ndim == 1
    and offsets.shape == (len(embeddings) + 1,)
    and offsets[0] == 0
    and offsets[-1] == len(labels)
    and np.all(np.diff(offsets) >= 0)
    and np.all((labels >= 0) & (labels < num_labels))
  ):
    raise UserError(
      f'{path} does not fit to {len(embeddings)} documents and {num_labels}'
      ' labels'
    )
  ones = np.ones(len(labels), np.float32)
  matrix = sp.csr_matrix((ones, labels, offsets), (len(embeddings), num_labels))
  return NeighbourVotes(
    embeddings,
    matrix,
    weight,
    num_neighbours,
    scann if os.path.isdir(scann) else '',
  )


def _open_documents(path: str, dim: int) -> np.ndarray:
  try:
    embeddings = open_embeddings(path)
  except OSError as e:
    raise UserError(f'{path}: {e.strerror}; the bundle is not whole') from e
  if embeddings.shape[1] != dim:
    raise UserError(
      f'{path} has {embeddings.shape[1]} dimensions, the labels have {dim}'
    )
  return embeddings
