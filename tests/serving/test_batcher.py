"""Who waits for whom, and what becomes of those who cannot be answered."""

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from lmtx_jax.serving import batcher as batcher_lib
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.errors import Refused
from lmtx_jax.serving.metrics import Metrics
from lmtx_jax.serving.shapes import Shape
from lmtx_jax.types import Record


class FakeTagger:
  """Tags with the document's own text; waits for `open` before each batch."""

  shapes = (Shape(16, 1), Shape(8, 1), Shape(16, 4), Shape(8, 4))

  def __init__(self):
    self.compiled = self.shapes
    self.open = threading.Event()
    self.told: list[list[int]] = []
    self.batches: list[tuple[Shape, list[int]]] = []
    self.threads = set()

  def tokens(self, records):
    self.threads.add(threading.current_thread())
    self.told.append([len(record.content) for record in records])
    if any('untold' in record.content for record in records):
      raise ValueError('no tokens')
    return [np.arange(len(record.content)) for record in records]

  def embed(self, tokens, shape):
    self.threads.add(threading.current_thread())
    self.open.wait(30)
    self.batches.append((shape, [len(ids) for ids in tokens]))
    if any(len(ids) == 13 for ids in tokens):
      raise ValueError('unlucky')
    return np.array([[len(ids)] for ids in tokens], np.float32)

  def look_up(self, embeddings, records, top_k):
    return [[int(x)] * k for (x,), k in zip(embeddings, top_k, strict=True)]


def started(tagger, window_s=0.0, of_all=100, of_client=50):
  batcher = Batcher(
    tagger,
    Metrics(),
    window_s=window_s,
    max_waiting=of_all,
    max_waiting_of_client=of_client,
  )
  batcher.start()
  return batcher


@pytest.fixture
def tagger():
  return FakeTagger()


@pytest.fixture
def batcher(tagger):
  batcher = started(tagger)
  yield batcher
  tagger.open.set()
  batcher.close()


def texts(*lengths):
  return [Record('', '', 'x' * length) for length in lengths]


async def ask(batcher, *lengths, top_k=1, client='a'):
  return await batcher.tag(texts(*lengths), top_k, client)


async def settled(tasks=()):
  """Lets everything happen that can."""
  for _ in range(20):
    await asyncio.sleep(0.01)
  return [task.done() for task in tasks]


def test_everyone_gets_their_own(tagger, batcher):
  async def main():
    tagger.open.set()
    return await asyncio.gather(
      ask(batcher, 3, 9, 1), ask(batcher, 5, top_k=2), ask(batcher, 12)
    )

  assert asyncio.run(main()) == [[[3], [9], [1]], [[5, 5]], [[12]]]
  assert len(tagger.threads) == 1  # one thread has the device
  assert threading.current_thread() not in tagger.threads


def test_a_document_without_tokens_has_no_labels(tagger, batcher):
  async def main():
    tagger.open.set()
    return await ask(batcher, 0, 3, 0)

  assert asyncio.run(main()) == [[], [3], []]
  assert [sizes for _, sizes in tagger.batches] == [[3]]


def test_documents_of_clients_share_batches_of_their_width(tagger, batcher):
  async def main():
    first = asyncio.create_task(ask(batcher, 1))
    await settled()  # it is under way, and the others wait together
    others = [
      asyncio.create_task(ask(batcher, length, client=str(length)))
      for length in (2, 10, 3, 11, 4, 12, 5)
    ]
    await settled()
    tagger.open.set()
    await asyncio.gather(first, *others)

  asyncio.run(main())
  assert tagger.batches == [
    (Shape(8, 1), [1]),
    (Shape(8, 4), [2, 3, 4, 5]),
    (Shape(16, 4), [10, 11, 12]),
  ]


def test_only_compiled_shapes_are_used(tagger, batcher):
  tagger.compiled = (Shape(16, 1),)

  async def main():
    tagger.open.set()
    await ask(batcher, 1, 2, 3, 4, 5, 9)

  asyncio.run(main())
  assert {shape for shape, _ in tagger.batches} == {Shape(16, 1)}


def test_one_document_does_not_wait_for_all_of_a_large_request(tagger, batcher):
  async def main():
    large = asyncio.create_task(ask(batcher, *[5] * 40))
    await settled()
    small = asyncio.create_task(ask(batcher, 3, client='b'))
    await settled()
    tagger.open.set()
    await asyncio.gather(large, small)

  asyncio.run(main())
  place = next(i for i, (_, sizes) in enumerate(tagger.batches) if 3 in sizes)
  assert place <= 2
  assert len(tagger.batches) >= 10


def test_short_documents_do_not_wait_for_long_ones_that_came_first(
  tagger, batcher, monkeypatch
):
  """One long text is tokenised between two batches, and those due before it."""
  monkeypatch.setattr(batcher_lib, '_TAKE_IN_CHARS', 10)

  async def main():
    first = asyncio.create_task(ask(batcher, 1))
    await settled()
    large = asyncio.create_task(ask(batcher, *[12] * 20))
    await settled()
    small = asyncio.create_task(ask(batcher, 3, 4, client='b'))
    await settled()
    tagger.open.set()
    return await asyncio.gather(first, large, small)

  assert asyncio.run(main()) == [[[1]], [[12]] * 20, [[3], [4]]]
  assert tagger.told[:5] == [[1], [12], [3], [12], [4]]
  assert [12, 12] not in tagger.told
  place = next(i for i, (_, sizes) in enumerate(tagger.batches) if 3 in sizes)
  assert place <= 2


