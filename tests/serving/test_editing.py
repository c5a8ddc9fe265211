"""Changes of labels: what is refused with what, and who sees what when."""

import asyncio
import logging
import threading

import pytest

from lmtx_jax.label_edits import (
  LabelExistsError,
  LastLabelError,
  ReadOnlyError,
  UnknownLabelError,
)
from lmtx_jax.serving import editing as editing_lib
from lmtx_jax.serving.editing import Editing
from lmtx_jax.serving.errors import Refused
from lmtx_jax.types import Record, UserError


class FakeTagger:
  def __init__(self):
    self.view = ['first']
    self.failures = 0  # that `use` has before it works

  def use(self, view):
    if self.failures:
      self.failures -= 1
      raise RuntimeError('out of memory')
    self.view = view


class FakeEditor:
  """Keeps labels in a list; `error` is raised by the next change."""

  def __init__(self):
    self.labels = ['first']
    self.error = None
    self.broken = None
    self.threads = set()

  def _change(self, labels):
    self.threads.add(threading.current_thread())
    if self.error:
      raise self.error
    self.labels = labels

  def add(self, labels):
    self._change(self.labels + [label.uid for label in labels])

  def remove(self, uid):
    self._change([label for label in self.labels if label != uid])

  def latest(self, known):
    if self.broken:
      raise self.broken
    return known if known == self.labels else list(self.labels)


NEW = [Record('new', 'new', '')]


@pytest.fixture
def tagger():
  return FakeTagger()


@pytest.fixture
def editor():
  return FakeEditor()


@pytest.fixture
def editing(tagger, editor):
  editing = Editing(tagger, editor)
  yield editing
  editing.close()


def test_the_tagger_has_a_change_when_it_is_told(tagger, editor, editing):
  assert editing.is_possible
  assert asyncio.run(editing.add(NEW)) == 2
  assert tagger.view == ['first', 'new']
  assert asyncio.run(editing.remove('first')) == 1
  assert tagger.view == ['new']
  assert threading.current_thread() not in editor.threads


@pytest.mark.parametrize(
  ('error', 'status'),
  [
    (LabelExistsError, 409),
    (LastLabelError, 409),
    (UnknownLabelError, 404),
    (ReadOnlyError, 403),
    (UserError, 503),
    (OSError, 503),
  ],
)
def test_what_cannot_be_changed_stays(tagger, editor, editing, error, status):
  editor.error = error('so it is')
  for change in (editing.add(NEW), editing.remove('first')):
    with pytest.raises(Refused, match='so it is') as e:
      asyncio.run(change)
    assert e.value.status == status
  assert tagger.view == ['first']


def test_without_an_editor_nothing_changes(tagger):
  editing = Editing(tagger, None)
  assert not editing.is_possible
  with pytest.raises(Refused) as e:
    asyncio.run(editing.add(NEW))
  assert e.value.status == 501
  asyncio.run(asyncio.wait_for(editing.follow(), 10))  # there is nothing to do
  editing.close()


async def until(condition):
  for _ in range(1000):
    if condition():
      return
    await asyncio.sleep(0.005)
  raise AssertionError('it never came true')


def test_a_change_that_cannot_be_used_yet_is_used_later(
  tagger, editor, editing, monkeypatch
):
  monkeypatch.setattr(editing_lib, '_LOOK_S', 0.001)
  tagger.failures = 3

  async def main():
    await editing.add(NEW)
    assert editor.labels == ['first', 'new']
    assert tagger.view == ['first']
    follower = asyncio.create_task(editing.follow())
    await until(lambda: tagger.view == ['first', 'new'])
    assert not follower.done()
    follower.cancel()

  asyncio.run(main())


def test_when_it_closes_changes_that_wait_are_dropped(tagger, editor):
  editing = Editing(tagger, editor)
  first, go_on = threading.Event(), threading.Event()

  def use(view):
    first.set()
    go_on.wait(30)
    tagger.view = view

  tagger.use = use

  async def main():
    under_way = asyncio.create_task(editing.add(NEW))
    await asyncio.to_thread(first.wait, 30)
    waiting = asyncio.create_task(editing.remove('first'))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(asyncio.to_thread(editing.close))
    with pytest.raises(asyncio.CancelledError):
      await waiting
    go_on.set()
    await closing
    assert await under_way == 2
    with pytest.raises(Refused) as e:
      await editing.remove('first')
    assert e.value.status == 503

  asyncio.run(main())
  assert editor.labels == ['first', 'new']


def test_changes_of_others_are_seen_and_a_broken_bundle_told_once(
  tagger, editor, editing, monkeypatch, caplog
):
  monkeypatch.setattr(editing_lib, '_LOOK_S', 0.001)

  async def main():
    follower = asyncio.create_task(editing.follow())
    editor.labels = ['theirs']
    await until(lambda: tagger.view == ['theirs'])
    editor.broken = UserError('half of a file')
    with caplog.at_level(logging.ERROR):
      await until(lambda: 'half of a file' in caplog.text)
      await asyncio.sleep(0.05)
    editor.broken = None
    editor.labels = ['mended']
    await until(lambda: tagger.view == ['mended'])
    follower.cancel()

  absl_logger = logging.getLogger('absl')
  absl_logger.addHandler(caplog.handler)
  try:
    asyncio.run(main())
  finally:
    absl_logger.removeHandler(caplog.handler)
  assert sum('half of a file' in r.message for r in set(caplog.records)) == 1
