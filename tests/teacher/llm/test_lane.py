"""One server's queue."""

import collections
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm import lane as lane_lib
from lmtx_jax.teacher.llm.lane import Lane, Question


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
  monkeypatch.setattr(lane_lib, '_FIRST_PAUSE_S', 0.0)


def make_lane(batch=4, in_flight=8):
  lane = Lane(
    None, LlmConfig(teacher_batch_size=batch, teacher_in_flight=in_flight)
  )
  lane.is_sure = True
  return lane


def openers(*sizes):
  """Openers of documents with so many questions each."""
  numbers = itertools.count()
  pool = collections.deque()
  for i, size in enumerate(sizes):
    doc = f'document {i}'
    first, *others = (Question(next(numbers), doc, str(n)) for n in range(size))
    first.waiting = others
    pool.append(first)
  return pool


def positions(batch):
  return [question.position for question in batch]


def everything(*sources):
  """Positions of all questions, also of those that wait for others."""
  found = []
  for question in itertools.chain(*sources):
    found += [question.position, *positions(question.waiting)]
    assert not any(other.waiting for other in question.waiting)
  return sorted(found)


def test_openers_go_first_and_followers_when_they_are_back():
  lane, pool = make_lane(), openers(3, 2)
  first = lane.next_batch(pool)
  assert positions(first) == [0, 3] and lane.in_flight == 2
  assert lane.next_batch(pool) == [] and not lane.has_work
  lane.in_flight -= 2
  lane.release(first)
  assert positions(lane.next_batch(pool)) == [1, 2, 4]
  assert not lane.has_work


def test_few_documents_are_open_at_a_time():
  lane, pool = make_lane(batch=4, in_flight=8), openers(*[6] * 10)
  first = lane.next_batch(pool)
  assert len(first) == 2  # 10 followers are promised already
  lane.in_flight -= 2
  lane.release(first)
  assert positions(lane.next_batch(pool)) == [1, 2, 3, 4]
  assert len(pool) == 8


def test_one_request_holds_no_more_than_may_be_in_flight():
  lane, pool = make_lane(batch=32, in_flight=5), openers(*[1] * 9)
  assert len(lane.next_batch(pool)) == 5
  assert lane.next_batch(pool) == []
  assert lane.load == 1.0


def test_questions_that_are_put_back_go_first():
  lane, pool = make_lane(), openers(*[1] * 6)
  batch = lane.next_batch(pool)
  lane.in_flight -= len(batch)
  lane.put_back(batch)
  assert positions(lane.next_batch(pool)) == positions(batch)


@pytest.mark.parametrize('suspicion', range(6))
def test_suspicion_halves_company(suspicion):
  lane, pool = make_lane(batch=8, in_flight=64), openers(*[1] * 20)
  pool[0].suspicion = suspicion
  assert len(lane.next_batch(pool)) == max(1, 8 >> suspicion)


def test_one_under_suspicion_ends_a_batch_that_is_too_large_for_it():
  lane, pool = make_lane(batch=8, in_flight=64), openers(*[1] * 20)
  pool[3].suspicion = 2
  assert positions(lane.next_batch(pool)) == [0, 1, 2]
  assert positions(lane.next_batch(pool)) == [3, 4]


def test_down_after_failures_running_and_up_after_an_answer():
  lane, pool = make_lane(), openers(*[1] * 20)
  assert [lane.fail() for _ in range(5)] == [False, False, True, False, False]
  lane.is_sure = True
  assert lane.is_down
  assert len(lane.next_batch(pool)) == 1
  assert lane.next_batch(pool) == []  # one at a time
  lane.in_flight -= 1
  lane.succeed()
  assert not lane.is_down
  assert len(lane.next_batch(pool)) == 4
  lane.fail()
  lane.succeed()
  assert [lane.fail() for _ in range(3)] == [False, False, True]


