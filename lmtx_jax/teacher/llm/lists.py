"""Several labels of a document in one question.

Which labels stand together decides what is answered. So the labels of a
document are cut, in the order they are asked, into lists of the same length
and a shorter last one; and the verdicts of a list come all at once, the ones
that had to be asked alone included: after a kill whole lists are left, which
are cut again as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses

from absl import logging
import numpy as np

from lmtx_jax.teacher.llm.dispatch import Answers
from lmtx_jax.teacher.llm.lane import Question
from lmtx_jax.teacher.llm.list_api import Lines
from lmtx_jax.teacher.llm.usage import Usage
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.types import INVALID, NO, YES, Verdicts

_PART_PAIRS = 32_768  # of which uncertain lists wait for each other
_ODD_AFTER, _ODD_SHARE = 1000, 0.5  # pairs; of them, asked again


@dataclasses.dataclass
class ListUsage(Usage):
  """What asking about lists has cost.

  Attributes:
    listed: pairs that were asked about in lists.
    asked_again: of those, without a clear line and asked about alone.
  """

  listed: int = 0
  asked_again: int = 0

  def count_pairs(self, listed: int, asked_again: int) -> None:
    """Takes what came of some lists; warns once of a model off the rails."""
    before = self.listed
    self.listed += listed
    self.asked_again += asked_again
    if (
      before < _ODD_AFTER <= self.listed
      and self.asked_again > _ODD_SHARE * self.listed
    ):
      logging.warning(
        '%d of %d pairs had no clear line in the answer about their list and'
        ' were asked again alone; look at --chat_format and --list_size, or'
        ' take --question=pair',
        self.asked_again,
        self.listed,
      )


@dataclasses.dataclass(frozen=True)
class OneByOne:
  """A teacher who is asked about lists, asked about each pair alone.

  Attributes are those of `Teacher`.
  """

  identity: str
  yes_threshold: float
  judge: Callable[[Pairs], Iterator[Answers]]
  usage: Callable[[], dict[str, float]]


class Lists:
  """Pairs, cut into lists, and what is known of them.

  Attributes:
    starts: `[num_lists]` int64, the first pair of each; they lie side by side.
    sizes: `[num_lists]` int64.
  """

  def __init__(self, doc_index: np.ndarray, size: int):
    """Takes the documents of the pairs, and labels in a list at most."""
    rows = np.arange(len(doc_index))
    is_first = np.diff(doc_index, prepend=-1) != 0
    place = rows - np.maximum.accumulate(np.where(is_first, rows, 0))
    self.starts = np.flatnonzero(place % size == 0)
    self.sizes = np.diff(self.starts, append=len(rows))
    self._list_of = np.repeat(np.arange(len(self.starts)), self.sizes)
    self._num_missing = self.sizes.copy()
    self._answer = np.full(len(rows), INVALID, np.int8)
    self._p_yes = np.full(len(rows), np.nan, np.float32)
    self._is_known, self._is_told = np.zeros((2, len(rows)), bool)

  def add(self, rows: np.ndarray, verdicts: Verdicts) -> Answers:
    """Takes verdicts (of pairs `rows`); returns those of complete lists."""
    self._answer[rows], self._p_yes[rows] = verdicts.answer, verdicts.p_yes
    self._is_known[rows] = True
    touched = self._list_of[rows]
    np.subtract.at(self._num_missing, touched, 1)
    touched = np.unique(touched)
    complete = touched[self._num_missing[touched] == 0]
    return self._tell(
      [np.arange(0), *(self.rows(number) for number in complete)]
    )

  def add_lines(self, firsts: np.ndarray, lines: Lines) -> Answers:
    """Takes what was said about the lists that begin with `firsts`."""
    rows, p_yes = [], []
    for number, found in zip(
      np.searchsorted(self.starts, firsts), lines.p_yes, strict=True
    ):
      for i, p in found.items():
        if 1 <= i <= self.sizes[number]:
          rows.append(self.starts[number] + i - 1)
          p_yes.append(p)
    p_yes = np.array(p_yes, np.float32)
    answer = np.where(p_yes > 0.5, YES, NO).astype(np.int8)
    return self.add(np.array(rows, np.int64), Verdicts(answer, p_yes))

  def rows(self, number: int) -> np.ndarray:
    """`[size]` int64, the pairs of a list."""
    return self.starts[number] + np.arange(self.sizes[number])

  def missing(self) -> np.ndarray:
    """`[n]` int64, pairs without a verdict."""
    return np.flatnonzero(~self._is_known)

  def are_listed(self, rows: np.ndarray) -> np.ndarray:
    """`[n]` bool, which of the pairs have others in their list."""
    return self.sizes[self._list_of[rows]] > 1

  def rest(self) -> Answers:
    """The verdicts of lists that never were completed."""
    return self._tell([np.flatnonzero(self._is_known & ~self._is_told)])

  def _tell(self, rows: list[np.ndarray]) -> Answers:
    rows = np.concatenate(rows)
    self._is_told[rows] = True
    return rows, Verdicts(self._answer[rows], self._p_yes[rows])


def questions(
  blocks: Iterator[list[Question]], lists: Lists
) -> Iterator[list[Question]]:
  """The openers of documents, with a question for each of their lists.

  A list of one label is none.

  Args:
    blocks: openers with a question for each pair, in the order of the pairs.
    lists: of these pairs.
  """
  sizes = dict(zip(lists.starts.tolist(), lists.sizes.tolist(), strict=True))
  for block in blocks:
    openers = []
    for opener in block:
      pairs = [opener, *opener.waiting]
      first = opener.position
      of_doc = [
        Question(
          pair.position,
          pair.doc,
          tuple(x.label for x in pairs[i : i + sizes[first + i]]),
        )
        for i, pair in enumerate(pairs)
        if sizes.get(first + i, 1) > 1
      ]
      if of_doc:
        of_doc[0].waiting = of_doc[1:]
        openers.append(of_doc[0])
    if openers:  # an empty block would be the end
      yield openers


def judge(
  pairs: Pairs,
  size: int,
  ask_lists: Callable[[Pairs, Lists], Iterator[tuple[np.ndarray, Lines]]],
  ask_pairs: Callable[[Pairs], Iterator[Answers]],
  tell: Callable[[int, int, Pairs], None],
) -> Iterator[Answers]:
  """Verdicts by lists, and one by one where a list gives none, see `Teacher`.

  Args:
    pairs: what is asked.
    size: labels in a list at most.
    ask_lists: asks about the lists of some pairs that have several labels;
      yields the first pairs of lists and what was said.
    ask_pairs: asks about pairs alone.
    tell: is told of each part of the pairs how many were asked about in lists,
      how many of these have to be asked again, and all that are asked alone.
  """
  for part in _parts(pairs.doc_index):
    start, some = part.start, pairs.take(part)
    lists = Lists(some.doc_index, size)
    num_listed = int(lists.sizes[lists.sizes > 1].sum())
    if num_listed:
      for firsts, lines in ask_lists(some, lists):
        rows, verdicts = lists.add_lines(firsts, lines)
        yield start + rows, verdicts
    missing = lists.missing()
    alone = some.take(missing)
    tell(num_listed, int(lists.are_listed(missing).sum()), alone)
    if len(missing):
      for positions, verdicts in ask_pairs(alone):
        rows, verdicts = lists.add(missing[positions], verdicts)
        yield start + rows, verdicts
      rows, verdicts = lists.rest()
      yield start + rows, verdicts


def _parts(doc_index: np.ndarray) -> Iterator[slice]:
  """Whole documents, about `_PART_PAIRS` pairs at a time."""
  starts = np.flatnonzero(np.diff(doc_index, prepend=-1))
  first = 0
  while first < len(doc_index):
    place = np.searchsorted(starts, first + _PART_PAIRS)
    end = int(starts[place]) if place < len(starts) else len(doc_index)
    yield slice(first, end)
    first = end
