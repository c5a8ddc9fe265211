"""The command for stores: looking, moving in and out, mending."""

import contextlib
import gzip
import io
import json
import os
from pathlib import Path
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from teacher_fakes import FakeTeacher
from test_verdict_file import VERSION_1
from test_verdict_store import ROOT, all_pairs, rows

from lmtx_jax import cli
from lmtx_jax.teacher import verdicts
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.teacher.verdict_store import VerdictStore

DOCS = [chr(97 + i % 26) * (i + 1) for i in range(400)]


def call(*argv):
  """Exit code, output, and errors without progress bars."""
  out, err, code = io.StringIO(), io.StringIO(), 0
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      cli.run(
        verdicts.main,
        (verdicts.VerdictsConfig,),
        verdicts.__doc__,
        ['verdicts', *argv],
      )
    except SystemExit as e:
      code = e.code
  return code, out.getvalue(), err.getvalue()


def succeed(*argv):
  code, out, err = call(*argv)
  assert code == 0, err
  return out


def fail(*argv):
  """The one line of error of a command that must fail."""
  code, out, err = call(*argv)
  assert (code, out) == (1, '')
  (line,) = (x for x in err.splitlines() if x.startswith('error: '))
  assert err.splitlines()[-1] == line
  assert 'Traceback' not in err
  return line


def content(path):
  with contextlib.closing(sqlite3.connect(path)) as db:
    return db.execute(
      'SELECT t.name, hex(document), hex(label), answer, p_yes, a.name FROM '
      'verdicts JOIN teachers t ON t.id = teacher JOIN askers a ON '
      'a.id = asked_by ORDER BY 1, 2, 3'
    ).fetchall()


def usage(path):
  with contextlib.closing(VerdictFile(path, 'read')) as file:
    names = file.names('askers')
    return {names[asker]: counts for asker, counts in file.usage().items()}


def fill(path, docs=('ab', 'bc'), asked_by='run/0', **kwargs):
  with contextlib.closing(VerdictStore(path)) as store:
    teacher = FakeTeacher(chunk=500, counts_tokens=True, **kwargs)
    store.judge(teacher, all_pairs(list(docs)), asked_by)
  return path


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'v.sqlite')


@pytest.fixture
def store(path):
  fill(path)
  return fill(path, ['x'], 'run/1', name='other')


def test_table(path):
  prompt = 'document = {doc}. Is the tag {label} relevant? ' * 5
  identity = {
    'teacher': 'sglang',
    'model': 'org/Some-Model-7B',
    'prompt': prompt,
    'chat_format': 'tokenizer',
    'verdict': 'logprob',
    'doc_tokens': 430,
    'template': 'long\ntext ' * 50,
  }
  teacher = FakeTeacher(counts_tokens=True)
  teacher.identity = json.dumps(identity, sort_keys=True)
  with contextlib.closing(VerdictStore(path)) as store:
    for i in range(2):
      store.judge(teacher, all_pairs(docs=['ab', f'c{i}']), f'run/{i}')
  fill(path, ['x'], 'run/9')
  out = succeed(f'--store={path}')
  assert all(len(line) <= 100 for line in out.splitlines())
  assert 'sglang org/Some-Model-7B' in out
  assert 'chat_format=tokenizer, doc_tokens=430' in out
  assert 'prompt: document = {doc}. Is the tag {label} relevant? doc' in out
  assert '9 pairs: 2 yes (22.22%), 4 no, 3 invalid' in out
  assert 'asked by 2 stages; 90 prompt tokens (40% cached); ' in out
  assert '\n\nfake\n  3 pairs: 0 yes (0.00%), 2 no, 1 invalid\n' in out


def test_table_of_nothing_and_of_version_1(path):
  VerdictFile(path).close()
  assert 'no verdicts' in succeed(f'--store={path}')
  os.remove(path)
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.executescript(VERSION_1)
    db.execute("INSERT INTO teachers VALUES (1, '{}'), (2, 'odd')")
    db.execute("INSERT INTO askers VALUES (1, 'run/0')")
    for i in (1, 2):
      db.execute(
        f'INSERT INTO verdicts VALUES ({i}, x"00", x"00", 1, 1, 1, 1)'.replace(
          '"', "'"
        )
      )
    db.commit()
  assert 'odd\n  1 pairs: 1 yes (100.00%)' in succeed(f'--store={path}')


