"""What stands before the app, around apps that behave in all ways."""

import asyncio
import json

from fastapi import Request
import pytest

from lmtx_jax.serving import limits as limits_lib
from lmtx_jax.serving.bodies import check_outline
from lmtx_jax.serving.errors import Refused
from lmtx_jax.serving.keys import Keys
from lmtx_jax.serving.limits import Gate, Limits
from lmtx_jax.serving.metrics import Metrics

LIMITS = Limits(1000, 4, 100, 5, 2000)


class FakeClient:
  """Sends parts of a body, then is silent; keeps what it is answered."""

  def __init__(self, *parts, leaves=False):
    self.parts = list(parts)
    self.leaves = leaves
    self.answer = []

  async def receive(self):
    if self.parts:
      return {
        'type': 'http.request',
        'body': self.parts.pop(0),
        'more_body': True,
      }
    if self.leaves:
      return {'type': 'http.disconnect'}
    await asyncio.Event().wait()

  async def send(self, message):
    self.answer.append(message)

  @property
  def status(self):
    return self.answer[0]['status']

  @property
  def error(self):
    assert (b'x-content-type-options', b'nosniff') in self.answer[0]['headers']
    return json.loads(self.answer[1]['body'])['error']['message']


async def ask(app, client, metrics=None, most=1000):
  metrics = metrics or Metrics()
  gate = Gate(app, metrics, most, 2000)
  await gate({'type': 'http', 'headers': []}, client.receive, client.send)


def counted(metrics):
  return [
    line.partition('status=')[2]
    for line in metrics.text().decode().splitlines()
    if line.startswith('lmtx_requests_total')
  ]


async def fails(scope, receive, send):
  raise ValueError('as told')


async def hangs(scope, receive, send):
  await asyncio.Event().wait()


async def reads(scope, receive, send):
  message = await receive()
  await send(
    {'type': 'http.response.start', 'status': 200, 'more': message['body']}
  )


def test_what_fails_is_counted_and_answered():
  metrics, client = Metrics(), FakeClient()
  with pytest.raises(ValueError, match='as told'):
    asyncio.run(ask(fails, client, metrics))
  assert client.status == 500
  assert 'its log tells why' in client.error
  assert counted(metrics) == ['"500"} 1.0']


def test_what_is_cut_is_told_that_the_service_stops():
  metrics, client = Metrics(), FakeClient()

  async def main():
    asking = asyncio.create_task(ask(hangs, client, metrics))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asking

  asyncio.run(main())
  assert client.status == 503
  assert 'being stopped' in client.error
  assert counted(metrics) == ['"503"} 1.0']


def test_a_body_that_does_not_come_is_not_awaited_forever(monkeypatch):
  monkeypatch.setattr(limits_lib, '_READ_S', 0.01)
  with pytest.raises(Refused) as e:
    asyncio.run(ask(reads, FakeClient(b'half')))
  assert e.value.status == 408


def test_bodies_beyond_what_is_read_of_large_ones_are_whole(monkeypatch):
  monkeypatch.setattr(limits_lib, '_READ', 10)
  client = FakeClient(*[b'x' * 10] * 5, leaves=True)
  client.parts.append(b'')
  received = []

  async def app(scope, receive, send):
    received.append(await receive())

  async def last(receive=client.receive):
    message = await receive()
    return {**message, 'more_body': bool(client.parts)}

  client.receive = last
  asyncio.run(ask(app, client))
  assert received[0]['body'] == b'x' * 50


def test_bodies_of_all_may_take_so_much():
  gate = Gate(reads, Metrics(), 1000, 1000)

  async def main():
    scope = {'type': 'http', 'headers': []}
    first, second = (FakeClient(b'x' * 400, b'y' * 400) for _ in range(2))
    slow = asyncio.create_task(gate(scope, first.receive, first.send))
    await asyncio.sleep(0.01)  # it has sent 800 bytes, and more is to come

    async def rest():
      message = await FakeClient.receive(second)
      return {**message, 'more_body': bool(second.parts)}

    with pytest.raises(Refused) as e:
      await gate(scope, rest, second.send)
    assert (e.value.status, second.parts) == (503, [])
    assert e.value.headers['Retry-After']
    slow.cancel()
    await slow
    again = FakeClient(b'x' * 900)

    async def whole():
      return {**await FakeClient.receive(again), 'more_body': False}

    await gate(scope, whole, again.send)
    assert len(again.answer[0]['more']) == 900

  asyncio.run(main())


class CountingList(list):
  """Counts what is looked at."""

  looked = 0

  def __iter__(self):
    for item in super().__iter__():
      self.looked += 1
      yield item


def test_a_body_of_many_wrong_items_is_not_looked_through():
  items = CountingList([1] * 5)
  with pytest.raises(Refused) as e:
    check_outline({'documents': items}, LIMITS)
  assert (e.value.status, items.looked) == (413, 0)
  items = CountingList([{}, 1, 1, 1])
  with pytest.raises(Refused, match=r'documents\.1: ') as e:
    check_outline({'documents': items}, LIMITS)
  assert (e.value.status, items.looked) == (422, 2)


@pytest.mark.parametrize(
  'body',
  [
    1,
    [],
    {str(i): 1 for i in range(9)},
    {'labels': [{str(i): 1 for i in range(9)}]},
  ],
)
def test_outlines_that_cannot_be(body):
  with pytest.raises(Refused) as e:
    check_outline(body, LIMITS)
  assert e.value.status == 422


@pytest.mark.parametrize('most', [3, 10, 50])
def test_without_a_wish_there_are_as_many_labels_as_may_be(most):
  limits = Limits(1000, 4, 100, most, 2000)
  assert limits.top_k(None) == min(10, most)
  assert limits.top_k(most) == most
  with pytest.raises(Refused):
    limits.top_k(most + 1)


def test_a_client_is_the_same_however_it_spells_its_key():
  keys = Keys(['key-for-tagging'], [])

  def client(text):
    headers = [(b'authorization', text.encode())]
    return keys.client(Request({'type': 'http', 'headers': headers}))

  same = {
    client(f'{kind}{space}key-for-tagging')
    for kind in ('Bearer', 'bearer', 'BEARER')
    for space in (' ', '  ')
  }
  assert len(same) == 1
  assert client('Bearer another-key') not in same
