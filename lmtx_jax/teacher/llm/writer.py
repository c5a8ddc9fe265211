"""What a writer is: it is handed prompts and hands back texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Generated:
  """Texts that an LLM has written.

  Attributes:
    text: `[n]` object, str; None where a prompt was too long for the server.
    is_cut: `[n]` bool, whether it would have gone on.
    prompt_tokens: `[n]` int64, of what was asked.
    new_tokens: `[n]` int64, of the text.
  """

  text: np.ndarray
  is_cut: np.ndarray
  prompt_tokens: np.ndarray
  new_tokens: np.ndarray

  def __len__(self) -> int:
    return len(self.text)

  @classmethod
  def from_rows(cls, rows: Sequence[tuple[str | None, bool, int, int]]):
    """Of rows of the four attributes."""
    columns = zip(*rows, strict=True) if rows else [()] * 4
    dtypes = (object, bool, np.int64, np.int64)
    return cls(*(np.array(c, t) for c, t in zip(columns, dtypes, strict=True)))


class Writer(Protocol):
  """Writes texts; in front of it always stands an `AnswerStore`.

  Attributes:
    identity: canonical JSON of everything beside the prompt that may change an
      answer; answers of other identities are never mixed.
  """

  identity: str

  def cut(self, texts: list[str]) -> list[str]:
    """Documents cut to as many tokens as one may have in a prompt."""
    ...

  def generate(
    self, prompts: Sequence[str]
  ) -> Iterator[tuple[np.ndarray, Generated]]:
    """Yields `(positions, texts)` as they come, in any order.

    `positions` (`[num_texts]` int64, of `prompts`) of all chunks are disjoint;
    a prompt without any answer is left out. A chunk may be empty.
    """
    ...

  def usage(self) -> dict[str, float]:
    """Counters since it was made, none of which ever falls."""
    ...
