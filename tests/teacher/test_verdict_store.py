import contextlib
import os
from pathlib import Path
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from teacher_fakes import FakeTeacher, fake_documents, fake_labels

from lmtx_jax.teacher.pairs import Pairs, Tally
from lmtx_jax.teacher.verdict_file import SCHEMA_VERSION
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import INVALID, NO, YES, UserError

DOCS = ['ab', 'bc', 'cd', 'ab']  # the last is the first again
LABELS = ['a', 'b', '?', 'a']  # the last is the first again


def all_pairs(docs=DOCS, labels=LABELS):
  doc_index = np.repeat(np.arange(len(docs)), len(labels))
  label_index = np.tile(np.arange(len(labels)), len(docs))
  return Pairs(
    fake_documents(docs), fake_labels(labels), doc_index, label_index
  )


def right_answer(doc, label):
  if label[0] == '?':
    return INVALID
  return YES if label[0] in doc else NO


def rows(path, columns='num_asked'):
  with sqlite3.connect(path) as db:
    return db.execute(f'SELECT {columns} FROM verdicts').fetchall()


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'verdicts.sqlite')


def test_answers_in_order_and_asks_each_pair_of_texts_once(path):
  teacher = FakeTeacher(reverse=True)
  verdicts, tally = VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  expected = [right_answer(doc, label) for doc in DOCS for label in LABELS]
  np.testing.assert_array_equal(verdicts.answer, expected)
  np.testing.assert_array_equal(
    np.isnan(verdicts.p_yes), verdicts.answer == INVALID
  )
  np.testing.assert_array_equal(verdicts.p_yes > 0.5, verdicts.answer == YES)
  assert len(teacher.asked) == len(set(teacher.asked)) == 9
  assert tally == Tally(pairs=16, asked=9, reused=7, invalid=4, yes=7)


def test_second_judging_asks_nothing(path):
  first, _ = VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')
  teacher = FakeTeacher()
  again, tally = VerdictStore(path).judge(teacher, all_pairs(), 'run/1')
  assert teacher.asked == []
  assert (tally.asked, tally.reused) == (0, 16)
  np.testing.assert_array_equal(first.answer, again.answer)
  np.testing.assert_array_equal(first.p_yes, again.p_yes)
  assert {count for (count,) in rows(path)} == {1}


def test_stage_that_goes_on_reports_as_if_undisturbed(path):
  """The tally comes from the rows, not from what this process asked."""
  _, undisturbed = VerdictStore(path + '2').judge(
    FakeTeacher(), all_pairs(), 'run/0'
  )
  store = VerdictStore(path)
  store.judge(FakeTeacher(), all_pairs().take(slice(0, 5)), 'run/0')
  _, resumed = store.judge(FakeTeacher(), all_pairs(), 'run/0')
  assert resumed == undisturbed


def test_teachers_are_never_mixed(path):
  store = VerdictStore(path)
  store.judge(FakeTeacher('one'), all_pairs(), 'run/0')
  other = FakeTeacher('other')
  _, tally = store.judge(other, all_pairs(), 'run/0')
  assert len(other.asked) == tally.asked == 9


def test_known_is_found_by_text_not_by_index(path):
  store = VerdictStore(path)
  store.judge(FakeTeacher(), all_pairs(), 'run/0')
  teacher = FakeTeacher()
  verdicts, _ = store.judge(
    teacher, all_pairs(['new', *DOCS[::-1]], LABELS[::-1]), 'other/0'
  )
  assert {doc for doc, _ in teacher.asked} == {'new'}
  expected = [
    right_answer(doc, label)
    for doc in ['new', *DOCS[::-1]]
    for label in LABELS[::-1]
  ]
  np.testing.assert_array_equal(verdicts.answer, expected)


def test_pair_without_any_answer_is_asked_again(path):
  store = VerdictStore(path)
  verdicts, tally = store.judge(
    FakeTeacher(silent_on='b'), all_pairs(), 'run/0'
  )
  assert (verdicts.answer[1::4] == INVALID).all()
  assert tally == Tally(pairs=16, asked=6, reused=6, invalid=8, yes=4)
  teacher = FakeTeacher()
  _, tally = store.judge(teacher, all_pairs(), 'run/0')
  assert {label for _, label in teacher.asked} == {'b'}
  assert tally.asked == 9


def test_no_pairs(path):
  pairs = all_pairs().take(slice(0, 0))
  verdicts, tally = VerdictStore(path).judge(FakeTeacher(), pairs, 'run/0')
  assert len(verdicts) == 0
  assert tally == Tally(0, 0, 0, 0, 0)


