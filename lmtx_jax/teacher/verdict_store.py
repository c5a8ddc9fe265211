"""Every verdict ever given, in one SQLite file, so that none is asked twice.

Indices, runs and cycles play no part in how a verdict is found, so the file
outlives the run and may be shared. Answers are committed in small batches as
they come: whatever kills the process costs next to none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
from typing import Literal

import numpy as np

from lmtx_jax.teacher.asking import Recorder, ask, decided
from lmtx_jax.teacher.pairs import Pairs, Tally, Teacher
from lmtx_jax.teacher.progress import Progress, Report
from lmtx_jax.teacher.questions import Questions, join
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.types import INVALID, YES, Verdicts

HELPER = '@'  # between the name of a stage and the number of a process
_BLOCK = 131_072  # pairs handled at a time: bounds memory
_DOCS_A_QUERY = 500  # SQLite takes at least 999 parameters
_ROWS_A_FETCH = 4096
_COUNT_PASSES, _COUNT_AT_ONCE = 16, 2**18


class VerdictStore:
  """A file of verdicts in front of every teacher."""

  def __init__(
    self, path: str, mode: Literal['create', 'write', 'read'] = 'create'
  ):
    """Opens the file or makes it, see `VerdictFile`.

    Raises:
      UserError: it cannot be opened, or is of a newer version, or no store.
    """
    self._file = VerdictFile(path, mode)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def judge(
    self,
    teacher: Teacher,
    pairs: Pairs,
    asked_by: str,
    report: Report | None = None,
  ) -> tuple[Verdicts, Tally]:
    """Verdicts of all pairs; asks only what the store does not know.

    Besides the result (5 bytes a pair) memory does not grow with the pairs:
    they are handled in blocks, and a question that got no answer may be asked
    again in a later one.

    Args:
      teacher: who is asked, once for each distinct pair of texts.
      pairs: the `num_pairs` questions.
      asked_by: a name of its own for each stage of each run, such as
        `<run id>/cycle_00`. The tally is derived from the rows that carry it
        (or it, HELPER and a number: other processes of the stage), so a stage
        that was killed and goes on reports what it would have reported
        undisturbed.
      report: is told how it goes, every 30 s at most: `pairs` (answered by the
        teacher in this call), `pairs_per_s`, `yes_rate` (of those), `reused`,
        `remaining_s` if known, and if the teacher counts its usage
        `tokens_per_s`, `cache_hit_share`, `retries`.

    Returns:
      `[num_pairs]` verdicts in order (INVALID where no answer came), decided
      by the teacher's `yes_threshold` if it has one, and the tally.

    Raises:
      UserError: the file is locked, read-only, broken, or the disk is full.
    """
    answer = np.full(len(pairs), INVALID, np.int8)
    p_yes = np.full(len(pairs), np.nan, np.float32)
    by_asker = np.zeros(len(pairs), bool)
    num_answered = 0
    with self._file.user_errors():
      recorder = Recorder(self._file, teacher, asked_by)
      askers = self._askers(asked_by)
      with contextlib.closing(Progress(len(pairs), teacher, report)) as bar:
        for part in _slices(len(pairs)):
          block = pairs.take(part)
          questions = Questions(block)
          found = self._judge_block(teacher, block, questions, recorder, bar)
          answers = decided(found, teacher.yes_threshold)
          answer[part] = answers[questions.of_pair]
          p_yes[part] = found.p_yes[questions.of_pair]
          asker = found.asker[questions.of_pair]
          by_asker[part] = np.isin(asker, askers)
          num_answered += int((asker >= 0).sum())
      usage = _joined([v for k, v in self._file.usage().items() if k in askers])
    asked = _num_questions(pairs, by_asker)
    return Verdicts(answer, p_yes), Tally(
      pairs=len(pairs),
      asked=asked,
      reused=num_answered - asked,
      invalid=int((answer == INVALID).sum()),
      yes=int((answer == YES).sum()),
      usage=usage,
    )

  def known(self, teacher: Teacher, pairs: Pairs) -> np.ndarray:
    """`[num_pairs]` bool, which are answered already; nothing is asked."""
    known = np.zeros(len(pairs), bool)
    with self._file.user_errors():
      teacher_id = self._file.find_id('teachers', teacher.identity)
      if teacher_id is None:
        return known
      for part in _slices(len(pairs)):
        questions = Questions(pairs.take(part))
        found = _Found.nothing(len(questions))
        self._look_up(teacher_id, questions, np.arange(len(questions)), found)
        known[part] = (found.asker >= 0)[questions.of_pair]
    return known

  def _askers(self, asked_by: str) -> list[int]:
    """Those who asked for a stage: its own name, and its helpers'."""
    return [
      number
      for number, name in self._file.names('askers').items()
      if name == asked_by or name.startswith(f'{asked_by}{HELPER}')
    ]

  def _judge_block(
    self,
    teacher: Teacher,
    pairs: Pairs,
    questions: Questions,
    recorder: Recorder,
    progress: Progress,
  ) -> _Found:
    """What is stored of the questions after the others have been asked."""
    found = _Found.nothing(len(questions))
    everything = np.arange(len(questions))
    self._look_up(recorder.teacher_id, questions, everything, found)
    unknown = np.flatnonzero(found.asker < 0)
    progress.reuse(len(pairs) - len(unknown))
    if len(unknown):
      # In the order of the pairs: a document's labels stay together.
      unknown = unknown[np.argsort(questions.first[unknown])]
      ask(teacher, pairs, questions, unknown, recorder, progress)
      self._look_up(recorder.teacher_id, questions, np.sort(unknown), found)
    return found

  def _look_up(
    self,
    teacher_id: int,
    questions: Questions,
    wanted: np.ndarray,
    found: _Found,
  ) -> None:
    """Fills in what is stored of the questions wanted (int64, ascending)."""
    keys = join(questions.documents[wanted], questions.labels[wanted])
    documents = np.unique(questions.documents[wanted]).tolist()
    for start in range(0, len(documents), _DOCS_A_QUERY):
      some = documents[start : start + _DOCS_A_QUERY]
      cursor = self._file.db.execute(
        'SELECT CAST(document || label AS BLOB), answer, p_yes, asked_by '
        'FROM verdicts '
        f'WHERE teacher = ? AND document IN ({",".join("?" * len(some))})',
        (teacher_id, *some),
      )
      while rows := cursor.fetchmany(_ROWS_A_FETCH):
        stored, answer, p_yes, asker = zip(*rows, strict=True)
        stored = np.frombuffer(b''.join(stored), keys.dtype)
        place = np.minimum(np.searchsorted(keys, stored), len(keys) - 1)
        hit = keys[place] == stored  # the rest are other labels of a document
        hits = wanted[place[hit]]
        found.answer[hits] = np.array(answer, np.int8)[hit]
        found.p_yes[hits] = np.array(p_yes, np.float32)[hit]
        found.asker[hits] = np.array(asker, np.int64)[hit]


