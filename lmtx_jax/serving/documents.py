"""A document that waits, and how its answer gets to who awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

from lmtx_jax.types import Record


@dataclasses.dataclass(frozen=True)
class Document:
  """One document that waits.

  Attributes:
    record: the document.
    top_k: labels that it wants.
    client: who sent it.
    due: tick of the clock.
    loop: where its answer is awaited.
    answer: its labels, see `Tagger.look_up`.
  """

  record: Record
  top_k: int
  client: str
  due: int
  loop: asyncio.AbstractEventLoop
  answer: asyncio.Future

  @property
  def num_chars(self) -> int:
    """Characters of its texts."""
    return len(self.record.title) + len(self.record.content)

  @property
  def is_gone(self) -> bool:
    """Whether nobody awaits its answer any more."""
    return self.answer.done() or self.loop.is_closed()


def hand_over(
  loop: asyncio.AbstractEventLoop, answers: Sequence[tuple[asyncio.Future, Any]]
) -> None:
  """Settles them in their event loop, if that still runs."""
  with contextlib.suppress(RuntimeError):  # it is closed: nobody is there
    loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: Sequence[tuple[asyncio.Future, Any]]) -> None:
  """Runs in the event loop; who has gone is not told."""
  for future, result in answers:
    if future.done():
      continue
    if isinstance(result, Exception):
      future.set_exception(result)
    else:
      future.set_result(result)
