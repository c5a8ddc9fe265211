"""Verdicts on a few documents, as the store holds them."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import hashlib
import os
from typing import NamedTuple

from lmtx_jax.files import read_json
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.types import INVALID, NO, YES


class Verdict(NamedTuple):
  """What the teacher said of a pair.

  Attributes:
    answer: YES, NO or INVALID.
    p_yes: None where it gave none.
  """

  answer: int
  p_yes: float | None = None


class StoredVerdicts:
  """The verdicts of one teacher in one store, read by text; asks nothing."""

  def __init__(self, run_dir: str, path: str, yes_threshold: float | None):
    """Names the store, which need not be there.

    Args:
      run_dir: the run, which tells who its teacher is.
      path: of the store; empty: the run's own.
      yes_threshold: p_yes above which it counts as a yes; None: as answered.
    """
    path = path or os.path.join(run_dir, 'verdicts.sqlite')
    self._path = os.path.expanduser(path)
    self._teacher = os.path.join(run_dir, 'warmup', 'teacher.json')
    self._threshold = yes_threshold

  def read(
    self, documents: Sequence[str], labels: Sequence[Sequence[str]]
  ) -> list[list[Verdict | None]]:
    """Verdicts on each document's labels; None where there is none.

    Args:
      documents: texts, as the teacher reads them.
      labels: texts of each document's labels.

    Raises:
      UserError: the store cannot be read.
    """
    nothing = [[None] * len(row) for row in labels]
    if not all(map(os.path.isfile, (self._path, self._teacher))):
      return nothing
    with (
      contextlib.closing(VerdictFile(self._path, 'read')) as file,
      file.user_errors(),
    ):
      teacher = file.find_id('teachers', read_json(self._teacher))
      if teacher is None:
        return nothing
      found = [self._of(file, teacher, text) for text in documents]
    return [
      [verdicts.get(_digest(label)) for label in row]
      for verdicts, row in zip(found, labels, strict=True)
    ]

  def _of(
    self, file: VerdictFile, teacher: int, document: str
  ) -> dict[bytes, Verdict]:
    """All verdicts on a document, by digests of the labels' texts."""
    rows = file.db.execute(
      'SELECT label, answer, p_yes FROM verdicts'
      ' WHERE teacher = ? AND document = ?',
      (teacher, _digest(document)),
    )
    return {
      bytes(label): self._verdict(answer, p_yes)
      for label, answer, p_yes in rows
    }

  def _verdict(self, answer: int, p_yes: float | None) -> Verdict:
    """Decided as the run decides."""
    if p_yes is None:
      return Verdict(answer if self._threshold is None else INVALID)
    if self._threshold is None:
      return Verdict(answer, p_yes)
    return Verdict(YES if p_yes > self._threshold else NO, p_yes)


def _digest(text: str) -> bytes:
  """As `Texts.digests` has it."""
  return hashlib.blake2b(text.encode(), digest_size=16).digest()