def test_too_much_halves_what_is_sent_and_answers_raise_it_again():
  lane = make_lane(batch=4, in_flight=16)

  def room():
    lane.in_flight, lane.is_sure = 0, True
    pool = openers(*[1] * 40)
    while lane.next_batch(pool):
      pass
    num, lane.in_flight = lane.in_flight, 0
    return num

  assert room() == 16
  lane.fail(has_too_much=True)
  lane.succeed()
  assert room() == 9 - 1  # room for 9: two requests of 4
  for _ in range(20):
    lane.fail(has_too_much=True)
  lane.succeed()
  assert room() == 2
  for _ in range(20):
    lane.succeed()
  assert room() == 16


def test_rests_longer_each_time(monkeypatch):
  monkeypatch.setattr(lane_lib, '_FIRST_PAUSE_S', 0.1)
  monkeypatch.setattr(lane_lib.time, 'monotonic', lambda: 1000.0)
  lane, pool = make_lane(), openers(1)
  pauses = []
  for _ in range(60):
    lane.fail()
    lane.is_sure = True
    pauses.append(lane.resume_at - 1000.0)
    assert lane.next_batch(pool) == []
  assert 0.1 <= pauses[0] <= 0.2
  assert max(pauses) <= lane_lib._LONGEST_PAUSE_S
  assert min(pauses[10:]) >= lane_lib._LONGEST_PAUSE_S / 2
  lane.succeed()
  assert lane.next_batch(pool)


def test_what_it_gives_up_are_openers_again():
  lane, pool = make_lane(batch=2), openers(4, 3)
  batch = lane.next_batch(pool)
  lane.in_flight -= 2
  lane.release(batch)
  left = lane.empty()
  assert [positions([q, *q.waiting]) for q in left] == [[1, 2, 3], [5, 6]]
  assert not lane.has_work
  other = make_lane()
  pool = collections.deque(left)
  assert positions(other.next_batch(pool)) == [1, 5]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_question_is_lost_or_doubled(data):
  """Whatever happens in whatever order, to two servers with one pool."""
  sizes = data.draw(st.lists(st.integers(1, 7), max_size=6))
  lanes = [
    make_lane(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9)))
    for _ in range(2)
  ]
  pool = openers(*sizes)
  expected = everything(pool)
  flying, done = [], []

  def check():
    queues = [lane._followers for lane in lanes]
    sent = [batch for _, batch in flying]
    assert everything(pool, *queues, *sent, done) == expected
    for lane in lanes:
      mine = [q for other, batch in flying if other is lane for q in batch]
      assert lane.in_flight == len(mine) <= lane._most
      waiting = [q for x in (*mine, *lane._followers) for q in x.waiting]
      assert lane._promised == len(waiting) >= 0

  for _ in range(60):
    lane = data.draw(st.sampled_from(lanes))
    what = data.draw(st.sampled_from(['send', 'send', 'fail', 'succeed']))
    if what == 'send':
      lane.is_sure = True
      if batch := lane.next_batch(pool):
        flying.append((lane, batch))
    elif flying:
      place = data.draw(st.integers(0, len(flying) - 1))
      lane, batch = flying.pop(place)
      lane.in_flight -= len(batch)
      if what == 'succeed':
        lane.succeed()
        lane.release(batch)
        done += batch
      else:
        lane.fail(data.draw(st.booleans()))
        if data.draw(st.booleans()):
          for question in batch:
            question.suspicion += 1
        lane.put_back(batch)
        if lane.is_down:
          pool.extendleft(lane.empty())
    check()
  # Then all goes well.
  while len(done) < len(expected):
    for lane in lanes:
      lane.is_sure = True
      while batch := lane.next_batch(pool):
        flying.append((lane, batch))
    assert flying, 'nothing moves'
    lane, batch = flying.pop(0)
    lane.in_flight -= len(batch)
    lane.succeed()
    lane.release(batch)
    done += batch
    check()
