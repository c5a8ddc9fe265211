"""Times peers side by side: one process each, taking turns, medians.

Each peer lives in a process of its own, so that no thread pool disturbs
another; only one of them works at a time, in turns, so that a noisy machine
disturbs all alike.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import multiprocessing
import statistics
import time
from typing import Any

from lmtx_jax.types import UserError

# make(*args) sets a peer up and returns what is timed.
Make = Callable[..., Callable[[], Any]]


def alternate(
  peers: dict[str, tuple[Make, tuple]], rounds: int
) -> dict[str, list[float]]:
  """Seconds of each peer's call in each round; the first call is not counted.

  Args:
    peers: by name, a function that can be imported, and its arguments.
    rounds: how often each is timed.

  Raises:
    UserError: a peer failed, after saying why.
  """
  context = multiprocessing.get_context('spawn')
  workers = {}
  for name, (make, args) in peers.items():
    ours, theirs = context.Pipe()
    process = context.Process(
      target=_serve, args=(theirs, make, args), daemon=True
    )
    process.start()
    theirs.close()  # so that a peer that dies ends the wait
    workers[name] = (process, ours)
    _receive(name, ours)  # ready, after its warm-up call
  seconds = {name: [] for name in peers}
  for _ in range(rounds):
    for name, (_, pipe) in workers.items():
      pipe.send(True)
      seconds[name].append(_receive(name, pipe))
  for process, pipe in workers.values():
    pipe.send(False)
    process.join()
  return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
  """The median of each peer's seconds."""
  return {name: statistics.median(values) for name, values in seconds.items()}


def _receive(name: str, pipe: Any) -> Any:
  try:
    return pipe.recv()
  except EOFError as e:
    raise UserError(f'{name} failed; the traceback above says why') from e


def _serve(pipe: Any, make: Make, args: tuple) -> None:
  call = make(*args)
  call()
  with contextlib.suppress(EOFError, BrokenPipeError):  # another peer failed
    pipe.send('ready')
    while pipe.recv():
      start = time.perf_counter()
      call()
      pipe.send(time.perf_counter() - start)
