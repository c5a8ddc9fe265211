"""Embeddings to shortlists."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from lmtx_jax import processes
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.encode import Encoder
from lmtx_jax.mips import MipsIndex
from lmtx_jax.types import Ragged, Shortlist

_BLOCK = 32_768  # documents whose embeddings are held at a time


def make_shortlist(
  index: MipsIndex,
  embeddings: np.ndarray,
  filters: Ragged,
  k: int,
  desc: str | None = None,
) -> Shortlist:
  """The k best labels of each document that are not filtered for it.

  Of several processes each looks up its share, and gets the whole. As many more
  are looked up as the block's documents have filters, so that removing them
  still leaves k.

  Args:
    index: of the label embeddings.
    embeddings: `[num_docs, dim]` f32 or bf16, of the documents.
    filters: row `d` holds the labels that document `d` must not be given.
    k: labels a document.
    desc: name on the progress bar; no bar without one.
  """
  mine = np.arange(len(embeddings))[processes.share(len(embeddings))]
  labels = np.full((len(mine), k), -1, np.int32)
  scores = np.full((len(mine), k), -np.inf, np.float32)
  starts = range(0, len(mine), _BLOCK)
  silent = desc is None or not processes.is_lead()
  for start in tqdm(starts, desc=desc, unit='block', disable=silent):
    here = slice(start, start + _BLOCK)
    rows = mine[here]
    filtered = filters.take(rows)
    most = int(filtered.lengths.max(initial=0))
    # A power of two more, so that blocks share one compiled search.
    depth = k + ((1 << (most - 1).bit_length()) if most else 0)
    found, score = index.search(embeddings[rows[0] : rows[-1] + 1], depth)
    found, score = _remove(found, score, filtered, k)
    labels[here, : found.shape[1]] = found
    scores[here, : found.shape[1]] = score
  return Shortlist(
    processes.gather(labels, len(embeddings)),
    processes.gather(scores, len(embeddings)),
  )


def _remove(
  labels: np.ndarray, scores: np.ndarray, filters: Ragged, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Drops filtered labels, moves the rest up, cuts at k."""
  if not len(filters.values):
    return labels[:, :k], scores[:, :k]
  # One number a (row, label), so that one set look-up serves the block.
  base = 1 + max(int(labels.max()), int(filters.values.max()))
  pair = np.arange(len(labels))[:, None] * base + labels
  banned = np.isin(pair, filters.row_ids * base + filters.values)
  order = np.argsort(banned, axis=1, kind='stable')[:, :k]
  gone = np.take_along_axis(banned, order, axis=1)
  labels = np.take_along_axis(labels, order, axis=1)
  scores = np.take_along_axis(scores, order, axis=1)
  return np.where(gone, -1, labels), np.where(gone, -np.inf, scores)


def tag_documents(
  encoder: Encoder,
  index: MipsIndex,
  documents: TokenView,
  widths: np.ndarray,
  filters: Ragged,
  k: int,
  desc: str | None = None,
) -> Shortlist:
  """Embeds documents and looks their labels up, in bounded memory.

  Args:
    encoder: of documents and labels alike.
    index: of the label embeddings.
    documents: what to tag.
    widths: bucket widths of the documents.
    filters: row `d` holds the labels that document `d` must not be given.
    k: labels a document.
    desc: name on the progress bar; no bar without one.
  """
  return Shortlist.placed(
    len(documents),
    (
      (rows, make_shortlist(index, embeddings, filters.take(rows), k))
      for rows, embeddings in embedded(encoder, documents, widths, desc)
    ),
  )


def embedded(
  encoder: Encoder,
  documents: TokenView,
  widths: np.ndarray,
  desc: str | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Rows of documents and their embeddings; one block at least.

  The longest documents come first, whatever block they are in, so that there
  are no more shapes to compile than without blocks.

  Args:
    encoder: of the documents.
    documents: to embed.
    widths: bucket widths of the documents.
    desc: name on the progress bar; no bar without one.
  """
  rows, embeddings, held = [], [], 0
  for some, embedding in encoder.batches(documents, widths, desc):
    rows.append(some)
    embeddings.append(embedding)
    held += len(some)
    if held >= _BLOCK:
      yield np.concatenate(rows), np.concatenate(embeddings)
      rows, embeddings, held = [], [], 0
  if held:
    yield np.concatenate(rows), np.concatenate(embeddings)
  if not len(documents):
    yield np.zeros(0, np.int64), np.zeros((0, encoder.dim), np.float32)
