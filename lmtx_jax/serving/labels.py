"""The labels that the service knows at a moment, found by uid or by words."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
from typing import Protocol

import numpy as np

from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import LabelState
from lmtx_jax.label_edits import add_labels, remove_labels
from lmtx_jax.label_file import Label
from lmtx_jax.types import Record

_BLOCK = 1024  # labels read at a time, after which other threads may go on


class _Lines:
  """Texts in one string, so that a search is one of the string's.

  No object a text: a million labels are the bytes of their texts and eight
  more each.
  """

  def __init__(self, texts: list[str]):
    self._text = '\n'.join(['', *texts, ''])
    # starts[i] is where text i begins, behind its line break.
    self._starts = 1 + np.cumsum([0, *(len(text) + 1 for text in texts)])

  def find(self, part: str, first: int) -> int:
    """The first text from `first` on that holds `part`; -1 if none does."""
    at = self._text.find(part, int(self._starts[first]) - 1)
    if at < 0:
      return -1
    # Where `part` begins with the line break, the text begins behind it.
    return int(np.searchsorted(self._starts, at + 1, 'right')) - 1


@dataclasses.dataclass(frozen=True)
class LabelView:
  """The labels that requests are answered from; replaced, never changed.

  Attributes:
    state: of the bundle.
  """

  state: LabelState

  def __len__(self) -> int:
    return len(self.state)

  @functools.cached_property
  def _lines(self) -> tuple[_Lines, _Lines]:
    """Uids, and uids with titles in small letters; made when first needed."""
    uids, folded = [], []
    for start in range(0, len(self), _BLOCK):
      stop = min(start + _BLOCK, len(self))
      for uid, title in self.state.labels.get(range(start, stop)):
        uids.append(_one_line(uid))
        folded.append(_one_line(f'{title}\t{uid}').casefold())
    return _Lines(uids), _Lines(folded)

  def index_of(self, uid: str) -> int:
    """The index of the label of that uid; -1 if there is none."""
    found = -1
    while found + 1 < len(self):
      wanted = f'\n{_one_line(uid)}\n'
      found = self._lines[0].find(wanted, found + 1)
      if found < 0 or self.state.labels.get([found])[0].uid == uid:
        return found
    return -1

  def search(
    self, query: str, offset: int, limit: int
  ) -> tuple[list[Label], bool]:
    """Labels whose title or uid holds the query, in their order.

    Args:
      query: some text, in whatever case; all labels hold the empty one.
      offset: of those found, how many are skipped.
      limit: how many are told at most.

    Returns:
      the labels, and whether there are more.
    """
    query, found, at = _one_line(query).casefold(), [], 0
    if not query:
      found = list(range(min(offset + limit + 1, len(self))))
    while query and at < len(self) and len(found) <= offset + limit:
      at = self._lines[1].find(query, at)
      if at < 0:
        break
      found.append(at)
      at += 1
    more = len(found) > offset + limit
    return self.state.labels.get(found[offset : offset + limit]), more


def _one_line(text: str) -> str:
  return text.replace('\n', ' ')


class LabelEditor(Protocol):
  """Changes the labels of a bundle on the disk, atomically.

  Called by one thread at a time, which is not the one that tags.
  """

  def add(self, labels: Sequence[Record]) -> None:
    """Adds labels, all or none.

    Raises:
      UserError: they cannot be added; see label_edits.
    """

  def remove(self, uid: str) -> None:
    """Removes a label.

    Raises:
      UserError: it cannot be removed; see label_edits.
    """

  def latest(self, known: LabelView) -> LabelView:
    """All labels as they are on the disk; `known` itself if it is those.

    Raises:
      UserError: the bundle is broken.
    """


class BundleEditor:
  """The editor of an open bundle."""

  def __init__(self, bundle: Bundle):
    """Takes the bundle, whose encoder embeds new labels."""
    self._bundle = bundle

  def add(self, labels: Sequence[Record]) -> None:
    """See LabelEditor."""
    places = [f'labels.{number}' for number in range(len(labels))]
    add_labels(self._bundle, labels, places)

  def remove(self, uid: str) -> None:
    """See LabelEditor."""
    remove_labels(self._bundle.folder, [uid])

  def latest(self, known: LabelView) -> LabelView:
    """See LabelEditor."""
    self._bundle.reload()
    state = self._bundle.state
    return known if known.state is state else LabelView(state)
