"""Ctrl-C and SIGTERM: what must not be torn is finished first."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
import threading
import types
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Preempted(BaseException):
  """SIGTERM came: the machine is wanted by another, or the job's time is up.

  Like KeyboardInterrupt no Exception, so that nothing takes it for a failure.
  """


def raise_when_preempted() -> None:
  """From now on SIGTERM raises Preempted; call it in the main thread."""
  signal.signal(signal.SIGTERM, _raise_preempted)


def _raise_preempted(*_) -> NoReturn:
  raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
  """Signals that come inside are delivered at the end; a second one at once.

  Does nothing outside the main thread, which alone ever sees them.

  Yields:
    The numbers of those that came so far.
  """
  came: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield came
    return
  # A handler that Python did not set could not be put back: it stays; so does
  # deafness, as a shell gives it to what runs in its background.
  handlers = {
    s: h
    for s in _SIGNALS
    if (h := signal.getsignal(s)) not in (None, signal.SIG_IGN)
  }

  def note(number: int, frame: types.FrameType | None) -> None:
    came.append(number)
    if len(came) > 1 and callable(handlers[number]):
      handlers[number](number, frame)

  for number in handlers:
    signal.signal(number, note)
  try:
    yield came
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
    for number in came[:1]:
      signal.raise_signal(number)
