"""Puts questions to a teacher and stores the answers as they come."""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

import numpy as np

from lmtx_jax.interrupts import deferred
from lmtx_jax.teacher.pairs import Pairs, Teacher
from lmtx_jax.teacher.progress import Progress
from lmtx_jax.teacher.questions import Questions
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.types import INVALID, NO, YES, Verdicts

# Answers that wait are stored when there are so many, or when so many times
# what the last commit took has passed: a tenth of the time goes into commits.
_COMMIT_ANSWERS, _COMMIT_SHARE = 1000, 10


class Recorder:
  """Stores answers, and what asking for them cost.

  Attributes:
    teacher_id: the teacher's row.
    asker: the asker's row.
  """

  def __init__(self, file: VerdictFile, teacher: Teacher, asked_by: str):
    """Finds the rows; usage counts from here."""
    self.teacher_id = file.id('teachers', teacher.identity)
    self.asker = file.id('askers', asked_by)
    self._file, self._teacher = file, teacher
    self._waiting: list[tuple] = []
    self._usage = dict(teacher.usage())  # as of the last commit
    self._last_commit_s = 0.0
    self.start()

  def start(self) -> None:
    """Asking starts or goes on: its seconds count from here."""
    self._since = time.monotonic()

  def add(
    self, documents: np.ndarray, labels: np.ndarray, verdicts: Verdicts
  ) -> None:
    """Takes answers (`[n]` V16 digests), and commits if it is time."""
    rows = zip(
      documents.tolist(),
      labels.tolist(),
      verdicts.answer.tolist(),
      verdicts.p_yes.tolist(),
      strict=True,
    )
    self._waiting += [(self.teacher_id, *row, self.asker) for row in rows]
    waited_s = time.monotonic() - self._since
    if len(self._waiting) >= _COMMIT_ANSWERS or (
      self._waiting and waited_s >= _COMMIT_SHARE * self._last_commit_s
    ):
      self.commit()

  def commit(self) -> None:
    """Stores what waits; if that fails it waits for another attempt."""
    now = time.monotonic()
    usage = dict(self._teacher.usage())
    spent = {
      name: value - self._usage.get(name, 0) for name, value in usage.items()
    }
    if usage:
      spent['seconds'] = now - self._since
    # Ctrl-C between storing and forgetting would store the same again.
    with deferred():
      if self._waiting or spent:
        self._file.write(self._waiting, self.asker, spent)
        self._last_commit_s = time.monotonic() - now
      self._waiting, self._usage, self._since = [], usage, now


def ask(
  teacher: Teacher,
  pairs: Pairs,
  questions: Questions,
  unknown: np.ndarray,
  recorder: Recorder,
  progress: Progress,
) -> None:
  """Puts questions to the teacher.

  Args:
    teacher: who is asked.
    pairs: what `questions` were made of.
    questions: of which some are asked.
    unknown: `[num_asked]` int64, the ones to ask, in this order.
    recorder: stores the answers.
    progress: shows them.
  """
  recorder.start()
  progress.start()
  num_answers = 0
  asked = pairs.take(questions.first[unknown])
  with contextlib.closing(teacher.judge(asked)) as answers:
    try:
      for positions, verdicts in answers:
        which = unknown[positions]
        recorder.add(
          questions.documents[which], questions.labels[which], verdicts
        )
        progress.update(decided(verdicts, teacher.yes_threshold))
        num_answers += len(positions)
    finally:  # also on Ctrl-C or when the teacher fails: answers are kept
      recorder.commit()
  progress.leave_out(len(unknown) - num_answers)


class _Answers(Protocol):
  answer: np.ndarray
  p_yes: np.ndarray


def decided(answers: _Answers, yes_threshold: float | None) -> np.ndarray:
  """`[n]` int8, the answers anew by a threshold, if there is one."""
  if yes_threshold is None:
    return answers.answer
  answer = np.where(answers.p_yes > yes_threshold, YES, NO)
  return np.where(np.isnan(answers.p_yes), INVALID, answer).astype(np.int8)
