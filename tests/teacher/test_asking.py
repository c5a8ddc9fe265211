"""What is stored and told while a teacher is asked."""

import signal
import sqlite3
import time

import pytest
from teacher_fakes import FakeTeacher
from test_verdict_store import DOCS, all_pairs, rows

from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import UserError


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'verdicts.sqlite')


def test_answers_before_a_failure_are_kept(path):
  class FakeBrokenTeacher(FakeTeacher):
    def judge(self, pairs):
      yield next(super().judge(pairs))
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    VerdictStore(path).judge(FakeBrokenTeacher(), all_pairs(), 'run/0')
  assert len(rows(path)) == 3
  teacher = FakeTeacher()
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  assert len(teacher.asked) == 6


def test_slow_answers_are_stored_while_others_are_awaited(path):
  seen = []

  class FakeSlowTeacher(FakeTeacher):
    def judge(self, pairs):
      for chunk in super().judge(pairs):
        seen.append(len(rows(path)))
        time.sleep(0.6)
        yield chunk

  VerdictStore(path).judge(FakeSlowTeacher(), all_pairs(), 'run/0')
  assert seen[-1] > 0


class FakeFailingTeacher(FakeTeacher):
  """Gives some chunks, then raises."""

  def __init__(self, num_chunks, error=KeyboardInterrupt, **kwargs):
    super().__init__(**kwargs)
    self._num_chunks, self._error = num_chunks, error
    self.closed = False

  def judge(self, pairs):
    try:
      for chunk in super().judge(pairs):
        if not self._num_chunks:
          raise self._error
        self._num_chunks -= 1
        yield chunk
    finally:
      self.closed = True


def test_usage_is_of_all_attempts(path):
  teacher = FakeFailingTeacher(2, counts_tokens=True)
  with pytest.raises(KeyboardInterrupt):
    VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  asked_in_vain = 3  # the third chunk was paid for, and lost
  assert len(rows(path)) == 6
  for _ in range(2):
    teacher = FakeTeacher(counts_tokens=True)
    _, tally = VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
    assert tally.asked == 9
    assert tally.usage.keys() == {
      'prompt_tokens',
      'cached_tokens',
      'retries',
      'seconds',
    }
    assert tally.usage['prompt_tokens'] == 10 * (9 + asked_in_vain)
    assert tally.usage['cached_tokens'] == 4 * (9 + asked_in_vain)
    assert tally.usage['seconds'] > 0
  _, tally = VerdictStore(path).judge(teacher, all_pairs(), 'run/1')
  assert tally.usage == {}


def test_usage_of_earlier_stages_does_not_count(path):
  store, teacher = VerdictStore(path), FakeTeacher(counts_tokens=True)
  store.judge(teacher, all_pairs(), 'run/0')
  _, tally = store.judge(teacher, all_pairs(docs=['new']), 'run/1')
  assert tally.usage['prompt_tokens'] == 30


def test_usage_is_stored_with_the_answers_it_bought(path):
  """Looked at after every chunk: tokens of the rows, never of others."""

  class FakeWatchedTeacher(FakeTeacher):
    def judge(self, pairs):
      for chunk in super().judge(pairs):
        yield chunk
        with sqlite3.connect(path) as db:
          query = "SELECT SUM(value) FROM usage WHERE name = 'prompt_tokens'"
          (tokens,) = db.execute(query).fetchone()
        seen.append((len(rows(path)), tokens or 0))

  seen = []
  teacher = FakeWatchedTeacher(counts_tokens=True)
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  assert seen[-1][0] > 0
  assert all(tokens == 10 * num_rows for num_rows, tokens in seen)


def test_the_teacher_is_closed_when_storing_fails(path, monkeypatch):
  """The disk fills up; a second attempt to store, at the end, succeeds."""
  write, calls = VerdictFile.write, []

  def full_once(self, *args):
    calls.append(args)
    if len(calls) == 1:
      raise UserError('disk is full')
    write(self, *args)

  monkeypatch.setattr(VerdictFile, 'write', full_once)
  teacher = FakeFailingTeacher(99)
  with pytest.raises(UserError, match='disk is full'):
    VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  assert teacher.closed
  assert len(rows(path)) == 3


