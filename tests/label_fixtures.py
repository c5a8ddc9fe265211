"""A label set in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmtx_jax.data.corpus import Corpus
from lmtx_jax.types import Ragged


class FakeSource:
  """Records in memory."""

  def __init__(self, rows: list[dict[str, str]]):
    self._rows = rows

  def __getitems__(self, indices: list[int]) -> list[dict[str, str]]:
    return [self._rows[i] for i in indices]


def label_corpus(names: Sequence[tuple[str, str]]) -> Corpus:
  """Labels of these uids and titles."""
  rows = [{'uid': u, 'title': t, 'content': 'unused'} for u, t in names]
  empty = Ragged.from_rows([[] for _ in rows])
  return Corpus(
    'label', 'x', FakeSource(rows), np.arange(len(rows)), empty, empty
  )
