"""Load on a service with mistakes in it, while labels come and go."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import json
import math
import re
import time
from typing import Any
import urllib.request

import aiohttp
import numpy as np

KEY = 'key-of-this-benchmark'
_LOOK_S = 5  # between looks at the memory
_BAD = (
  b'{"documents": [',
  b'{"documents": []}',
  b'{"documents": [{"content": ""}]}',
  b'{"documents": [{"content": "x"}], "top_k": NaN}',
  b'{"documents": [{"text": "x"}]}',
  b'\x00\xff\xfe',
  b'[' * 5000,
  b'{"documents": [{"content": "' + b'x ' * 200_000 + b'"}]}',
)


@dataclasses.dataclass(frozen=True)
class Service:
  """One that runs.

  Attributes:
    url: where.
    start_s: seconds from the command to its first answer.
  """

  url: str
  start_s: float

  def metric(self, name: str) -> float:
    """A number of /metrics."""
    with urllib.request.urlopen(f'{self.url}/metrics') as response:
      text = response.read().decode()
    return float(re.search(rf'^{name} (\S+)$', text, re.MULTILINE)[1])


def new_session() -> aiohttp.ClientSession:
  """Connections as many as clients."""
  return aiohttp.ClientSession(
    headers={'Content-Type': 'application/json'},
    connector=aiohttp.TCPConnector(limit=0),
  )


def memory_facts(looks: list[tuple[float, float]]) -> dict[str, float]:
  """What memory did in the second half of the looks.

  Args:
    looks: seconds, and bytes.
  """
  half = np.array(looks[len(looks) // 2 :])  # [num_looks, 2]
  slope = math.nan
  if len(half) > 1:
    slope = np.polyfit(half[:, 0] / 60, half[:, 1] / 2**20, 1)[0]
  return {
    'min_rss_mib': half[:, 1].min() / 2**20,
    'max_rss_mib': half[:, 1].max() / 2**20,
    'rss_mib_a_minute': float(slope),
  }


class Soak:
  """Load with mistakes in it, while labels come and go."""

  def __init__(self, service: Service, bodies: list[bytes], expected: list):
    self._service = service
    self._bodies = bodies
    self._expected = expected
    self._statuses = collections.Counter()
    self._wrong = 0
    self._changes = 0
    self._late = 0
    self._until = 0.0
    self._label_times: dict[str, list[float]] = {}  # added; then removed too
    self._number = itertools.count()

  async def run(self, clients: int, duration_s: float) -> dict[str, Any]:
    """Asks for so many seconds; tells what came of it."""
    self._until = time.monotonic() + duration_s
    async with new_session() as session:
      memory, *_ = await asyncio.gather(
        self._look(),
        self._change_labels(session),
        *(self._client(session) for _ in range(clients)),
      )
    return {
      'clients': clients,
      'seconds': duration_s,
      'statuses': dict(sorted(self._statuses.items())),
      'wrong_answers': self._wrong,
      'label_changes': self._changes,
      'changes_not_seen': self._late,
      **memory_facts(memory),
    }

  async def _look(self) -> list[tuple[float, float]]:
    """Seconds, and bytes of resident memory."""
    found, start = [], time.monotonic()
    while (now := time.monotonic()) < self._until:
      name = 'process_resident_memory_bytes'
      size = await asyncio.to_thread(self._service.metric, name)
      found.append((now - start, size))
      await asyncio.sleep(min(_LOOK_S, max(0, self._until - time.monotonic())))
    return found

  async def _client(self, session: aiohttp.ClientSession) -> None:
    while time.monotonic() < self._until:
      number = next(self._number)
      bad = number % 20 == 0
      place = number * 7 % len(self._bodies)
      body = _BAD[number // 20 % len(_BAD)] if bad else self._bodies[place]
      start = time.monotonic()
      status, answer = await self._ask(session, body)
      asked = start, time.monotonic()
      self._statuses[f'{"bad" if bad else "good"} {status}'] += 1
      if status == 200 and not self._is_right(answer, place, asked):
        self._wrong += 1
      if status == 503:
        await asyncio.sleep(0.2)

  async def _ask(
    self, session: aiohttp.ClientSession, body: bytes
  ) -> tuple[int, Any]:
    async with session.post(
      f'{self._service.url}/v1/tag', data=body
    ) as response:
      return response.status, await response.json()

  def _is_right(
    self, answer: Any, place: int, asked: tuple[float, float]
  ) -> bool:
    """As many labels of the document, but for those that come and go.

    Args:
      answer: of the service.
      place: of the document.
      asked: when the request began, and when its answer was there.
    """
    (row,), (expected,) = answer['results'], self._expected[place]['results']
    scores = {x['uid']: x['score'] for x in expected['labels']}
    least = min(scores.values())
    return (
      row['uid'] == expected['uid']
      and len(row['labels']) == len(scores)
      and len({x['uid'] for x in row['labels']}) == len(scores)
      and all(
        self._was_live(x['uid'], asked)
        if x['uid'].startswith('soak-')
        else abs(scores.get(x['uid'], least) - x['score']) < 1e-4
        for x in row['labels']
      )
    )

  def _was_live(self, uid: str, asked: tuple[float, float]) -> bool:
    """Whether a label may have been there at some time of a request."""
    start, end = asked
    added, *removed = self._label_times.get(uid, [math.inf])
    return added <= end and (not removed or removed[0] >= start)

  async def _change_labels(self, session: aiohttp.ClientSession) -> None:
    """Adds a label, looks for it, removes it, looks again."""
    url = f'{self._service.url}/v1/labels'
    headers = {'Authorization': f'Bearer {KEY}'}
    while time.monotonic() < self._until:
      uid, title = f'soak-{self._changes}', f'quaint label {self._changes}'
      body = json.dumps({'labels': [{'uid': uid, 'title': title}]})
      self._label_times[uid] = [time.monotonic()]
      async with session.post(url, data=body, headers=headers) as response:
        response.raise_for_status()
      self._late += not await self._is_found(session, uid, title)
      async with session.delete(f'{url}/{uid}', headers=headers) as response:
        response.raise_for_status()
      self._label_times[uid].append(time.monotonic())
      self._late += await self._is_found(session, uid, title)
      self._changes += 2

  async def _is_found(
    self, session: aiohttp.ClientSession, uid: str, title: str
  ) -> bool:
    status, answer = 503, None
    while status in (429, 503):
      body = json.dumps({'documents': [{'content': title}]}).encode()
      status, answer = await self._ask(session, body)
    return uid in {x['uid'] for x in answer['results'][0]['labels']}