def test_interrupted_while_storing_stores_once(path, monkeypatch):
  """Ctrl-C comes when the answers are safe, before they are forgotten."""
  write = VerdictFile.write

  def interrupted(self, *args):
    write(self, *args)
    signal.raise_signal(signal.SIGINT)

  monkeypatch.setattr(VerdictFile, 'write', interrupted)
  with pytest.raises(KeyboardInterrupt):
    VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')
  monkeypatch.undo()
  stored = rows(path)
  assert stored and set(stored) == {(1,)}
  teacher = FakeTeacher()
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  assert len(teacher.asked) == 9 - len(stored)


def test_commits_are_a_tenth_of_the_time(path, monkeypatch):
  """A clock on which a commit takes 1 s and every chunk 2 s."""
  clock, committed = [0.0], []
  write = VerdictFile.write

  def slow_write(self, waiting, *args):
    clock[0] += 1
    committed.append(len(waiting))
    write(self, waiting, *args)

  class FakeSteadyTeacher(FakeTeacher):
    def judge(self, pairs):
      for chunk in super().judge(pairs):
        clock[0] += 2
        yield chunk

  monkeypatch.setattr(VerdictFile, 'write', slow_write)
  monkeypatch.setattr('time.monotonic', lambda: clock[0])
  docs = [chr(97 + i % 26) * (i + 1) for i in range(20)]
  VerdictStore(path).judge(FakeSteadyTeacher(), all_pairs(docs), 'run/0')
  assert sum(committed) == 60
  # The first at once, then every 10 s: after 5 chunks of 3.
  assert committed == [3, 15, 15, 15, 12]
  committed.clear()
  docs = [chr(97 + i % 26) * (i + 1) for i in range(20, 1000)]
  teacher = FakeSteadyTeacher(chunk=600)
  VerdictStore(path).judge(teacher, all_pairs(docs), 'run/0')
  assert committed == [600, 1200, 1140]


def test_reports_how_it_goes(path, monkeypatch):
  """A clock on which every chunk of 3 answers takes 10 s."""
  clock, reports = [0.0], []

  class FakeSteadyTeacher(FakeTeacher):
    def judge(self, pairs):
      for chunk in super().judge(pairs):
        clock[0] += 10
        yield chunk

  monkeypatch.setattr('time.monotonic', lambda: clock[0])
  store = VerdictStore(path)
  store.judge(FakeTeacher(), all_pairs(docs=['bc']), 'run/0')
  teacher = FakeSteadyTeacher(counts_tokens=True)
  docs = [*DOCS, 'e', 'f', 'g', 'h', 'i']
  store.judge(teacher, all_pairs(docs), 'run/1', report=reports.append)
  # 8 distinct documents of 3 distinct labels, of which 1 document is known.
  assert [report['pairs'] for report in reports] == [9, 18]
  first, last = reports
  assert first == {
    'pairs': 9,
    'pairs_per_s': pytest.approx(0.3),
    'yes_rate': pytest.approx(2 / 9),
    'reused': 36 - 21,
    'remaining_s': pytest.approx(12 / 0.3),
    'tokens_per_s': pytest.approx(3.0),
    'cache_hit_share': pytest.approx(0.4),
    'retries': 0,
  }
  assert last['remaining_s'] == pytest.approx(3 / 0.3)


def test_without_usage_no_tokens_are_reported(path, monkeypatch, capfd):
  monkeypatch.setattr('lmtx_jax.teacher.progress._REPORT_S', 0.0)
  reports = []
  teacher = FakeTeacher()
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0', reports.append)
  assert len(reports) == 3
  assert reports[-1].keys() == {
    'pairs',
    'pairs_per_s',
    'yes_rate',
    'reused',
    'remaining_s',
  }
  shown = capfd.readouterr().err
  assert '9/9' in shown
  assert 'tokens' not in shown
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0', reports.append)
  assert capfd.readouterr().err == ''
  teacher = FakeTeacher('paid', counts_tokens=True)
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  assert 'cached=40%' in capfd.readouterr().err
