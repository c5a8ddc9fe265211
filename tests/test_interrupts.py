"""Signals wait for what must not be torn."""

import signal
import threading

import pytest

from lmtx_jax.interrupts import Preempted, deferred, raise_when_preempted


@pytest.fixture(autouse=True)
def handlers():
  old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  yield
  for number, handler in old.items():
    signal.signal(number, handler)


def test_ctrl_c_waits():
  done = []
  with pytest.raises(KeyboardInterrupt), deferred() as came:
    signal.raise_signal(signal.SIGINT)
    done.append(list(came))
  assert done == [[signal.SIGINT]]
  with pytest.raises(KeyboardInterrupt):
    signal.raise_signal(signal.SIGINT)


def test_sigterm_is_a_preemption():
  raise_when_preempted()
  with pytest.raises(Preempted):
    signal.raise_signal(signal.SIGTERM)
  done = []
  with pytest.raises(Preempted), deferred():
    signal.raise_signal(signal.SIGTERM)
    done.append(True)
  assert done


def test_a_failure_inside_is_not_hidden():
  with pytest.raises(KeyboardInterrupt) as e, deferred():
    signal.raise_signal(signal.SIGINT)
    raise ValueError('disk full')
  assert isinstance(e.value.__context__, ValueError)
  with pytest.raises(ValueError), deferred():
    raise ValueError


def test_other_threads_are_left_alone():
  before = signal.getsignal(signal.SIGINT)
  seen = []

  def work():
    with deferred() as came:
      seen.append((came, signal.getsignal(signal.SIGINT)))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [([], before)]