@pytest.mark.parametrize(
  'action',
  ['', '--check', '--repair', '--export_to={}/e.jsonl'],
)
def test_missing_store(action, path, tmp_path):
  line = fail(f'--store={path}', *filter(None, [action.format(tmp_path)]))
  assert line == f'error: --store={path}: no such file'
  assert os.listdir(tmp_path) == []


def test_flags(store):
  assert 'name it with --store=FILE' in fail()
  line = fail(f'--store={store}', '--check', '--repair')
  assert 'not both --check and --repair' in line
  assert call('--stoer=x')[0] == 2


@pytest.mark.parametrize('action', ['', '--check', '--merge_from={}'])
def test_no_store_and_newer_store(path, store, action):
  other = f'{path}.other'
  which = [action.format(other)] if '{}' in action else [f'--store={other}']
  flags = [*which, *([f'--store={store}'] if '{}' in action else [])]
  flags += [action] if action.startswith('--check') else []
  Path(other).write_text('no database' * 1000)
  assert 'file is not a database' in fail(*flags)
  os.remove(other)
  fill(other)
  with contextlib.closing(sqlite3.connect(other)) as db:
    db.execute('PRAGMA user_version = 99')
  assert 'newer lmtx_jax' in fail(*flags)
  with contextlib.closing(sqlite3.connect(other)) as db:
    db.execute('PRAGMA application_id = 99')
  assert 'of another program' in fail(*flags)


def test_locked(path, store, tmp_path, monkeypatch):
  monkeypatch.setattr('lmtx_jax.teacher.store_file._BUSY_TIMEOUT_S', 0.1)
  other = fill(str(tmp_path / 'other.sqlite'), ['new'])
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.execute('BEGIN IMMEDIATE')
    succeed(f'--store={path}')  # readers do not care
    line = fail(f'--store={path}', f'--merge_from={other}')
  assert 'locked by another process' in line


@pytest.mark.parametrize('name', ['e.jsonl', 'e.jsonl.gz'])
def test_export_and_import(store, tmp_path, name):
  file = str(tmp_path / name)
  out = succeed(f'--store={store}', f'--export_to={file}')
  assert out == f'{file}: 9 verdicts\n'
  packed = Path(file).read_bytes()
  text = gzip.decompress(packed) if name.endswith('gz') else packed
  lines = [json.loads(line) for line in text.splitlines()]
  assert len(lines) == 9
  first = lines[0]
  assert first['teacher'] == {'teacher': 'fake'}
  assert first['asked_by'] == 'run/0'
  assert len(first['document']) == len(first['label']) == 32
  p_yes = {'yes': float(np.float32(0.8)), 'no': float(np.float32(0.1))}
  assert all(line['p_yes'] == p_yes.get(line['answer']) for line in lines)
  assert {line['answer'] for line in lines} == {'yes', 'no', 'invalid'}
  copy = str(tmp_path / 'copy.sqlite')
  assert '9 verdicts added, 0 were there' in succeed(
    f'--store={copy}', f'--import_from={file}'
  )
  assert content(copy) == content(store)
  assert '0 verdicts added, 9 were there' in succeed(
    f'--store={copy}', f'--import_from={file}'
  )
  teacher = FakeTeacher()
  with contextlib.closing(VerdictStore(copy)) as opened:
    opened.judge(teacher, all_pairs(docs=['ab', 'bc']), 'run/0')
  assert teacher.asked == []
  before = Path(file).read_bytes()
  succeed(f'--store={copy}', f'--export_to={file}')
  assert Path(file).read_bytes() == before


