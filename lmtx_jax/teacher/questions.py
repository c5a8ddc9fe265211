"""Pairs to questions: each pair of texts once, by digests."""

from __future__ import annotations

import numpy as np

from lmtx_jax.teacher.pairs import Pairs


class Questions:
  """The distinct pairs of texts among some pairs, in the order of the table.

  Attributes:
    first: `[num_questions]` int64, the first pair that asks it.
    of_pair: `[num_pairs]` int64, the question of each pair.
    documents: `[num_questions]` V16 digests.
    labels: `[num_questions]` V16 digests.
  """

  def __init__(self, pairs: Pairs):
    docs, doc_of_pair = _ranks(pairs.documents.digests, pairs.doc_index)
    labels, label_of_pair = _ranks(pairs.labels.digests, pairs.label_index)
    keys, self.first, self.of_pair = np.unique(
      doc_of_pair * max(len(labels), 1) + label_of_pair,
      return_index=True,
      return_inverse=True,
    )
    self.documents = docs[keys // max(len(labels), 1)]
    self.labels = labels[keys % max(len(labels), 1)]

  def __len__(self) -> int:
    return len(self.first)


def _ranks(
  digests: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The distinct digests that rows have, sorted, and the place of each row's.

  Args:
    digests: `[num_texts]` V16.
    rows: `[n]` int64, rows of `digests`.
  """
  used, used_of_row = np.unique(rows, return_inverse=True)
  distinct, place = np.unique(digests[used], return_inverse=True)
  return distinct, place[used_of_row]


def join(documents: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[n]` V32, both digests as one key; sorts as SQLite sorts blobs."""
  both = np.stack([documents, labels], axis=1)
  return both.view('V32')[:, 0]
