"""One server's queue: what it is sent next, how much, and when to let it rest.

All labels of a document share its prefix, and a server that has just answered
one of them has that prefix in its cache. So the first question of a document,
its opener, goes ahead, and the others follow to the same server when it is
back. The number of followers that wait is bounded: were too many documents
opened at once, their prefixes would be thrown out before they are used.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import time

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.server import Server

_DOWN_AFTER = 3  # failures running
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0


@dataclasses.dataclass(eq=False)
class Question:
  """A document and a label, or several.

  Attributes:
    position: row of the pairs.
    doc: the document as it is asked about.
    label: the label's text, or those of a list.
    waiting: further questions on the document, to be asked after this one.
    suspicion: how often a request failed in which it was; the higher, the
      fewer others go with it, until it is alone.
    num_answers: that had come to others when it last failed alone.
  """

  position: int
  doc: str
  label: str | tuple[str, ...]
  waiting: list[Question] = dataclasses.field(default_factory=list)
  suspicion: int = 0
  num_answers: int = 0


class Lane:
  """A server, and what it has to do.

  Attributes:
    server: the server.
    in_flight: questions sent and not yet back.
    resume_at: monotonic time before which it is left alone.
    is_sure: whether it is known to have the model that it had.
    looked_at: monotonic time of the last look at its model.
    heard_at: monotonic time of its last answer.
  """

  def __init__(self, server: Server, config: LlmConfig):
    self.server = server
    self.in_flight = 0
    self.resume_at = 0.0
    self.is_sure = False
    self.looked_at = self.heard_at = time.monotonic()
    self._batch_size = config.teacher_batch_size
    self._most = config.teacher_in_flight
    self._limit = self._most  # questions in flight that it can take
    self._followers: collections.deque[Question] = collections.deque()
    self._promised = 0  # followers whose opener is not back
    self._failures = 0  # running

  @property
  def is_down(self) -> bool:
    """Whether it failed so often that others should do its work."""
    return self._failures >= _DOWN_AFTER

  @property
  def has_work(self) -> bool:
    """Whether questions wait for it."""
    return bool(self._followers)

  @property
  def load(self) -> float:
    """Share of what it can take that is in flight."""
    return self.in_flight / self._limit

  def next_batch(self, pool: collections.deque[Question]) -> list[Question]:
    """Takes what is to be sent now; nothing if there is no room.

    Followers go first, then openers from the pool as long as few followers
    wait. A server that is down gets one question at a time.
    """
    size = 1 if self.is_down else min(self._batch_size, self._limit)
    if time.monotonic() < self.resume_at or not self.is_sure:
      return []
    if self.in_flight and (self.is_down or self.in_flight + size > self._limit):
      return []
    batch: list[Question] = []
    while len(batch) < size:
      is_opener = not self._followers
      if is_opener and (not pool or self._promised >= self._most):
        break
      queue = pool if is_opener else self._followers
      company = max(1, self._batch_size >> queue[0].suspicion)
      if batch and len(batch) >= company:
        break
      size = min(size, company)
      batch.append(queue.popleft())
      if is_opener:
        self._promised += len(batch[-1].waiting)
    self.in_flight += len(batch)
    return batch

  def succeed(self) -> None:
    """It answered: it may be sent more, and without a pause."""
    self._failures, self.resume_at = 0, 0.0
    self.heard_at = time.monotonic()
    self._limit = min(self._most, self._limit + max(1, self._batch_size // 4))

  def fail(self, has_too_much: bool = False) -> bool:
    """It did not answer: it rests for a while, longer each time.

    Args:
      has_too_much: whether that is why.

    Returns:
      Whether it is down, and was not before.
    """
    self._failures += 1
    if self.is_down:
      self.is_sure = False  # whoever answers next may be another
    if has_too_much:
      self._limit = max(1, self._limit // 2)
    pause = _FIRST_PAUSE_S * 2 ** min(self._failures, 20)
    pause = min(pause, _LONGEST_PAUSE_S)
    self.resume_at = time.monotonic() + random.uniform(pause / 2, pause)
    return self._failures == _DOWN_AFTER

  def release(self, batch: list[Question]) -> None:
    """These need no answer any more: their followers may go."""
    for question in batch:
      self._promised -= len(question.waiting)
      self._followers.extend(question.waiting)
      question.waiting = []

  def put_back(self, batch: list[Question]) -> None:
    """These are to be asked again, before all others."""
    self._followers.extendleft(reversed(batch))

  def hand_over(self, question: Question) -> None:
    """This one, which it had been sent, is no longer its own."""
    self._promised -= len(question.waiting)

  def empty(self) -> list[Question]:
    """Gives up all that waits, as openers for another server."""
    openers: dict[int, Question] = {}
    for question in self._followers:
      self._promised -= len(question.waiting)
      opener = openers.setdefault(id(question.doc), question)
      if opener is not question:
        opener.waiting += [question, *question.waiting]
        question.waiting = []
    self._followers.clear()
    return list(openers.values())