def test_every_float32_survives(path, tmp_path):
  rng = np.random.default_rng(0)
  p_yes = np.concatenate(
    [
      rng.random(500, np.float32),
      rng.random(500, np.float32) ** 40,
      np.array([0, 1, np.nextafter(np.float32(0), 1), 1e-45], np.float32),
    ]
  )
  with contextlib.closing(VerdictFile(path)) as file:
    teacher, asker = file.id('teachers', '{"é": 0.1}'), file.id('askers', 'ß')
    file.write(
      [
        (teacher, i.to_bytes(16), bytes(16), 1, float(p), asker)
        for i, p in enumerate(p_yes)
      ],
      asker,
      {},
    )
  export, copy = tmp_path / 'e.jsonl', str(tmp_path / 'copy.sqlite')
  succeed(f'--store={path}', f'--export_to={export}')
  succeed(f'--store={copy}', f'--import_from={export}')
  assert content(copy) == content(path)
  with contextlib.closing(sqlite3.connect(copy)) as db:
    query = 'SELECT p_yes FROM verdicts ORDER BY document'
    found = np.array(db.execute(query).fetchall(), np.float32)[:, 0]
  np.testing.assert_array_equal(found.view('u4'), p_yes.view('u4'))


GOOD = {
  'teacher': {'b': 1, 'a': 'x'},
  'document': '0' * 32,
  'label': 'aF' * 16,
  'answer': 'yes',
  'p_yes': 0.5,
  'asked_by': 'me',
}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('{', 'not JSON'),
    ('[]', 'not a JSON object'),
    ('', 'an empty line'),
    ({'teacher': []}, 'teacher is not a JSON object'),
    ({'document': '0' * 31}, 'document is not a digest of 32'),
    ({'label': 'g' * 32}, 'label is not a digest of 32'),
    ({'answer': 'maybe'}, "answer is not yes, no or invalid: 'maybe'"),
    ({'answer': ['yes']}, 'answer is not yes'),
    ({'p_yes': 1.5}, 'p_yes is not a number from 0 to 1'),
    ({'p_yes': float('nan')}, 'p_yes is not a number from 0 to 1'),
    ({'p_yes': True}, 'p_yes is not a number from 0 to 1'),
    ({'answer': 'invalid'}, 'p_yes must be null if and only if'),
    ({'p_yes': None}, 'p_yes must be null if and only if'),
    ({'asked_by': None}, 'asked_by is not a name'),
    ({'asked_by': ...}, 'lacks asked_by'),
  ],
)
def test_a_bad_line(store, tmp_path, change, message):
  bad = change
  if isinstance(change, dict):
    item = {**GOOD, **change}
    bad = json.dumps({k: v for k, v in item.items() if v is not ...})
  file = tmp_path / 'bad.jsonl'
  file.write_text(f'{json.dumps(GOOD)}\n{bad}\n')
  before = content(store)
  line = fail(f'--store={store}', f'--import_from={file}')
  assert f'{file}:2: ' in line
  assert message in line
  assert content(store) == before
  new = tmp_path / 'new.sqlite'
  fail(f'--store={new}', f'--import_from={file}')
  assert not new.exists()


def test_import_of_odd_files(path, tmp_path):
  file = tmp_path / 'e.jsonl.gz'
  assert str(file) in fail(f'--store={path}', f'--import_from={file}')
  file.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 99)[:-9])
  line = fail(f'--store={path}', f'--import_from={file}')
  assert 'cut short or damaged' in line or 'not JSON' in line
  assert not os.path.exists(path)


def test_teachers_are_found_by_their_canonical_form(path, tmp_path):
  """Keys in another order are the same teacher; other text stays text."""
  file = tmp_path / 'e.jsonl'
  lines = [GOOD, {**GOOD, 'teacher': 'no {json', 'p_yes': 1}]
  file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  succeed(f'--store={path}', f'--import_from={file}')
  expected = [json.dumps(GOOD['teacher'], sort_keys=True), 'no {json']
  assert sorted(row[0] for row in content(path)) == sorted(expected)
  again, copy = tmp_path / 'again.jsonl', str(tmp_path / 'copy.sqlite')
  succeed(f'--store={path}', f'--export_to={again}')
  succeed(f'--store={copy}', f'--import_from={again}')
  assert content(copy) == content(path)


