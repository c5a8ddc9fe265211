"""ICXML in front of servers that know what is right."""

import threading

from icxml_fakes import DOCS, FakeLlm, tag, wanted
import pytest
from writer_fakes import FakeWriter

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.answer_store import AnswerStore
from lmtx_jax.teacher.llm.generate import Generator
from lmtx_jax.types import UserError

pytestmark = pytest.mark.usefixtures('short_pauses', 'no_leftovers')
MANY = [
  (title and f'{title} {i}', f'{i}. {text}')
  for i in range(5)
  for title, text in DOCS
]


@pytest.fixture
def answers(tmp_path):
  store = AnswerStore(str(tmp_path / 'answers.sqlite'))
  yield store
  store.close()


@pytest.fixture
def knowing(servers):
  for server in servers:
    server.answer, server.context_length = FakeLlm(), 8192
    server.latency_s = 0.01
  return servers


def make_generator(*servers, **flags):
  urls = ','.join(server.url for server in servers)
  flags = {
    'chat_format': 'vicuna',
    'teacher_batch_size': 2,
    'teacher_in_flight': 4,
    'teacher_timeout_s': 5.0,
    'teacher_patience': 20.0,
    **flags,
  }
  return Generator(LlmConfig(teacher_urls=urls, **flags), 256)


@pytest.fixture
def expected(tmp_path):
  store = AnswerStore(str(tmp_path / 'expected.sqlite'))
  names, report = tag(store, FakeWriter(FakeLlm()), MANY)
  store.close()
  return names, report


@pytest.mark.parametrize('kind', ['content', 'label'])
def test_the_labels_that_are_right(knowing, answers, kind):
  generator = make_generator(*knowing)
  names, report = tag(answers, generator, icxml_demonstrations=kind)
  for row, (_, text) in zip(names, DOCS, strict=True):
    assert row[: len(wanted(text))] == wanted(text)
  assert report['bad_answers'] == report['unanswered'] == 0
  sent = sum(server.answered.total() for server in knowing)
  assert report['asked'] == sent
  assert report['generated_tokens'] > sent
  assert report['prompt_tokens'] == generator.usage()['prompt_tokens']


def dies_after(server, num_answers):
  """Lets a server end; returns the thread that ends it."""
  llm, end = FakeLlm(), threading.Thread(target=server.stop)

  def answer(prompt):
    if server.answered.total() >= num_answers and end.ident is None:
      end.start()
    return llm(prompt)

  server.answer = answer
  return end


def test_one_server_dies(knowing, answers, expected):
  one, two = knowing
  end = dies_after(one, 10)
  names, report = tag(answers, make_generator(one, two), MANY)
  assert names == expected[0] and report['asked'] == expected[1]['asked']
  end.join()
  assert 10 <= one.answered.total() < 40 < two.answered.total()


def test_all_servers_die_and_the_same_command_goes_on(
  knowing, answers, expected
):
  server, _ = knowing
  end = dies_after(server, 30)
  with pytest.raises(UserError, match='--teacher_patience'):
    tag(answers, make_generator(server, teacher_patience=0.5), MANY)
  stored = answers.spent('run/icxml')['asked']
  assert 20 < stored < expected[1]['asked']
  end.join()
  server.answer = FakeLlm()
  server.start()
  before = server.answered.copy()
  names, report = tag(answers, make_generator(server), MANY)
  assert names == expected[0] and report['asked'] == expected[1]['asked']
  again = (server.answered - before).total()
  assert again == expected[1]['asked'] - stored


def test_a_context_that_is_too_small_for_some(knowing, answers):
  server, _ = knowing
  server.context_length = 1000
  docs = [*DOCS, ('On length', f'{"word " * 120}. wanted: red cat.')]
  names, report = tag(answers, make_generator(server), docs)
  assert all(names) and report['unanswered'] > 0
