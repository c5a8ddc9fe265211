"""Changes of the labels while the service tags."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
import concurrent.futures

from absl import logging

from lmtx_jax.label_edits import (
  LabelExistsError,
  LastLabelError,
  ReadOnlyError,
  UnknownLabelError,
)
from lmtx_jax.serving.errors import Refused
from lmtx_jax.serving.labels import LabelEditor
from lmtx_jax.serving.tagger import Tagger
from lmtx_jax.types import Record, UserError

_STATUS = {
  LabelExistsError: 409,
  LastLabelError: 409,
  ReadOnlyError: 403,
  UnknownLabelError: 404,
}
_LOOK_S = 1.0  # between looks whether another process changed the labels


class Editing:
  """Does one change after the other, beside the thread that tags.

  A change is on the disk before any request sees it. What others change there,
  another service or the `labels` command, is seen soon after.
  """

  def __init__(self, tagger: Tagger, editor: LabelEditor | None):
    """Takes the tagger whose labels change, and what changes a bundle.

    Args:
      tagger: is told to use the new labels.
      editor: None if nothing here can change labels.
    """
    self._tagger = tagger
    self._editor = editor
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'labels')
    self._complaint = ''

  @property
  def is_possible(self) -> bool:
    """Whether there is an editor."""
    return self._editor is not None

  def close(self) -> None:
    """Ends after the change that is under way; those that wait are dropped."""
    self._thread.shutdown(cancel_futures=True)

  async def add(self, labels: Sequence[Record]) -> int:
    """Adds labels; returns how many there are then.

    Raises:
      Refused: 409 if a uid is taken, 403 if the bundle may not be written, 503
        if it is broken or the disk is full, 501 without an editor.
    """
    return await self._change(lambda editor: editor.add(labels))

  async def remove(self, uid: str) -> int:
    """Removes a label; returns how many are left.

    Raises:
      Refused: 404 if there is none, 409 if it is the last, and as for `add`.
    """
    return await self._change(lambda editor: editor.remove(uid))

  async def _change(self, change: Callable[[LabelEditor], None]) -> int:
    if self._editor is None:
      raise Refused(501, 'this service cannot change labels')
    loop = asyncio.get_running_loop()
    try:
      future = self._thread.submit(self._apply, change)
    except RuntimeError as e:  # it is closed
      raise Refused(503, 'the service is being stopped') from e
    return await asyncio.wrap_future(future, loop=loop)

  def _apply(self, change: Callable[[LabelEditor], None]) -> int:
    try:
      change(self._editor)
    except tuple(_STATUS) as e:
      raise Refused(_STATUS[type(e)], str(e)) from e
    except (UserError, OSError) as e:
      logging.error('labels cannot be changed: %s', e)
      reason = getattr(e, 'strerror', None) or str(e)
      raise Refused(503, f'labels cannot be changed now: {reason}') from e
    self._try_look()  # the change is done, whatever comes of this
    return len(self._tagger.view)

  async def follow(self) -> None:
    """Looks for changes of others until it is cancelled."""
    loop = asyncio.get_running_loop()
    while self._editor is not None:
      await asyncio.sleep(_LOOK_S)
      await loop.run_in_executor(self._thread, self._try_look)

  def _try_look(self) -> None:
    """Looks; what fails, whatever it is, is told once and tried again."""
    try:
      self._look()
      self._complaint = ''
    except Exception as e:
      complaint = f'{type(e).__name__}: {e}'
      if complaint != self._complaint:
        self._complaint = complaint
        logging.error('labels stay as they were: %s', complaint)

  def _look(self) -> None:
    """Uses the labels on the disk, if they are others."""
    known = self._tagger.view
    view = self._editor.latest(known)
    if view is not known:
      self._tagger.use(view)
      logging.info('there are %d labels now', len(view))