def test_a_store_is_never_written_over_by_itself(store):
  before = content(store)
  for flag in ('export_to', 'import_from', 'merge_from'):
    line = fail(f'--store={store}', f'--{flag}={store}')
    assert f'--{flag}={store} is the store itself' in line
  assert content(store) == before


def test_merge_with_a_store_in_use(store, tmp_path):
  """The other has a writer with a transaction open, and rows in its log."""
  path = str(tmp_path / 'other.sqlite')
  writer = VerdictStore(path)
  teacher = FakeTeacher(counts_tokens=True)
  writer.judge(teacher, all_pairs(docs=['ab', 'yy', 'zz']), 'else/0')
  before = rows(path, '*')
  with contextlib.closing(sqlite3.connect(path)) as busy:
    busy.execute('BEGIN IMMEDIATE')
    busy.execute("INSERT INTO askers (name) VALUES ('not yet')")
    out = succeed(f'--store={store}', f'--merge_from={path}')
    assert '6 verdicts added, 3 were there' in out
  assert rows(path, '*') == before
  asked_by = {row[5] for row in content(store)}
  assert asked_by == {'run/0', 'run/1', 'else/0'}
  assert len(content(store)) == 15
  assert usage(store)['else/0']['prompt_tokens'] == 90
  succeed(f'--store={store}', f'--merge_from={path}')
  assert usage(store)['else/0']['prompt_tokens'] == 90


def test_what_is_there_stays_in_a_merge(store, tmp_path):
  other = fill(str(tmp_path / 'other.sqlite'))
  with contextlib.closing(sqlite3.connect(other)) as db:
    db.execute('UPDATE verdicts SET answer = 1, p_yes = 0.9')
    db.commit()
  before = content(store)
  succeed(f'--store={store}', f'--merge_from={other}')
  assert content(store) == before


def test_merge_makes_the_store(store, path, tmp_path):
  new = str(tmp_path / 'new.sqlite')
  succeed(f'--store={new}', f'--merge_from={store}')
  assert content(new) == content(store)
  absent = tmp_path / 'absent.sqlite'
  line = fail(f'--store={tmp_path / "x.sqlite"}', f'--merge_from={absent}')
  assert line == f'error: --merge_from={absent}: no such file'
  assert not (tmp_path / 'x.sqlite').exists()


def test_check(store):
  out = succeed(f'--store={store}', '--check')
  assert out == (f'{store}: ok, 9 verdicts of 2 teachers, asked by 2 stages\n')


def damage(path, first, last, filler=b'\xff'):
  """Overwrites pages, 1 being the first of the file."""
  with open(path, 'r+b') as f:
    f.seek((first - 1) * 4096)
    f.write(filler * (4096 * (last - first + 1)))


@pytest.mark.parametrize('filler', [b'\xff', b'\0'])
def test_damage_in_the_middle(path, filler):
  fill(path, DOCS)
  before, spent = content(path), usage(path)
  damage(path, 12, 14, filler)
  code, _, err = call(f'--store={path}', '--check')
  assert code == 1
  (line,) = err.splitlines()
  assert line.startswith(f'error: verdict store {path}')
  assert line.endswith('--repair')
  damaged = Path(path).read_bytes()
  out = succeed(f'--store={path}', '--repair')
  after = content(path)
  assert f'{path}: {len(after):,} verdicts saved' in out
  assert f'{path}.damaged' in out
  assert Path(f'{path}.damaged').read_bytes() == damaged
  assert set(after) <= set(before)
  # A page of 4,096 bytes holds fewer than 100 verdicts.
  assert len(before) > len(after) > len(before) - 3 * 100
  assert usage(path) == spent
  assert 'ok' in succeed(f'--store={path}', '--check')
  teacher = FakeTeacher(chunk=500)
  with contextlib.closing(VerdictStore(path)) as store:
    store.judge(teacher, all_pairs(DOCS), 'run/0')
  assert len(teacher.asked) == len(before) - len(after)
  assert [row[:5] for row in content(path)] == [row[:5] for row in before]


