"""Which question goes to which server, and what happens if it fails.

A server that fails three times running is down: its questions go back into the
pool, where other servers take them, and it gets one question at a time, ever
more seldom, until it answers.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
import time
from typing import Any
import uuid

from absl import logging
import numpy as np

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.api import Api
from lmtx_jax.teacher.llm.lane import Lane, Question
from lmtx_jax.teacher.llm.server import (
  Busy,
  Failed,
  Lost,
  Refused,
  Server,
  TimedOut,
)
from lmtx_jax.teacher.llm.usage import Usage
from lmtx_jax.teacher.llm.wire import Malformed, Reply, take
from lmtx_jax.types import UserError

_GIVE_UP_AFTER = 10  # failures of a question that is asked alone
_LOOK_EVERY_S = 30.0  # at which model a server has
_IDLE_S = 5.0  # in which no server starts anew
_READ_BELOW = 64  # documents in the pool; more are read if there are fewer
_TICK_S = 1.0  # the caller hears of us at least so often
_ALL_TOO_LONG = 32  # questions, before any other was answered
_WARNINGS = 10  # of a kind; the tally has the numbers
_NOBODY = -1  # position of a question that nobody asked

# Positions, and what `Reply.answers` holds of them.
Answers = tuple[np.ndarray, Any]


class Dispatcher:
  """Puts questions to servers until all are answered."""

  def __init__(
    self,
    servers: list[Server],
    model: dict[str, Any],
    look: Callable[[Server], Awaitable[dict[str, Any]]],
    api: Api,
    prompt: Callable[..., Any],
    blocks: Iterator[list[Question]],
    usage: Usage,
    when_down: Callable[[], None],
    config: LlmConfig,
  ):
    """Takes all that it needs, and does nothing yet.

    Args:
      servers: all of the same model.
      model: what a look at each has to give.
      look: tells which model a server has.
      api: what they speak.
      prompt: makes of a document and a label what the API is handed.
      blocks: openers, in blocks; one is read ahead, in a thread.
      usage: counts what this costs.
      when_down: is called each time that a server which is down has failed.
      config: sizes and times.
    """
    self._lanes = [Lane(server, config) for server in servers]
    self._model, self._look = model, look
    self._api, self._prompt, self._blocks = api, prompt, blocks
    self._usage, self._when_down = usage, when_down
    self._patience = config.teacher_patience
    self._pool: collections.deque[Question] = collections.deque()
    self._requests: dict[asyncio.Task, tuple[Lane, list[Question]]] = {}
    self._looks: dict[asyncio.Task, Lane] = {}
    self._reading: asyncio.Task | None = None
    self._has_more, self._is_probing = True, False
    self._too_long: list[Answers] = []
    self._error: UserError | None = None
    self._outage_since: float | None = None
    self._last_failure = ''
    nobody = np.zeros(0, np.int64)
    self._nothing = nobody, take(api.no_answer, nobody)

  async def run(self) -> AsyncIterator[Answers]:
    """Yields `(positions, answers)` as they come, empty ones in between.

    Raises:
      UserError: nobody answered for too long, a server has another model than
        before, or a setting is wrong.
    """
    try:
      while self._is_work_left():
        self._read_on()
        self._send()
        answers = await self._wait()
        for answer in answers or [self._nothing]:
          yield answer
        self._check()
      for answer in self._flush_too_long():
        yield answer
    finally:
      tasks = [*self._requests, *self._looks]
      for task in tasks:
        task.cancel()
      if self._reading:
        tasks.append(self._reading)  # a thread cannot be cancelled
      await asyncio.gather(*tasks, return_exceptions=True)

  def _is_work_left(self) -> bool:
    return bool(
      self._has_more
      or self._pool
      or self._requests
      or any(lane.has_work for lane in self._lanes)
    )

  def _read_on(self) -> None:
    """Prepares the next block while the servers work on this one."""
    if self._has_more and not self._reading and len(self._pool) < _READ_BELOW:
      self._reading = asyncio.create_task(
        asyncio.to_thread(next, self._blocks, [])
      )

  # Sending

  def _send(self) -> None:
    """Fills every server up, the idlest first."""
    for lane in sorted(self._lanes, key=lambda lane: lane.load):
      self._look_again(lane)
      while batch := lane.next_batch(self._pool):
        task = asyncio.create_task(self._ask(lane.server, batch))
        self._requests[task] = lane, batch

  async def _ask(self, server: Server, batch: list[Question]) -> Reply:
    # New names for each attempt: a late answer to an old one is not ours.
    stem = uuid.uuid4().hex
    rids = [f'{stem}-{i}' for i in range(len(batch))]
    prompts = [self._prompt(question.doc, question.label) for question in batch]
    body = self._api.body(prompts, rids)
    return self._api.read(await server.post(self._api.path, body), rids)

  def _look_again(self, lane: Lane) -> None:
    """Asks a server for its model: in doubt, and from time to time."""
    now = time.monotonic()
    if not lane.in_flight and now - lane.heard_at > _IDLE_S:
      lane.is_sure = False  # unseen, it may have been started anew
    due = now - lane.looked_at > _LOOK_EVERY_S or not lane.is_sure
    if due and now >= lane.resume_at and lane not in self._looks.values():
      lane.looked_at = now
      self._looks[asyncio.ensure_future(self._look(lane.server))] = lane

  # Receiving

  async def _wait(self) -> list[Answers]:
    """Waits for something to happen and deals with it."""
    now = time.monotonic()
    pauses = [x.resume_at - now for x in self._lanes if x.resume_at > now]
    timeout = min([_TICK_S, *pauses])
    waiting = {*self._requests, *self._looks, self._reading} - {None}
    if not waiting:
      await asyncio.sleep(timeout)
      return []
    done, _ = await asyncio.wait(
      waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
    )
    answers = []
    for task in done:
      try:
        answers += self._done(task)
      except UserError as e:
        self._error = e  # what others brought is stored first
    return answers

  def _done(self, task: asyncio.Task) -> list[Answers]:
    if task in self._requests:
      return self._returned(*self._requests.pop(task), task)
    if task in self._looks:
      self._looked(self._looks.pop(task), task)
    else:
      self._reading = None
      block = task.result()
      self._pool.extend(block)
      self._has_more = bool(block)
    return []

  def _looked(self, lane: Lane, task: asyncio.Task) -> None:
    try:
      model = task.result()
    except (Lost, Failed, Refused, Malformed) as e:
      if not lane.is_sure:
        self._fail(lane, str(e))
      return
    if model != self._model:
      raise UserError(
        f'{lane.server.url} has another model now, {model}; it was'
        f' {self._model}. All answers so far are kept'
      )
    lane.is_sure, lane.heard_at = True, time.monotonic()

  def _returned(
    self, lane: Lane, batch: list[Question], task: asyncio.Task
  ) -> list[Answers]:
    """Takes a request that is back, with answers or without."""
    lane.in_flight -= len(batch)
    try:
      reply = task.result()
    except Refused as e:
      return self._refused(lane, batch, str(e))
    except (Failed, Malformed) as e:
      self._fail(lane, str(e))
      self._suspect(lane, batch, str(e))
      return []
    except Lost as e:
      if not isinstance(e, Busy):
        lane.is_sure = False  # whoever answers next may be another
      # Or it is this question that brings the server down.
      is_it = lane.is_down and len(batch) == 1
      self._fail(lane, str(e), has_too_much=isinstance(e, Busy))
      if is_it and (isinstance(e, TimedOut) or not isinstance(e, Busy)):
        self._suspect(lane, batch, str(e))
      else:
        self._put_back(lane, batch)
      return []
    if reply.weights - {self._model.get('weights', 'default')}:
      lane.is_sure = False  # a look will tell
      self._fail(lane, f'answers of other weights, {set(reply.weights)}')
      self._put_back(lane, batch)
      return []
    if lane.is_down:
      logging.info('%s answers again', lane.server.url)
    lane.succeed()
    lane.release(batch)
    self._outage_since = None
    self._usage.count(reply)
    return [*self._flush_too_long(), self._answers(batch, reply.answers)]

  def _answers(self, batch: list[Question], answers: Any) -> Answers:
    positions = np.array([question.position for question in batch], np.int64)
    asked = positions != _NOBODY
    self._is_probing &= bool(asked.all())
    return positions[asked], take(answers, asked)

  # What goes wrong

  def _fail(self, lane: Lane, why: str, has_too_much: bool = False) -> None:
    self._usage.retries += 1
    self._last_failure = f'{lane.server.url}: {why}'
    if self._outage_since is None:
      self._outage_since = time.monotonic()
    if lane.fail(has_too_much):
      logging.warning('%s does not answer (%s)', lane.server.url, why)
    if lane.is_down:
      self._when_down()
    self._share(lane)

  def _share(self, lane: Lane) -> None:
    """What a server that is down has to do, any may do."""
    if lane.is_down:
      self._pool.extendleft(lane.empty())

  def _put_back(self, lane: Lane, batch: list[Question]) -> None:
    lane.put_back(batch)
    self._share(lane)

  def _release(self, lane: Lane, batch: list[Question]) -> None:
    lane.release(batch)
    self._share(lane)

  def _suspect(self, lane: Lane, batch: list[Question], why: str) -> None:
    """Perhaps one of the prompts breaks the server: ask in smaller parts."""
    for question in batch:
      question.suspicion += 1
    if len(batch) > 1:
      self._put_back(lane, batch)
      return
    (question,) = batch
    is_it_alone = self._usage.num_answers > question.num_answers
    if question.suspicion >= _GIVE_UP_AFTER and is_it_alone:
      logging.log_first_n(
        logging.WARNING,
        'a question is left out, it always fails: %s',
        _WARNINGS,
        why,
      )
      self._usage.given_up += question.position != _NOBODY
      self._is_probing &= question.position != _NOBODY
      self._release(lane, batch)
      return
    # Others go first, and if there are none a question of our own: whether
    # they are answered tells if it is the server that fails.
    question.num_answers = self._usage.num_answers
    lane.hand_over(question)
    self._pool.append(question)
    if not self._is_probing:
      self._is_probing = True
      self._pool.appendleft(Question(_NOBODY, '', ''))

  def _refused(
    self, lane: Lane, batch: list[Question], why: str
  ) -> list[Answers]:
    """Too long a prompt, mostly: one spoils its whole batch."""
    if len(batch) > 1:
      self._usage.retries += 1
      for question in batch:
        question.suspicion += 1
      self._put_back(lane, batch)
      return []
    if not _is_too_long(why):
      if not self._usage.num_answers:
        raise UserError(f'{lane.server.url} refuses to answer: {why}')
      self._fail(lane, why)
      self._suspect(lane, batch, why)
      return []
    self._outage_since = None
    logging.log_first_n(
      logging.WARNING,
      'a question that cannot be answered: %s',
      _WARNINGS,
      why,
    )
    self._release(lane, batch)
    # All of them may be too long for a server with a small context: then
    # nothing is stored that a larger one could answer.
    self._too_long.append(self._answers(batch, self._api.no_answer))
    if self._usage.num_answers:
      return self._flush_too_long()
    if len(self._too_long) >= _ALL_TOO_LONG:
      raise UserError(
        f'{lane.server.url} finds every question too long ({why}); lower'
        f' {self._api.shorten} or give the server a larger context'
      )
    return []

  def _flush_too_long(self) -> list[Answers]:
    found, self._too_long = self._too_long, []
    return found

  def _check(self) -> None:
    if self._error:
      raise self._error
    since = self._outage_since
    if since is not None and time.monotonic() - since > self._patience:
      raise UserError(
        f'no answer from the teacher for {self._patience:g} s'
        f' (--teacher_patience), last from {self._last_failure}; all answers so'
        ' far are kept, and the same command goes on'
      )


def _is_too_long(why: str) -> bool:
  return any(word in why.lower() for word in ('long', 'length', 'exceed'))
