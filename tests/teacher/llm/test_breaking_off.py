"""The caller ends before its questions do."""

import os
import signal
import threading
import time

from asking_fakes import (
  DOCS,
  LABELS,
  FakeMeddler,
  after,
  assert_right,
  in_time,
  judge,
  make_pairs,
  small_teacher,
)
import pytest

pytestmark = pytest.mark.usefixtures('short_pauses', 'no_leftovers')


class FakeCrash(Exception):
  pass


@pytest.mark.parametrize('error', [FakeCrash, KeyboardInterrupt])
def test_a_crash_of_the_caller(server, store, error):
  pairs = make_pairs(DOCS, LABELS)
  server.latency_s = 0.01

  def crash():
    raise error

  teacher = small_teacher(server)
  with pytest.raises(error):
    judge(store, FakeMeddler(teacher, after(20, crash)), pairs)
  known = store.known(teacher, pairs).sum()
  assert 20 <= known <= server.answered.total()
  verdicts, tally = judge(store, small_teacher(server), pairs)
  assert_right(verdicts, pairs)
  assert tally.asked == 63
  assert server.received.total() <= 63 + 16  # no more than was in flight


def test_an_interrupt_while_it_waits(server, store):
  pairs = make_pairs(DOCS, LABELS)

  def hang():
    server.hang = True
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

  teacher = small_teacher(server)
  with pytest.raises(KeyboardInterrupt):
    judge(store, FakeMeddler(teacher, after(20, hang)), pairs)
  assert store.known(teacher, pairs).sum() == server.answered.total() >= 20
  server.hang = False
  verdicts, _ = judge(store, small_teacher(server), pairs)
  assert_right(verdicts, pairs)


def test_a_caller_that_breaks_off(server):
  server.latency_s = 0.01
  teacher = small_teacher(server)

  def some():
    for positions, _ in teacher.judge(make_pairs(DOCS, LABELS)):
      if len(positions):
        break
    # Not even closed.

  in_time(some)
  assert teacher.usage()['prompt_tokens'] > 0
  in_time(list, teacher.judge(make_pairs(DOCS, LABELS)))
  assert server.answered.total() >= 63


def test_a_caller_that_never_begins(server):
  teacher = small_teacher(server)
  answers = teacher.judge(make_pairs(DOCS, LABELS))
  answers.close()
  assert not server.num_requests


def test_a_caller_that_takes_its_time(server, store):
  """Longer than a request may take."""
  pairs = make_pairs(DOCS, LABELS)
  teacher = small_teacher(server, teacher_timeout_s=1.0)
  sleepy = FakeMeddler(teacher, after(20, lambda: time.sleep(1.5)))
  verdicts, _ = judge(store, sleepy, pairs)
  assert_right(verdicts, pairs)
  assert server.answered.total() == 63