def test_damage_at_the_head(path):
  """Page 1 holds the header and the schema."""
  fill(path, DOCS)
  before = content(path)
  damage(path, 1, 1)
  assert 'not a database' in fail(f'--store={path}', '--check')
  succeed(f'--store={path}', '--repair')
  assert content(path) == before


def test_a_torn_page_and_a_cut_file(path):
  fill(path, DOCS)
  before = content(path)
  size = os.path.getsize(path)
  with open(path, 'r+b') as f:
    f.truncate(size - 6000)
    f.seek(12 * 4096 + 1500)
    f.write(b'\xa5' * 2000)
  succeed(f'--store={path}', '--repair')
  kept = set(content(path)) & set(before)
  assert len(kept) > 0.8 * len(before)
  assert 'ok' in succeed(f'--store={path}', '--check')


def test_repair_of_a_sound_store_with_long_names(path):
  """Names that go on over further pages are read."""
  prompt = 'Ist das ein schöner langer Satz? ' * 600
  teacher = FakeTeacher(counts_tokens=True)
  teacher.identity = json.dumps({'teacher': 'sglang', 'prompt': prompt})
  with contextlib.closing(VerdictStore(path)) as store:
    store.judge(teacher, all_pairs(), 'run/' + 'x' * 3000)
  before = content(path)
  succeed(f'--store={path}', '--repair')
  assert content(path) == before
  line = fail(f'--store={path}', '--repair')
  assert f'{path}.damaged is there' in line


CHILD = textwrap.dedent("""
  import os, sys
  sys.path.insert(0, {here!r})
  from teacher_fakes import FakeTeacher
  from test_verdict_store import all_pairs
  from test_verdicts import DOCS
  from lmtx_jax.teacher.verdict_store import VerdictStore
  store = VerdictStore(sys.argv[1])
  store.judge(FakeTeacher(chunk=500), all_pairs(DOCS[:100]), 'run/0')
  print('ready', flush=True)
  sys.stdin.readline()
  os._exit(9)
""")


def test_repair_while_in_use_and_after_a_kill(path):
  """All its rows are in the log still when the other process dies."""
  child = subprocess.Popen(
    [sys.executable, '-c', CHILD.format(here=str(Path(__file__).parent)), path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  assert child.stdout.readline() == b'ready\n'
  line = fail(f'--store={path}', '--repair')
  assert 'in use by another process' in line
  assert not os.path.exists(f'{path}.damaged')
  child.communicate(b'end\n', timeout=30)
  assert os.path.getsize(f'{path}-wal') > 10_000
  succeed(f'--store={path}', '--repair')
  assert len(content(path)) == 300
  assert os.path.getsize(f'{path}.damaged-wal') > 10_000


def test_what_cannot_be_repaired(path, tmp_path):
  Path(path).write_bytes(b'\xff' * 99_999)
  assert 'nothing of a verdict store' in fail(f'--store={path}', '--repair')
  Path(path).write_bytes(b'')
  assert 'nothing of a verdict store' in fail(f'--store={path}', '--repair')
  os.remove(path)
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.execute('CREATE TABLE songs (title)')
  assert 'no verdict store' in fail(f'--store={path}', '--repair')
  os.remove(path)
  fill(path)
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.execute('PRAGMA user_version = 99')
  assert 'newer' in fail(f'--store={path}', '--repair')
  left = {name for name in os.listdir(tmp_path) if 'damaged' in name}
  assert not left | {n for n in os.listdir(tmp_path) if 'unfinished' in n}


def test_as_a_command(store, tmp_path):
  def command(*argv):
    return subprocess.run(
      [sys.executable, '-m', 'lmtx_jax.teacher.verdicts', *argv],
      capture_output=True,
      text=True,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      timeout=60,
      check=False,
    )

  result = command(f'--store={store}')
  assert result.returncode == 0
  assert '6 pairs: 3 yes (50.00%)' in result.stdout
  result = command('--store=none.sqlite', '--check')
  assert result.returncode == 1
  assert result.stderr == 'error: --store=none.sqlite: no such file\n'
