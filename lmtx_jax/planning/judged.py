"""What the teacher has been asked in a run, and what it answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lmtx_jax.types import NO, YES, Ragged

READABLE = (YES, NO)


class Judged(NamedTuple):
  """Questions with their answers, no pair twice.

  Attributes:
    docs: `[num_pairs]` int64 documents.
    labels: `[num_pairs]` int64 labels.
    answers: `[num_pairs]` int8, YES, NO or INVALID.
  """

  docs: np.ndarray
  labels: np.ndarray
  answers: np.ndarray

  def __add__(self, other: Judged) -> Judged:
    """These, then the others."""
    return Judged(
      *(np.concatenate(pair) for pair in zip(self, other, strict=True))
    )

  def matrix(self, answers: Sequence[int], shape: tuple[int, int]):
    """`[num_docs, num_labels]` sparse f32, 1 where the answer is one of these.

    Args:
      answers: which count.
      shape: of the matrix.
    """
    rows = np.isin(self.answers, answers)
    ones = np.ones(int(rows.sum()), np.float32)
    return sp.csr_matrix((ones, (self.docs[rows], self.labels[rows])), shape)

  def rows(self, answer: int, num_docs: int) -> Ragged:
    """The labels that were so answered, row by document, in the order asked.

    Args:
      answer: YES, NO or INVALID.
      num_docs: of the result.
    """
    places = np.flatnonzero(self.answers == answer)
    places = places[np.argsort(self.docs[places], kind='stable')]
    docs, labels = self.docs[places], self.labels[places]
    offsets = np.concatenate(
      [[0], np.cumsum(np.bincount(docs, minlength=num_docs))]
    )
    return Ragged(labels.astype(np.int32), offsets.astype(np.int64))

  @classmethod
  def none(cls) -> Judged:
    """Nothing asked."""
    return cls(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.int8)))