def test_a_large_request_is_not_starved(tagger, batcher):
  """Single documents keep coming, of another width; the large one ends too."""

  async def main():
    tagger.open.set()
    large = asyncio.create_task(ask(batcher, *[5] * 8))
    count = 0
    while not large.done() and count < 1000:
      await asyncio.gather(*(ask(batcher, 12, client='b') for _ in range(8)))
      count += 1
    assert large.done()

  asyncio.run(main())


def test_of_documents_that_fail_only_the_guilty_does(tagger, batcher):
  async def main():
    tagger.open.set()
    return await asyncio.gather(
      ask(batcher, 9),
      ask(batcher, 13),
      batcher.tag([Record('', '', 'untold')], 1, 'a'),
      ask(batcher, 12),
      return_exceptions=True,
    )

  good, bad, untold, also_good = asyncio.run(main())
  assert (good, also_good) == ([[9]], [[12]])
  assert str(bad) == 'unlucky'
  assert str(untold) == 'no tokens'
  assert batcher.num_waiting == 0


@pytest.mark.parametrize(
  ('client', 'count', 'status'), [('a', 21, 429), ('b', 51, 503)]
)
def test_too_many_waiting_are_refused(tagger, client, count, status):
  batcher = started(tagger, of_all=80, of_client=50)

  async def main():
    waiting = asyncio.create_task(ask(batcher, *[5] * 30))
    await settled()
    with pytest.raises(Refused) as e:
      await ask(batcher, *[5] * count, client=client)
    assert e.value.status == status
    assert e.value.headers['Retry-After']
    tagger.open.set()
    await waiting
    assert batcher.num_waiting == 0
    assert len(await ask(batcher, *[5] * 50, client=client)) == 50

  asyncio.run(main())
  batcher.close()


def test_what_waits_is_answered_when_it_closes_and_nothing_after(tagger):
  batcher = started(tagger)

  async def main():
    waiting = asyncio.create_task(ask(batcher, *[5] * 20))
    await settled()
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    await settled()
    with pytest.raises(Refused) as e:
      await ask(batcher, 5)
    assert e.value.status == 503
    with pytest.raises(Refused):
      await batcher.call(int)
    tagger.open.set()
    await closing
    return await waiting

  assert asyncio.run(main()) == [[5]] * 20


def test_calls_run_in_the_thread_of_the_device(tagger, batcher):
  def fail():
    raise ValueError('as told')

  async def main():
    tagger.open.set()
    await ask(batcher, 1)
    thread = await batcher.call(threading.current_thread)
    with pytest.raises(ValueError, match='as told'):
      await batcher.call(fail)
    return thread

  assert {asyncio.run(main())} == tagger.threads


def test_who_has_gone_is_no_trouble(tagger, batcher):
  async def main():
    gone = asyncio.create_task(ask(batcher, 5))
    await settled()
    gone.cancel()
    tagger.open.set()
    return await ask(batcher, 6)

  assert asyncio.run(main()) == [[6]]
  assert batcher.num_waiting == 0


def test_the_window_gathers_documents_that_come_apart(tagger):
  batcher = started(tagger, window_s=5)

  async def main():
    tagger.open.set()
    asked = []
    for length in (1, 2, 3, 4):
      asked.append(asyncio.create_task(ask(batcher, length)))
      await asyncio.sleep(0.01)
    await asyncio.wait_for(
      asyncio.gather(*asked), 4
    )  # a full batch does not wait

  asyncio.run(main())
  batcher.close()
  assert tagger.batches == [(Shape(8, 4), [1, 2, 3, 4])]


def test_what_nobody_awaits_is_dropped_when_it_closes(tagger):
  batcher = started(tagger)

  async def main():
    under_way = asyncio.create_task(ask(batcher, 5))
    await settled()
    gone = asyncio.create_task(ask(batcher, *[6] * 20, client='b'))
    kept = asyncio.create_task(ask(batcher, 7))
    await settled()
    gone.cancel()
    await settled()
    tagger.open.set()
    await asyncio.to_thread(batcher.close)
    return await asyncio.gather(under_way, kept)

  assert asyncio.run(main()) == [[[5]], [[7]]]
  assert [sizes for _, sizes in tagger.batches] == [[5], [7]]
  assert batcher.num_waiting == 0
  batcher.close()  # again is no harm
  assert not batcher.is_alive


def test_an_event_loop_that_ended_does_not_end_it(tagger, batcher):
  async def leave():
    asked = batcher.tag(texts(5), 1, 'a'), batcher.call(int)
    for coroutine in asked:
      coroutine.send(None)  # it waits now, and no task is there to cancel
    return asked

  left = asyncio.run(leave())
  tagger.open.set()

  async def main():
    return await ask(batcher, 6)

  assert asyncio.run(main()) == [[6]]
  assert batcher.is_alive
  for coroutine in left:
    with contextlib.suppress(RuntimeError):
      coroutine.close()


def test_so_many_calls_may_wait(tagger, batcher):
  async def main():
    under_way = asyncio.create_task(ask(batcher, 5))
    await settled()
    calls = [asyncio.create_task(batcher.call(int)) for _ in range(65)]
    await settled()
    with pytest.raises(Refused) as e:
      await calls[-1]
    assert e.value.status == 503
    tagger.open.set()
    await under_way
    assert await asyncio.gather(*calls[:-1]) == [0] * 64

  asyncio.run(main())