def test_many_documents_and_labels_seen_before(path):
  """More than one block and one query; other labels stored do not confuse."""
  docs = [chr(97 + i % 26) * (i + 1) for i in range(700)]
  labels = [chr(97 + i) * 2 for i in range(26)]
  store = VerdictStore(path)
  pairs = all_pairs(docs, labels)
  store.judge(FakeTeacher(chunk=5000), pairs.take(slice(1, None, 2)), 'run/0')
  teacher = FakeTeacher(chunk=5000)
  verdicts, tally = store.judge(teacher, pairs, 'run/1')
  assert (tally.asked, tally.reused) == (9100, 9100)
  assert len(teacher.asked) == 9100
  expected = [right_answer(doc, label) for doc in docs for label in labels]
  np.testing.assert_array_equal(verdicts.answer, expected)


@settings(
  max_examples=30,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  data=st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12),
    min_size=1,
    max_size=4,
  )
)
def test_any_sequence_of_calls(tmp_path, data):
  file = tmp_path / 'any.sqlite'
  for part in tmp_path.iterdir():
    part.unlink()
  docs, labels = fake_documents([*DOCS, 'x']), fake_labels(LABELS)
  teacher, known = FakeTeacher(), set()
  store = VerdictStore(str(file))
  for call, some in enumerate(data):
    doc_index, label_index = np.array(some, np.int64).reshape(-1, 2).T
    verdicts, tally = store.judge(
      teacher, Pairs(docs, labels, doc_index, label_index), f'run/{call}'
    )
    texts = list(zip(docs.get(doc_index), labels.get(label_index), strict=True))
    assert verdicts.answer.tolist() == [right_answer(*pair) for pair in texts]
    assert tally.asked == len(set(texts) - known)
    assert tally.asked + tally.reused == tally.pairs == len(texts)
    known |= set(texts)
  assert len(teacher.asked) == len(known)
  store.close()


def test_another_threshold_asks_nothing_anew(path):
  """FakeTeacher's p_yes is 0.8 for yes and 0.1 for no."""
  store = VerdictStore(path)
  teacher = FakeTeacher(yes_threshold=0.5)
  first, tally = store.judge(teacher, all_pairs(), 'run/0')
  plain, _ = store.judge(FakeTeacher(), all_pairs(), 'run/1')
  np.testing.assert_array_equal(first.answer, plain.answer)
  stored = rows(path, '*')
  invalid = np.isnan(plain.p_yes)
  for threshold, answer, num_yes in [(0.05, YES, 12), (0.9, NO, 0)]:
    teacher = FakeTeacher(yes_threshold=threshold)
    verdicts, tally = store.judge(teacher, all_pairs(), 'run/2')
    assert teacher.asked == []
    assert (verdicts.answer[~invalid] == answer).all()
    assert (verdicts.answer[invalid] == INVALID).all()
    assert (tally.yes, tally.invalid) == (num_yes, 4)
    np.testing.assert_array_equal(verdicts.p_yes, first.p_yes)
  assert rows(path, '*') == stored


def test_the_threshold_itself_is_a_no(path):
  p_yes = float(np.float32(0.1))
  for threshold, num_yes in [(0.1, 7), (np.nextafter(p_yes, 0), 7), (0.09, 12)]:
    teacher = FakeTeacher(yes_threshold=float(threshold))
    _, tally = VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
    assert tally.yes == num_yes


def one_go_and_blocks(tmp_path, monkeypatch, block, *args, **kwargs):
  """Results of the same calls, with blocks of pairs and without."""
  results = []
  for name, size in [('one', 10**6), ('blocks', block)]:
    monkeypatch.setattr('lmtx_jax.teacher.verdict_store._BLOCK', size)
    file = tmp_path / f'{name}.sqlite'
    for end in ('', '-wal', '-shm'):
      Path(f'{file}{end}').unlink(missing_ok=True)
    results.append(list(judge_all(str(file), *args, **kwargs)))
  return results


