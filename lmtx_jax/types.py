"""What passes between stages: plain immutable values with stated shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

YES, NO, INVALID = 1, 0, -1


class UserError(Exception):
  """A mistake a user can mend: one line that names the file, line or flag."""


class Record(NamedTuple):
  """One document or one label, as its owner wrote it."""

  uid: str
  title: str
  content: str


@dataclasses.dataclass(frozen=True)
class Ragged:
  """Rows of different lengths in two flat arrays (either memory-mapped).

  Attributes:
    values: `[total]` the rows, one after the other.
    offsets: `[num_rows + 1]` int64; row `i` starts at `offsets[i]` and ends
      before `offsets[i + 1]`.
  """

  values: np.ndarray
  offsets: np.ndarray

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def __getitem__(self, row: int) -> np.ndarray:
    return self.values[self.offsets[row] : self.offsets[row + 1]]

  @property
  def lengths(self) -> np.ndarray:
    """`[num_rows]` int64."""
    return np.diff(self.offsets)

  @property
  def row_ids(self) -> np.ndarray:
    """`[total]` int64, the row that each value belongs to."""
    return np.repeat(np.arange(len(self)), self.lengths)

  def take(self, rows: np.ndarray) -> Ragged:
    """The given rows, in the given order, as a new Ragged in memory."""
    rows = np.asarray(rows, np.int64)
    starts, lengths = self.offsets[rows], self.lengths[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    positions = np.arange(offsets[-1]) + np.repeat(
      starts - offsets[:-1], lengths
    )
    return Ragged(np.asarray(self.values[positions]), offsets)

  def union(self, other: Ragged) -> Ragged:
    """The values of both in each row, ascending and none twice.

    Args:
      other: as many rows; values of at least 0, as here.

    Returns:
      In memory, of this one's dtype.
    """
    base = 1 + int(max(self.values.max(initial=0), other.values.max(initial=0)))
    keys = np.unique(
      np.concatenate([r.row_ids * base + r.values for r in (self, other)])
    )
    lengths = np.bincount(keys // base, minlength=len(self))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Ragged((keys % base).astype(self.values.dtype), offsets)

  def without(self, banned: Ragged) -> Ragged:
    """The rows less the values that stand in the same row of `banned`."""
    base = 1 + max(self.values.max(initial=0), banned.values.max(initial=0))
    keep = ~np.isin(
      self.row_ids * int(base) + self.values,
      banned.row_ids * int(base) + banned.values,
    )
    lengths = np.bincount(self.row_ids[keep], minlength=len(self))
    return Ragged(self.values[keep], np.concatenate([[0], np.cumsum(lengths)]))

  @classmethod
  def empty(cls, num_rows: int) -> Ragged:
    """Rows without values."""
    offsets = np.zeros(num_rows + 1, np.int64)
    return cls(np.zeros(0, np.int32), offsets)

  @classmethod
  def from_rows(cls, rows: Iterable[Sequence[int]], dtype=np.int32) -> Ragged:
    """Copies a list of rows."""
    rows = [np.asarray(row, dtype) for row in rows]
    lengths = np.array([len(row) for row in rows], np.int64)
    values = np.concatenate(rows) if rows else np.zeros(0, dtype)
    return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

  @classmethod
  def from_mask(cls, table: np.ndarray, keep: np.ndarray) -> Ragged:
    """The kept entries of a table, row by row.

    Args:
      table: `[num_rows, width]` values.
      keep: `[num_rows, width]` bool.
    """
    lengths = keep.sum(axis=1, dtype=np.int64)
    return cls(table[keep], np.concatenate([[0], np.cumsum(lengths)]))


@dataclasses.dataclass(frozen=True)
class Shortlist:
  """The labels closest to each document, best first.

  Attributes:
    labels: `[num_docs, k]` int32 label indices, -1 where there are no more.
    scores: `[num_docs, k]` float32 inner products, -inf where label is -1.
  """

  labels: np.ndarray
  scores: np.ndarray

  def only_of(self, kept: np.ndarray) -> Shortlist:
    """Leaves documents without any label but those of `kept`, `[num_docs]`."""
    labels = np.where(kept[:, None], self.labels, -1)
    return Shortlist(labels, np.where(labels < 0, -np.inf, self.scores))

  @classmethod
  def joined(cls, parts: Iterable[Shortlist]) -> Shortlist:
    """The shortlists of blocks of documents as one."""
    parts = list(parts)
    return cls(
      np.concatenate([part.labels for part in parts]),
      np.concatenate([part.scores for part in parts]),
    )

  @classmethod
  def placed(
    cls, num_docs: int, parts: Iterable[tuple[np.ndarray, Shortlist]]
  ) -> Shortlist:
    """As `joined`, of documents in any order: each part has their rows."""
    rows, parts = zip(*parts, strict=True)
    place = np.zeros(num_docs, np.int64)
    place[np.concatenate(rows)] = np.arange(num_docs)
    found = cls.joined(parts)
    return cls(found.labels[place], found.scores[place])


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """The teacher's answers to pairs.

  Attributes:
    answer: `[num_pairs]` int8, YES, NO or INVALID (no readable answer).
    p_yes: `[num_pairs]` float32 in [0, 1], NaN where invalid.
  """

  answer: np.ndarray
  p_yes: np.ndarray

  def __len__(self) -> int:
    return len(self.answer)


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
  """What the teacher accepted, the training targets of one cycle.

  Attributes:
    accepted: row `d` holds the labels (int32) that the teacher accepted for
      training document `d`.
    rejected: row `d` holds the labels (int32) that it rejected.
  """

  accepted: Ragged
  rejected: Ragged

  def union(self, other: PseudoLabels) -> PseudoLabels:
    """These and the others, of the same documents and teacher."""
    return PseudoLabels(
      self.accepted.union(other.accepted), self.rejected.union(other.rejected)
    )
