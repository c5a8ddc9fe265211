"""Servers hang, die, and come back, perhaps as others."""

import threading
import time

from asking_fakes import (
  DOCS,
  LABELS,
  FakeMeddler,
  after,
  assert_right,
  judge,
  make_pairs,
  small_teacher,
  stops,
)
import numpy as np
import pytest

from lmtx_jax.teacher.llm import dispatch, lane

pytestmark = pytest.mark.usefixtures('short_pauses', 'no_leftovers')


def test_a_hanging_server_beside_a_good_one(servers, store):
  one, two = servers
  pairs = make_pairs(DOCS * 2, [f'label {i}' for i in range(30)])

  def hang():
    one.hang = True

  one.latency_s = 0.1  # or it answers most, before the caller has it hang
  # Long enough for the good one on a busy machine.
  teacher = small_teacher(one, two, teacher_timeout_s=1.5)
  verdicts, _ = judge(store, FakeMeddler(teacher, after(40, hang)), pairs)
  assert_right(verdicts, pairs)
  assert one.answered.total() + two.answered.total() == 210
  assert two.answered.total() > 100


def test_a_hanging_server_alone(server, store):
  pairs = make_pairs(DOCS, LABELS)

  def hang():
    server.hang = True

  teacher = small_teacher(server, teacher_timeout_s=1.0, teacher_patience=2.0)
  said = stops(
    store, FakeMeddler(teacher, after(20, hang)), pairs, '--teacher_patience'
  )
  assert server.url in said and 'no answer in 1 s' in said
  assert store.known(teacher, pairs).sum() == server.answered.total() >= 20
  server.hang = False
  known, answered = store.known(teacher, pairs), dict(server.answered)
  verdicts, _ = judge(store, small_teacher(server), pairs)
  assert_right(verdicts, pairs)
  assert server.answered.total() == 63 and known.sum() == sum(answered.values())


def test_nobody_there_from_the_start_of_asking(server, store):
  teacher = small_teacher(server, teacher_patience=0.5)
  teacher.prepare()
  server.stop()
  stops(store, teacher, make_pairs(DOCS, LABELS), '--teacher_patience')
  server.start()
  verdicts, _ = judge(store, teacher, make_pairs(DOCS, LABELS))
  assert_right(verdicts, make_pairs(DOCS, LABELS))


def test_a_server_killed_and_restarted(server, store):
  pairs = make_pairs(DOCS * 2, [f'label {i}' for i in range(30)])
  num_restarts = 0

  def restart(num):
    nonlocal num_restarts
    if num >= 30 * (num_restarts + 1) and num_restarts < 5:
      num_restarts += 1
      server.stop()
      threading.Timer(0.05, server.start).start()

  server.latency_s = 0.002
  verdicts, tally = judge(
    store, FakeMeddler(small_teacher(server), restart), pairs
  )
  assert_right(verdicts, pairs)
  assert num_restarts == 5 and tally.usage['given_up'] == 0
  assert tally.asked == 210


def test_one_of_two_servers_dies_and_comes_back(servers, store):
  one, two = servers
  pairs = make_pairs(DOCS * 2, [f'label {i}' for i in range(60)])
  one.latency_s = two.latency_s = 0.003
  counts = []

  def meddle(num):
    if num >= 60 and not counts:
      one.stop()
      counts.append(one.answered.total())
    if num >= 200 and len(counts) == 1:
      one.start()
      counts.append(two.answered.total())

  verdicts, _ = judge(
    store, FakeMeddler(small_teacher(one, two), meddle), pairs
  )
  assert_right(verdicts, pairs)
  assert one.answered.total() > counts[0]
  assert two.answered.total() > counts[1]


def test_a_server_that_was_dead_at_the_start_is_used(servers, store):
  one, two = servers
  one.stop()
  two.latency_s = 0.003
  pairs = make_pairs(DOCS * 2, [f'label {i}' for i in range(60)])
  teacher = FakeMeddler(small_teacher(one, two), after(50, one.start))
  verdicts, _ = judge(store, teacher, pairs)
  assert_right(verdicts, pairs)
  assert one.answered.total() > 0


CHANGES = {
  'model': {'model_path': 'another', 'answer': lambda prompt: 0.25},
  'weights': {'weight_version': '7', 'answer': lambda prompt: 0.25},
}


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('num_before', [0, 20])
def test_restarted_with_another_model(
  server, store, change, num_before, monkeypatch
):
  monkeypatch.setattr(dispatch, '_IDLE_S', 0.05)
  pairs = make_pairs(DOCS, LABELS)

  def swap():
    server.stop()
    vars(server).update(CHANGES[change])
    time.sleep(0.1)  # it may be that nothing was in flight
    server.start()

  teacher = small_teacher(server)
  teacher.prepare()
  if not num_before:  # between two stages of a run
    swap()
  said = stops(
    store,
    FakeMeddler(teacher, after(num_before or 99, swap)),
    pairs,
    'another model',
  )
  assert server.url in said
  known = np.flatnonzero(store.known(teacher, pairs))
  assert (len(known) > 0) == bool(num_before) and len(known) < 63
  assert_right(judge(store, teacher, pairs.take(known))[0], pairs.take(known))
  # The new one is a teacher of its own.
  if change == 'weights':
    verdicts, tally = judge(store, small_teacher(server), pairs)
    assert (verdicts.p_yes == 0.25).all() and tally.asked == 63


def test_another_model_after_a_pause(server, store, monkeypatch):
  """It hangs and somebody restarts it before it is tried again."""
  monkeypatch.setattr(lane, '_LONGEST_PAUSE_S', 0.5)
  monkeypatch.setattr(lane, '_FIRST_PAUSE_S', 0.5)
  pairs = make_pairs(DOCS, LABELS)

  def hang():
    server.hang = True

    def swap():
      server.stop()
      server.hang, server.model_path = False, 'another'
      server.answer = lambda prompt: 0.25
      server.start()

    # While it rests: nothing breaks off that would arouse suspicion.
    threading.Timer(0.45, swap).start()

  teacher = small_teacher(server, teacher_timeout_s=0.3)
  stops(store, FakeMeddler(teacher, after(20, hang)), pairs, 'another model')
  known = np.flatnonzero(store.known(teacher, pairs))
  assert_right(judge(store, teacher, pairs.take(known))[0], pairs.take(known))


def test_an_outage_is_quiet(server, store, monkeypatch, caplog):
  """Neither a busy loop nor a log of every attempt."""
  monkeypatch.setattr(lane, '_LONGEST_PAUSE_S', 0.2)
  turns = []
  wait = dispatch.Dispatcher._wait

  def counting_wait(self):
    turns.append(1)
    return wait(self)

  monkeypatch.setattr(dispatch.Dispatcher, '_wait', counting_wait)
  teacher = small_teacher(server, teacher_patience=1.0)
  teacher.prepare()
  server.stop()
  caplog.clear()
  stops(store, teacher, make_pairs(DOCS, LABELS), '--teacher_patience')
  assert len(turns) < 75
  assert 1 <= len(caplog.records) <= 3
  server.start()