def judge_all(path, calls, **kwargs):
  docs, labels = fake_documents([*DOCS, 'x']), fake_labels(LABELS)
  with contextlib.closing(VerdictStore(path)) as store:
    for asked_by, some in calls:
      teacher = FakeTeacher(**kwargs)
      doc_index, label_index = np.array(some, np.int64).reshape(-1, 2).T
      pairs = Pairs(docs, labels, doc_index, label_index)
      known = store.known(teacher, pairs)
      verdicts, tally = store.judge(teacher, pairs, asked_by)
      if not kwargs.get('silent_on'):
        assert len(set(teacher.asked)) == len(teacher.asked)
      yield (
        known.tolist(),
        verdicts.answer.tolist(),
        np.nan_to_num(verdicts.p_yes, nan=-1).tolist(),
        tally,
        set(teacher.asked),
      )


@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  calls=st.lists(
    st.tuples(
      st.sampled_from(['run/0', 'run/1']),
      st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=20),
    ),
    min_size=1,
    max_size=3,
  ),
  block=st.integers(1, 7),
  threshold=st.sampled_from([None, 0.05, 0.5]),
  silent_on=st.sampled_from(['', 'b']),
)
def test_blocks_change_nothing(tmp_path, calls, block, threshold, silent_on):
  with pytest.MonkeyPatch.context() as monkeypatch:
    one_go, blocks = one_go_and_blocks(
      tmp_path,
      monkeypatch,
      block,
      calls,
      yes_threshold=threshold,
      silent_on=silent_on,
    )
  assert one_go == blocks


def test_questions_are_counted_in_several_passes(path, monkeypatch):
  monkeypatch.setattr('lmtx_jax.teacher.verdict_store._COUNT_AT_ONCE', 100)
  docs = [chr(97 + i % 26) * (i + 1) for i in range(200)]
  twice = all_pairs(docs + docs[:50])
  _, tally = VerdictStore(path).judge(FakeTeacher(chunk=500), twice, 'run/0')
  assert (tally.pairs, tally.asked, tally.reused) == (1000, 600, 400)


def test_labels_of_a_document_stay_together(path):
  """Asked in the order of the pairs, whatever the order of digests is."""
  teacher = FakeTeacher()
  VerdictStore(path).judge(teacher, all_pairs(), 'run/0')
  expected = dict.fromkeys((doc, label) for doc in DOCS for label in LABELS)
  assert teacher.asked == list(expected)


def test_known_asks_and_stores_nothing(path):
  store, teacher = VerdictStore(path), FakeTeacher()
  assert not store.known(teacher, all_pairs()).any()
  assert not rows(path)
  with sqlite3.connect(path) as db:
    assert not db.execute('SELECT * FROM teachers').fetchall()
  store.judge(teacher, all_pairs(docs=['bc']), 'run/0')
  teacher = FakeTeacher()
  known = store.known(teacher, all_pairs())
  assert known.reshape(4, 4).tolist() == [[doc == 'bc'] * 4 for doc in DOCS]
  assert not teacher.asked
  assert not store.known(FakeTeacher('other'), all_pairs()).any()


CHILD = textwrap.dedent("""
  import sys, time
  sys.path.insert(0, {here!r})
  from teacher_fakes import FakeTeacher
  from test_verdict_store import all_pairs
  from lmtx_jax.teacher.verdict_store import VerdictStore

  class FakeHangingTeacher(FakeTeacher):
    def judge(self, pairs):
      for i, chunk in enumerate(super().judge(pairs)):
        if i == {hangs_at}:
          print('hangs', flush=True)
          time.sleep(600)
        yield chunk

  docs = [chr(97 + i % 26) * (i + 1) for i in range(100)]
  labels = [chr(97 + i) * 2 for i in range(20)]
  teacher = FakeHangingTeacher(chunk={chunk})
  pairs = all_pairs(docs, labels)
  print('ready', flush=True)
  sys.stdin.readline()
  _, tally = VerdictStore(sys.argv[1]).judge(teacher, pairs, sys.argv[2])
  print(len(teacher.asked), tally.yes)
""")
ROOT = Path(__file__).parents[2]


def start_child(path, asked_by, chunk, hangs_at=None):
  """It asks 2,000 questions when it is told to.

  Its teacher says when it hangs, if it does.
  """
  here = str(Path(__file__).parent)
  code = CHILD.format(here=here, chunk=chunk, hangs_at=hangs_at)
  return subprocess.Popen(
    [sys.executable, '-c', code, path, asked_by],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )


def tell_to_ask(*children):
  """When all are ready."""
  for child in children:
    assert child.stdout.readline() == 'ready\n'
  for child in children:
    child.stdin.write('\n')
    child.stdin.flush()


