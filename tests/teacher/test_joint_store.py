"""What several processes were answered comes together, in one process here."""

import contextlib

import numpy as np
import pytest
from teacher_fakes import FakeTeacher
from test_verdict_store import all_pairs, rows

from lmtx_jax import processes
from lmtx_jax.teacher import joint_store
from lmtx_jax.teacher.joint_store import JointStore
from lmtx_jax.teacher.verdict_store import VerdictStore

STAGE = 'run/cycle_00'


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'verdicts.sqlite')


def judge_apart(path, folder, teacher, pairs, index, monkeypatch):
  """What process `index` leaves when it is killed after its share."""
  with (
    contextlib.closing(JointStore(path, str(folder))) as store,
    monkeypatch.context() as patch,
  ):
    patch.setattr(processes, 'index', lambda: index)
    store._judge_apart(teacher, pairs, STAGE)


def test_what_a_kill_left_is_taken_over(path, tmp_path, monkeypatch):
  """Two parts of one stage, and none of their tokens lost."""
  pairs = all_pairs()
  for rows_of in (slice(0, 4), slice(4, 8)):
    teacher = FakeTeacher(counts_tokens=True)
    judge_apart(path, tmp_path, teacher, pairs.take(rows_of), 1, monkeypatch)
    assert len(list(tmp_path.glob('verdicts.part-1-*.sqlite'))) == 1
  teacher = FakeTeacher(counts_tokens=True)
  with contextlib.closing(JointStore(path, str(tmp_path))) as store:
    assert not list(tmp_path.glob('verdicts.part*'))
    known = store.known(teacher, pairs)
    # The last document is the first again.
    assert np.flatnonzero(~known).tolist() == [8, 9, 10, 11]
    verdicts, tally = store.judge(teacher, pairs, STAGE)
  assert len(teacher.asked) == 3
  assert tally.asked == 9 and tally.reused == 16 - 9
  assert tally.usage['prompt_tokens'] == 90
  assert set(rows(path)) == {(1,)}
  alone = VerdictStore(path).judge(FakeTeacher(), pairs, 'other')[0]
  np.testing.assert_array_equal(verdicts.answer, alone.answer)


def test_a_part_that_is_taken_over_twice_counts_once(
  path, tmp_path, monkeypatch
):
  """Killed between taking over and removing the part."""
  pairs = all_pairs()
  teacher = FakeTeacher(counts_tokens=True)
  judge_apart(path, tmp_path, teacher, pairs, 1, monkeypatch)
  with monkeypatch.context() as patch:
    patch.setattr(joint_store.os, 'remove', lambda name: None)
    JointStore(path, str(tmp_path)).close()
  with contextlib.closing(JointStore(path, str(tmp_path))) as store:
    _, tally = store.judge(teacher, pairs, STAGE)
  assert tally.usage['prompt_tokens'] == 90
  assert len(teacher.asked) == 9


def test_equal_documents_have_one_owner(monkeypatch):
  pairs = all_pairs(docs=[chr(97 + i % 20) for i in range(40)])
  monkeypatch.setattr(processes, 'count', lambda: 3)
  owner = joint_store._owner(pairs, np.arange(len(pairs)))
  by_document = owner.reshape(40, -1)
  assert (by_document == by_document[:, :1]).all()
  np.testing.assert_array_equal(by_document[:20], by_document[20:])
  assert set(owner.tolist()) == {0, 1, 2}
