"""The file of verdicts: versions, modes, transactions."""

import os
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from teacher_fakes import FakeTeacher
from test_verdict_store import ROOT, all_pairs, rows

from lmtx_jax.teacher.verdict_file import SCHEMA_VERSION, VerdictFile
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import UserError

VERSION_1 = """
  CREATE TABLE teachers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
  CREATE TABLE askers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
  CREATE TABLE verdicts (
    teacher INTEGER NOT NULL REFERENCES teachers,
    document BLOB NOT NULL,
    label BLOB NOT NULL,
    answer INTEGER NOT NULL,
    p_yes REAL,
    asked_by INTEGER NOT NULL REFERENCES askers,
    num_asked INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (teacher, document, label)
  ) WITHOUT ROWID;
  PRAGMA application_id = 0x4C4D5458;
  PRAGMA user_version = 1;
  PRAGMA journal_mode = WAL;
"""


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'verdicts.sqlite')


@pytest.fixture
def version_1(path):
  """A store of version 1 with the verdicts of all pairs."""
  VerdictStore(path + '2').judge(FakeTeacher(), all_pairs(), 'run/0')
  db = sqlite3.connect(path)
  db.executescript(VERSION_1)
  db.execute('ATTACH ? AS new', (path + '2',))
  for table in ('teachers', 'askers', 'verdicts'):
    db.execute(f'INSERT INTO {table} SELECT * FROM new.{table}')
  db.commit()
  db.close()
  return path


def version(path):
  with sqlite3.connect(path) as db:
    return db.execute('PRAGMA user_version').fetchone()[0]


def test_version_1_is_upgraded_when_written(version_1):
  stored = rows(version_1, '*')
  teacher = FakeTeacher(counts_tokens=True)
  _, tally = VerdictStore(version_1).judge(teacher, all_pairs(), 'run/0')
  assert teacher.asked == []
  assert (tally.asked, tally.usage) == (9, {})
  assert version(version_1) == SCHEMA_VERSION == 2
  assert rows(version_1, '*') == stored
  more = all_pairs(docs=['new'])
  _, tally = VerdictStore(version_1).judge(teacher, more, 'run/1')
  assert tally.usage['prompt_tokens'] == 30


def test_version_1_is_read_as_it_is(version_1):
  file = VerdictFile(version_1, 'read')
  assert file.usage() == {}
  assert file.version == 1
  store = VerdictStore(version_1, 'read')
  assert store.known(FakeTeacher(), all_pairs()).all()
  assert version(version_1) == 1


def test_version_1_is_upgraded_by_two_at_once(version_1):
  code = textwrap.dedent("""
    import sys
    from lmtx_jax.teacher.verdict_file import VerdictFile
    print(flush=True)
    sys.stdin.readline()
    VerdictFile(sys.argv[1]).close()
  """)
  children = [
    subprocess.Popen(
      [sys.executable, '-c', code, version_1],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    for _ in range(3)
  ]
  for child in children:
    child.stdout.readline()
  for child in children:
    child.stdin.write(b'go\n')
    child.stdin.flush()
  for child in children:
    child.communicate(timeout=60)
  assert [child.returncode for child in children] == [0] * 3
  assert version(version_1) == 2
  assert len(rows(version_1)) == 9


def test_a_failed_upgrade_changes_nothing(version_1):
  with sqlite3.connect(version_1) as db:
    db.execute('CREATE TABLE usage (x)')
  with pytest.raises(sqlite3.OperationalError):
    VerdictFile(version_1)
  assert version(version_1) == 1


@pytest.mark.parametrize('mode', ['read', 'write'])
def test_looking_makes_no_file(path, mode):
  with pytest.raises(UserError, match=r'--x=.*verdicts\.sqlite: no such file'):
    VerdictFile(path, mode, '--x')
  assert not os.path.exists(path)


def test_read_mode_cannot_write(path):
  VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')
  file = VerdictFile(path, 'read')
  with pytest.raises(UserError, match='readonly'), file.user_errors():
    file.id('askers', 'new')


def test_reads_where_nobody_may_write(path, monkeypatch):
  """As on a read-only disk: no lock file can be made beside it."""
  store = VerdictStore(path)
  store.judge(FakeTeacher(), all_pairs(), 'run/0')
  store.close()
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  before = sorted(os.listdir(os.path.dirname(path)))
  assert VerdictStore(path, 'read').known(FakeTeacher(), all_pairs()).all()
  assert sorted(os.listdir(os.path.dirname(path))) == before


def test_odd_names_of_files(tmp_path):
  path = str(tmp_path / 'what? 100% #1.sqlite')
  VerdictFile(path).close()
  assert os.listdir(tmp_path) == ['what? 100% #1.sqlite']
  VerdictFile(path, 'read').close()
  VerdictFile(path, 'write').close()
  assert os.listdir(tmp_path) == ['what? 100% #1.sqlite']


def test_other_answers_wait_for_nobody(path):
  """One reads in a transaction while another writes."""
  VerdictStore(path).judge(FakeTeacher(), all_pairs(), 'run/0')
  reader = VerdictFile(path, 'read')
  reader.db.execute('BEGIN')
  query = 'SELECT COUNT(*) FROM verdicts'
  assert reader.db.execute(query).fetchone() == (9,)
  more = all_pairs(docs=['new'])
  VerdictStore(path).judge(FakeTeacher(), more, 'run/0')
  assert reader.db.execute(query).fetchone() == (9,)
  reader.db.execute('COMMIT')
  assert reader.db.execute(query).fetchone() == (12,)


def test_usage_adds_up_with_the_rows(path):
  file = VerdictFile(path)
  teacher, asker = file.id('teachers', '{}'), file.id('askers', 'a')
  row = (teacher, b'd' * 16, b'l' * 16, 1, 0.5, asker)
  file.write([row], asker, {'tokens': 2.0, 'seconds': 0.5})
  file.write([], asker, {'tokens': 3.0})
  with pytest.raises(sqlite3.IntegrityError):
    file.write([(None, *row[1:])], asker, {'tokens': 100.0})
  assert file.usage() == {asker: {'tokens': 5.0, 'seconds': 0.5}}
