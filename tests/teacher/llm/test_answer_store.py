"""Answers are stored as they come, and never asked again."""

import contextlib
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from writer_fakes import FakeCrash, FakeWriter

import lmtx_jax
from lmtx_jax.teacher.llm.answer_store import Answer, AnswerStore
from lmtx_jax.types import UserError

PROMPTS = [f'prompt {i}' for i in range(23)]


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'answers.sqlite')


@pytest.fixture
def answers(path):
  with contextlib.closing(AnswerStore(path)) as store:
    yield store


def rows(path, columns='num_asked'):
  with sqlite3.connect(path) as db:
    return db.execute(f'SELECT {columns} FROM answers').fetchall()


def test_answers_in_order_each_asked_once(answers):
  writer = FakeWriter(str.upper)
  prompts = [*PROMPTS, *PROMPTS[:5]]
  found = answers.answers(writer, prompts, 'run/0')
  assert found == [Answer(p.upper(), False, 10, 3) for p in prompts]
  assert sorted(writer.asked) == sorted(PROMPTS)


def test_a_second_time_asks_what_is_new(answers, path):
  answers.answers(FakeWriter(str.upper), PROMPTS[:9], 'run/0')
  with contextlib.closing(AnswerStore(path)) as other:
    writer = FakeWriter(lambda p: f'new {p}')
    found = other.answers(writer, PROMPTS, 'run/1')
    assert [x.text for x in found] == [
      *map(str.upper, PROMPTS[:9]),
      *(f'new {p}' for p in PROMPTS[9:]),
    ]
    assert len(writer.asked) == 14
    assert other.spent('run/0')['asked'] == 9
    assert other.spent('run/1')['asked'] == 14


def test_writers_are_told_apart(answers):
  answers.answers(FakeWriter(str.upper), PROMPTS, 'run/0')
  writer = FakeWriter(str.title, name='another')
  (found,) = answers.answers(writer, PROMPTS[:1], 'run/0')
  assert found.text == 'Prompt 0'


def test_texts_come_back_as_they_were(answers):
  texts = ['', ' \n', 'na\u00efve \U0001f600\0', '"\'); DROP TABLE answers;--']
  says = dict(zip(PROMPTS, texts, strict=False))
  found = answers.answers(FakeWriter(says.get), PROMPTS[:4], 'run/0')
  assert [x.text for x in found] == texts


def test_what_got_no_answer_is_asked_again(answers):
  writer = FakeWriter(lambda p: None if p.endswith('3') else p)
  found = answers.answers(writer, PROMPTS, 'run/0')
  missing = [3, 13]
  assert [i for i, x in enumerate(found) if x is None] == missing
  writer = FakeWriter(str.upper)
  found = answers.answers(writer, PROMPTS, 'run/0')
  assert [found[i].text for i in missing] == ['PROMPT 3', 'PROMPT 13']
  assert sorted(writer.asked) == ['prompt 13', 'prompt 3']


def test_what_it_cost_over_all_attempts(answers):
  nothing = {'asked': 0, 'prompt_tokens': 0, 'new_tokens': 0, 'seconds': 0.0}
  assert answers.spent('run/0') == nothing
  with pytest.raises(FakeCrash):
    answers.answers(FakeWriter(str, crash_after=9), PROMPTS, 'run/0')
  assert answers.spent('run/0')['asked'] == 12
  answers.answers(FakeWriter(str), PROMPTS, 'run/0')
  spent = answers.spent('run/0')
  assert spent.pop('seconds') > 0
  assert spent == {
    'asked': 23,
    'prompt_tokens': 230,
    'new_tokens': 69,
    'cached_tokens': 92,
    'retries': 0,
  }


def test_each_chunk_is_stored_when_it_comes(answers, path):
  seen = []

  def look(prompt):
    seen.append(len(rows(path)))
    return prompt

  answers.answers(FakeWriter(look, chunk=4), PROMPTS, 'run/0')
  assert seen == [i // 4 * 4 for i in range(23)]


def test_more_prompts_than_a_query_takes(answers):
  prompts = [f'prompt {i}' for i in range(1203)]
  writer = FakeWriter(str.upper, chunk=600)
  found = answers.answers(writer, prompts, 'run/0')
  assert [x.text for x in found] == [p.upper() for p in prompts]
  assert answers.answers(FakeWriter(None), prompts, 'run/0') == found


def test_no_prompts_ask_nobody(answers):
  assert answers.answers(None, [], 'run/0') == []


CHILD = """
import sys, time
sys.path[:0] = [{package!r}, {tests!r}]
from writer_fakes import FakeWriter
from lmtx_jax.teacher.llm.answer_store import AnswerStore

def say(prompt):
  if prompt == {hangs_at!r}:
    print('hangs', flush=True)
    # One long sleep would miss a signal that comes just as it begins.
    for _ in range(6000):
      time.sleep(0.1)
  return prompt.upper()

writer = FakeWriter(say, chunk=10)
found = AnswerStore({path!r}).answers(
  writer, [f'prompt {{i}}' for i in range(300)], 'run/0')
assert [x.text for x in found] == [f'PROMPT {{i}}' for i in range(300)]
print(len(writer.asked))
"""


def start_child(path, hangs_at=None):
  code = CHILD.format(
    path=path,
    hangs_at=hangs_at,
    package=str(pathlib.Path(lmtx_jax.__file__).parents[1]),
    tests=str(pathlib.Path(__file__).parents[2]),
  )
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code)],
    stdout=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_killed_while_asking_then_goes_on(path, number):
  child = start_child(path, hangs_at='prompt 145')
  assert child.stdout.readline() == 'hangs\n'
  child.send_signal(number)
  child.communicate(timeout=60)
  assert rows(path) == [(1,)] * 150  # in chunks, from the last
  child = start_child(path)
  out, _ = child.communicate(timeout=60)
  assert out == '150\n'
  assert rows(path) == [(1,)] * 300
  with contextlib.closing(AnswerStore(path, 'read')) as store:
    assert store.spent('run/0')['prompt_tokens'] == 3000


def test_a_verdict_store_is_none(tmp_path, store):
  del store  # it has made the file
  path = tmp_path / 'verdicts.sqlite'
  with pytest.raises(UserError, match='of another program'):
    AnswerStore(str(path))


def test_a_file_that_is_no_database(path):
  pathlib.Path(path).write_text('text ' * 1000)
  with pytest.raises(UserError, match=r'answer store .*another with --run_dir'):
    AnswerStore(path)


def test_a_newer_file(answers, path):
  answers.close()
  with sqlite3.connect(path) as db:
    db.execute('PRAGMA user_version = 2')
  with pytest.raises(UserError, match='written by a newer lmtx_jax'):
    AnswerStore(path)


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match='is its folder there'):
    AnswerStore(str(tmp_path / 'no' / 'answers.sqlite'))