@dataclasses.dataclass(frozen=True)
class _Found:
  """What the store holds of some questions.

  Attributes:
    answer: `[num_questions]` int8, as the teacher answered.
    p_yes: `[num_questions]` float32.
    asker: `[num_questions]` int64, who asked; -1 if it is not in the store.
  """

  answer: np.ndarray
  p_yes: np.ndarray
  asker: np.ndarray

  @classmethod
  def nothing(cls, num_questions: int) -> _Found:
    return cls(
      np.full(num_questions, INVALID, np.int8),
      np.full(num_questions, np.nan, np.float32),
      np.full(num_questions, -1, np.int64),
    )


def _joined(usages: list[dict[str, float]]) -> dict[str, float]:
  """Counters of processes that asked side by side."""
  names = {name for usage in usages for name in usage}
  total = {name: sum(u.get(name, 0) for u in usages) for name in sorted(names)}
  if 'seconds' in total:
    total['seconds'] = max(u.get('seconds', 0) for u in usages)
  return total


def _slices(num_pairs: int) -> Iterator[slice]:
  for start in range(0, num_pairs, _BLOCK):
    yield slice(start, min(start + _BLOCK, num_pairs))


def _num_questions(pairs: Pairs, chosen: np.ndarray) -> int:
  """Number of distinct pairs of texts among the chosen pairs.

  Counts 64-bit hashes, a part of the documents at a time; so it needs a byte
  a pair at most, and 3 million pairs are miscounted once in 4 million times.

  Args:
    pairs: the `num_pairs` pairs.
    chosen: `[num_pairs]` bool.
  """
  num_passes = min(_COUNT_PASSES, 1 + int(chosen.sum()) // _COUNT_AT_ONCE)
  count = 0
  for turn in range(num_passes):
    parts = [np.zeros(0, np.uint64)]
    for part in _slices(len(pairs)):
      block = pairs.take(part).take(chosen[part])
      docs = _first_64_bits(block.documents.digests, block.doc_index)
      labels = _first_64_bits(block.labels.digests, block.label_index)
      here = docs % np.uint64(num_passes) == turn
      # Digests are uniform already; an odd factor tells the two texts apart.
      parts.append(docs[here] * np.uint64(0x9E3779B97F4A7C15) + labels[here])
    hashes = np.concatenate(parts)
    hashes.sort()
    count += len(hashes[:1]) + int((hashes[1:] != hashes[:-1]).sum())
  return count


def _first_64_bits(digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
  return digests.view('<u8').reshape(-1, 2)[:, 0][rows]
