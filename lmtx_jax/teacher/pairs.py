"""What a teacher is: it is handed pairs of texts and hands back verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Protocol

import numpy as np

from lmtx_jax.data.corpus import Texts
from lmtx_jax.types import Verdicts


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Questions for a teacher: does this label belong to this document?

  Attributes:
    documents: texts of a corpus of documents.
    labels: texts of the label set.
    doc_index: `[num_pairs]` int64, rows of `documents`.
    label_index: `[num_pairs]` int64, rows of `labels`.
  """

  documents: Texts
  labels: Texts
  doc_index: np.ndarray
  label_index: np.ndarray

  def __len__(self) -> int:
    return len(self.doc_index)

  def take(self, positions: np.ndarray | slice) -> Pairs:
    """A part of the pairs, in the order of `positions`."""
    return dataclasses.replace(
      self,
      doc_index=self.doc_index[positions],
      label_index=self.label_index[positions],
    )


class Teacher(Protocol):
  """Judges pairs; in front of it always stands a `VerdictStore`.

  Attributes:
    identity: canonical JSON of everything that may change an answer, the
      prompt template included; verdicts of other identities are never mixed.
    yes_threshold: p_yes above which a stored answer counts as a yes; None: as
      the teacher answered. No part of the identity, so another threshold asks
      nothing anew.
  """

  identity: str
  yes_threshold: float | None

  def judge(self, pairs: Pairs) -> Iterator[tuple[np.ndarray, Verdicts]]:
    """Yields `(positions, verdicts)` as the answers come, in any order.

    `positions` (`[num_answers]` int64, rows of `pairs`) of all chunks are
    disjoint. An unreadable answer is a verdict (INVALID, stored and not asked
    again); a pair that got no answer at all is left out, and asked again the
    next time. A chunk may be empty: what waits to be stored is then stored.

    It is a generator: it is closed if judging ends before its last chunk.
    """
    ...

  def usage(self) -> dict[str, float]:
    """Counters since the teacher was made, none of which ever falls.

    Such as `prompt_tokens`, `cached_tokens`, `retries`; empty if asking costs
    nothing.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Tally:
  """What judging cost and brought.

  Attributes:
    pairs: pairs judged.
    asked: questions put to the teacher for them, one for each distinct pair of
      texts, also those put by an earlier attempt that was killed.
    reused: pairs answered without a question of their own.
    invalid: pairs without a readable answer.
    yes: pairs accepted.
    usage: the teacher's counters and the `seconds` spent asking, over all
      attempts; empty if asking costs nothing.
  """

  pairs: int
  asked: int
  reused: int
  invalid: int
  yes: int
  usage: dict[str, float] = dataclasses.field(default_factory=dict)

  @classmethod
  def sum(cls, tallies: Sequence[Tally]) -> Tally:
    """Of questions that were asked one after the other."""
    names = {name for tally in tallies for name in tally.usage}
    counts = ('pairs', 'asked', 'reused', 'invalid', 'yes')
    return cls(
      **{name: sum(getattr(t, name) for t in tallies) for name in counts},
      usage={
        name: sum(t.usage.get(name, 0) for t in tallies)
        for name in sorted(names)
      },
    )

  def costs(self) -> dict[str, float]:
    """What `usage` comes to, by name, for a report; empty if it is."""
    seconds = self.usage.get('seconds', 0.0)
    tokens = self.usage.get('prompt_tokens', 0)
    if not seconds:
      return {}
    return {
      **{name: round(value, 3) for name, value in self.usage.items()},
      'pairs_per_s': round(self.asked / seconds, 3),
      'tokens_per_s': round(tokens / seconds, 1),
      'cache_hit_share': round(
        self.usage.get('cached_tokens', 0) / max(tokens, 1), 6
      ),
    }
