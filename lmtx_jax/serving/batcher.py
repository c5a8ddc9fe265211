"""Documents of all clients, batched for the one thread that has the device.

Who comes first is decided by a clock that each batch moves on: the documents of
a request are due at this tick, the next, and so on. So a request of one
document does not wait for all of a large one that came before it.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
import heapq
import itertools
import threading
import time
from typing import Any

from absl import logging
import numpy as np

from lmtx_jax.serving.documents import Document, hand_over
from lmtx_jax.serving.errors import Refused
from lmtx_jax.serving.metrics import Metrics
from lmtx_jax.serving.shapes import Shape, size_for, width_for
from lmtx_jax.serving.tagger import Tagger
from lmtx_jax.types import Record

_RETRY = {'Retry-After': '1'}
_MAX_CALLS = 64  # that wait
# Between batches, texts are tokenised for so long, about so many characters at
# a time. Of texts that have as many, one is: it may take 0.1 s, and without
# one the clock would run ahead of them.
_TAKE_IN_S = 0.02
_TAKE_IN_CHARS = 2**15


class Batcher:
  """Takes documents from the event loop, has them tagged by a thread."""

  def __init__(
    self,
    tagger: Tagger,
    metrics: Metrics,
    *,
    window_s: float,
    max_waiting: int,
    max_waiting_of_client: int,
  ):
    """Takes what tags.

    Args:
      tagger: its first shape is compiled.
      metrics: told of batches.
      window_s: seconds that a device without work waits for a second document,
        once it has a first.
      max_waiting: documents of all clients that may wait.
      max_waiting_of_client: documents of one client that may wait.
    """
    self._tagger = tagger
    self._metrics = metrics
    self._window_s = window_s
    self._max_waiting = max_waiting
    self._max_of_client = max_waiting_of_client
    self._changed = threading.Condition()  # guards what follows
    self._arrived: list[Document] = []
    self._calls: collections.deque[Callable[[], None]] = collections.deque()
    self._waiting = collections.Counter()  # documents of each client
    self._closed = False
    # Only the thread looks at these.
    self._unread: list[tuple[int, int, Document]] = []  # no tokens yet; a heap
    self._buckets: dict[int, list] = collections.defaultdict(list)
    self._number = itertools.count()
    self._tick = 0
    self._thread = threading.Thread(
      target=self._run, name='device', daemon=True
    )

  def start(self) -> None:
    """Starts the thread."""
    self._thread.start()

  def close(self) -> None:
    """Answers what waits, then ends the thread; what comes now is refused.

    Nothing is done for who has gone. May be called again.
    """
    with self._changed:
      self._closed = True
      self._changed.notify()
    if self._thread.is_alive():
      self._thread.join()

  @property
  def is_alive(self) -> bool:
    """Whether the thread runs, without which nothing is answered."""
    return self._thread.is_alive()

  @property
  def num_waiting(self) -> int:
    """Documents that have no answer yet."""
    return self._waiting.total()

  async def tag(
    self, records: Sequence[Record], top_k: int, client: str
  ) -> list[list[dict[str, Any]]]:
    """The labels of documents, best first.

    Args:
      records: one or more documents.
      top_k: labels of each.
      client: who asks.

    Raises:
      Refused: 429 if the client has too many waiting, 503 if all have.
    """
    loop = asyncio.get_running_loop()
    with self._changed:
      self._admit(len(records), client)
      documents = [
        Document(
          record, top_k, client, self._tick + i, loop, loop.create_future()
        )
        for i, record in enumerate(records)
      ]
      self._waiting[client] += len(documents)
      self._arrived += documents
      self._changed.notify()
    return await asyncio.gather(*(document.answer for document in documents))

  def _admit(self, count: int, client: str) -> None:
    if self._closed:
      raise Refused(503, 'the service is being stopped', _RETRY)
    if self._waiting.total() + count > self._max_waiting:
      raise Refused(503, 'too many documents wait; try again later', _RETRY)
    if self._waiting[client] + count > self._max_of_client:
      raise Refused(
        429,
        f'at most {self._max_of_client} documents of one client may wait',
        _RETRY,
      )

  async def call(self, function: Callable[[], Any]) -> Any:
    """Has a function called between batches, by the thread of the device.

    Raises:
      Refused: 503 if too many wait or it is closed.
    """
    loop = asyncio.get_running_loop()
    answer = loop.create_future()

    def run() -> None:
      if answer.done():
        return
      try:
        result = function()
      except Exception as e:
        result = e
      hand_over(loop, [(answer, result)])

    with self._changed:
      if self._closed:
        raise Refused(503, 'the service is being stopped', _RETRY)
      if len(self._calls) >= _MAX_CALLS:
        raise Refused(503, 'too many ask at once; try again later', _RETRY)
      self._calls.append(run)
      self._changed.notify()
    return await answer

  def _run(self) -> None:
    """The thread: takes what arrived, tags the batch that is due first."""
    while True:
      with self._changed:
        while not (self._arrived or self._calls or self._held or self._closed):
          self._changed.wait()
        if not (self._arrived or self._calls or self._held):
          return
        if self._arrived and not self._held:
          self._await_more()
        arrived, self._arrived = self._arrived, []
        calls = [self._calls.popleft() for _ in range(len(self._calls))]
      for call in calls:
        call()
      for document in arrived:
        item = (document.due, next(self._number), document)
        heapq.heappush(self._unread, item)
      self._take_in()
      self._drop_gone()
      if any(self._buckets.values()):
        batch, shape = self._next_batch()
        self._guarded(batch, lambda some: self._tag(some, shape))  # noqa: B023

  @property
  def _held(self) -> bool:
    return bool(self._unread) or any(self._buckets.values())

  def _await_more(self) -> None:
    """Gives other clients a moment, for a batch is quicker than its parts."""
    most = max(shape.size for shape in self._tagger.compiled)
    until = time.monotonic() + self._window_s
    while len(self._arrived) < most and not self._closed:
      left = until - time.monotonic()
      if left <= 0 or not self._changed.wait(left):
        return

  def _take_in(self) -> None:
    """Tokenises some documents, one long one of them at most."""
    seconds, may_be_long = _TAKE_IN_S, True
    while seconds > 0 and (some := self._next_unread(may_be_long)):
      start = time.monotonic()
      self._guarded(some, self._tokenise)
      if _is_long(some[0]):
        may_be_long = False  # and who is due after it has the time in full
      else:
        seconds -= time.monotonic() - start

  def _next_unread(self, may_be_long: bool) -> list[Document]:
    """The documents that are due first: one long one, or some others."""
    some, size = [], 0
    while self._unread and size < _TAKE_IN_CHARS:
      document = self._unread[0][2]
      if document.is_gone:
        self._answer([document], [None])
      elif _is_long(document) and (some or not may_be_long):
        break
      else:
        some.append(document)
        size += document.num_chars
      heapq.heappop(self._unread)
    return some

  def _tokenise(self, documents: Sequence[Document]) -> None:
    """Puts documents where those of their width wait."""
    tokens = self._tagger.tokens([document.record for document in documents])
    for document, ids in zip(documents, tokens, strict=True):
      if not len(ids):  # nothing can be told of it
        self._answer([document], [[]])
        continue
      width = width_for(len(ids) + 2, self._tagger.shapes)
      item = (document.due, next(self._number), document, ids)
      heapq.heappush(self._buckets[width], item)

  def _drop_gone(self) -> None:
    """Forgets documents that nobody awaits: a service that ends is quick."""
    for width, bucket in self._buckets.items():
      gone = [item for item in bucket if item[2].is_gone]
      if not gone:
        continue
      numbers = {item[1] for item in gone}
      kept = [item for item in bucket if item[1] not in numbers]
      heapq.heapify(kept)
      self._buckets[width] = kept
      self._answer([item[2] for item in gone], [None] * len(gone))

  def _next_batch(self) -> tuple[list[tuple[Document, np.ndarray]], Shape]:
    """The documents of the width that is due first, at a compiled shape."""
    width = min(
      (width for width, bucket in self._buckets.items() if bucket),
      key=lambda width: self._buckets[width][0][:2],
    )
    bucket, compiled = self._buckets[width], self._tagger.compiled
    wide = width_for(width, compiled)
    size = size_for(len(bucket), wide, compiled)
    items = [heapq.heappop(bucket) for _ in range(min(size, len(bucket)))]
    with self._changed:
      self._tick += 1
    return [item[2:] for item in items], Shape(wide, size)

  def _tag(
    self, batch: Sequence[tuple[Document, np.ndarray]], shape: Shape
  ) -> None:
    """Embeds and looks up one batch, and hands its answers over."""
    start = time.monotonic()
    embeddings = self._tagger.embed([ids for _, ids in batch], shape)
    middle = time.monotonic()
    labels = self._tagger.look_up(
      embeddings,
      [document.record for document, _ in batch],
      [document.top_k for document, _ in batch],
    )
    self._metrics.batch(
      len(batch), shape, middle - start, time.monotonic() - middle
    )
    self._answer([document for document, _ in batch], labels)

  def _guarded(self, items: Sequence, function: Callable) -> None:
    """Calls a function of items; of many that fail, only the guilty do."""
    try:
      function(items)
    except Exception as e:
      if len(items) == 1:
        item = items[0]
        document = item if isinstance(item, Document) else item[0]
        logging.exception('a document failed')
        self._answer([document], [e])
        return
      for item in items:
        self._guarded([item], function)

  def _answer(self, documents: Sequence[Document], results: Sequence) -> None:
    """Hands labels or an error over to who awaits them."""
    with self._changed:
      for document in documents:
        self._waiting[document.client] -= 1
        if not self._waiting[document.client]:
          del self._waiting[document.client]
    by_loop = collections.defaultdict(list)
    for document, result in zip(documents, results, strict=True):
      by_loop[document.loop].append((document.answer, result))
    for loop, answers in by_loop.items():
      hand_over(loop, answers)


def _is_long(document: Document) -> bool:
  return document.num_chars >= _TAKE_IN_CHARS