def test_killed_while_asking_then_goes_on(path):
  child = start_child(path, 'run/0', chunk=200, hangs_at=6)
  tell_to_ask(child)
  assert child.stdout.readline() == 'hangs\n'
  child.send_signal(signal.SIGKILL)
  child.communicate()
  stored = len(rows(path))
  assert stored % 200 == 0 and 1200 - 1000 < stored <= 1200  # of six chunks
  child = start_child(path, 'run/0', chunk=200)
  tell_to_ask(child)
  out, _ = child.communicate(timeout=60)
  assert int(out.split()[0]) == 2000 - stored
  assert rows(path) == [(1,)] * 2000


def test_two_processes_at_once(path):
  """They may meet at a question, but never disturb each other."""
  children = [start_child(path, f'run{i}/0', chunk=100) for i in range(3)]
  tell_to_ask(*children)
  outs = [child.communicate(timeout=60)[0] for child in children]
  assert [child.returncode for child in children] == [0] * 3
  assert len({out.split()[1] for out in outs}) == 1  # all count the same yeses
  counts = [count for (count,) in rows(path)]
  assert len(counts) == 2000
  assert sum(counts) == sum(int(out.split()[0]) for out in outs)


def test_not_a_database(path):
  Path(path).write_text('{"uid": 1}\n' * 1000)
  with pytest.raises(UserError, match=r'verdicts\.sqlite: file is not a data'):
    VerdictStore(path)


def test_database_of_another_program(path):
  with sqlite3.connect(path) as db:
    db.execute('CREATE TABLE songs (title)')
  with pytest.raises(UserError, match='no verdict store'):
    VerdictStore(path)
  with sqlite3.connect(path) as db:
    db.execute('PRAGMA application_id = 7')
  with pytest.raises(UserError, match='another program'):
    VerdictStore(path)


def test_newer_version(path):
  VerdictStore(path).close()
  with sqlite3.connect(path) as db:
    db.execute(f'PRAGMA user_version = {SCHEMA_VERSION + 1}')
  with pytest.raises(UserError, match='newer lmtx_jax'):
    VerdictStore(path)


def test_damaged_file(path):
  docs = [chr(97 + i % 26) * (i + 1) for i in range(300)]
  store = VerdictStore(path)
  store.judge(FakeTeacher(), all_pairs(docs), 'run/0')
  store.close()
  content = bytearray(Path(path).read_bytes())
  content[8192:] = b'\xff' * (len(content) - 8192)
  Path(path).write_bytes(content)
  with pytest.raises(UserError, match='malformed'):
    VerdictStore(path).judge(FakeTeacher(), all_pairs(docs), 'run/0')


def test_missing_folder(tmp_path):
  with pytest.raises(UserError, match='folder'):
    VerdictStore(str(tmp_path / 'none' / 'v.sqlite'))


def test_locked(path, monkeypatch):
  monkeypatch.setattr('lmtx_jax.teacher.store_file._BUSY_TIMEOUT_S', 0.1)
  VerdictStore(path).close()
  with sqlite3.connect(path) as other:
    other.execute('BEGIN IMMEDIATE')
    with pytest.raises(UserError, match='locked by another process'):
      VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')


def test_waits_for_a_short_lock(path):
  VerdictStore(path).close()
  other = sqlite3.connect(path, check_same_thread=False)
  other.execute('BEGIN IMMEDIATE')
  timer = threading.Timer(0.3, other.rollback)
  timer.start()
  _, tally = VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')
  timer.join()
  assert tally.asked == 9


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_read_only_file(path):
  VerdictStore(path).close()
  os.chmod(path, 0o444)
  with pytest.raises(UserError, match='readonly'):
    VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')


def test_full_disk(path):
  """A limit on the size of files stands for the full disk."""
  code = textwrap.dedent("""
    import resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    from lmtx_jax import cli
    sys.path.insert(0, sys.argv.pop(1))
    from teacher_fakes import FakeTeacher
    from test_verdict_store import all_pairs
    from lmtx_jax.teacher.verdict_store import VerdictStore
    docs = ['a' * i for i in range(1, 900)]
    path = sys.argv.pop(1)
    cli.run(
      lambda values: VerdictStore(path).judge(
        FakeTeacher(), all_pairs(docs), 'run/0'), (), 'test')
  """)
  result = subprocess.run(
    [sys.executable, '-c', code, str(Path(__file__).parent), path],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  assert result.returncode == 1
  assert 'Traceback' not in result.stderr
  last = result.stderr.splitlines()[-1]
  assert last.startswith(f'error: verdict store {path}: ')
  assert 'disk' in last
