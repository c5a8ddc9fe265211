"""What a server does to one question must not be done to the others."""

import asyncio
import pathlib
import time

from aiohttp import web
from asking_fakes import (
  DOCS,
  LABELS,
  FakeMeddler,
  after,
  assert_right,
  judge,
  make_pairs,
  make_teacher,
  small_teacher,
  stops,
)
from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
import numpy as np
import pytest

from lmtx_jax.types import INVALID

pytestmark = pytest.mark.usefixtures('short_pauses', 'no_leftovers')
BAD = 'the document of 3 is '  # in front of one document's text


class FakeFragileServer(FakeSglangServer):
  """Does something else with requests about one document."""

  def __init__(self, folder, do, **knobs):
    super().__init__(folder, **knobs)
    self.do = do

  async def handle(self, request):
    if self.do and request.path == '/generate':
      text = (await request.read()).decode()
      if BAD in text:
        return await self.do(request)
    return await super().handle(request)


async def hang_up(request):
  request.transport.abort()
  return web.Response()


async def say_nothing(request):
  await asyncio.sleep(30)


def answer(status):
  async def do(request):
    return web.Response(status=status, text='no credit')

  return do


@pytest.mark.parametrize('do', [hang_up, say_nothing, answer(504)])
def test_a_question_that_breaks_the_server(folder, store, do):
  """It is left out, the others are answered, and it is asked the next time."""
  pairs = make_pairs(DOCS, LABELS[:2])
  bad = np.array([BAD in pairs.documents[d] for d in pairs.doc_index])
  with FakeFragileServer(folder, do) as server:
    teacher = small_teacher(server, teacher_timeout_s=0.2)
    verdicts, tally = judge(store, teacher, pairs)
    assert_right(
      type(verdicts)(verdicts.answer[~bad], verdicts.p_yes[~bad]),
      pairs.take(np.flatnonzero(~bad)),
    )
    assert (verdicts.answer[bad] == INVALID).all()
    assert tally.asked == (~bad).sum()
    server.do = None
    verdicts, _ = judge(store, teacher, pairs)
    assert_right(verdicts, pairs)


@pytest.mark.parametrize('status', [402, 451])
def test_a_refusal_of_another_kind_stops(folder, store, status):
  pairs = make_pairs(DOCS, LABELS)
  with FakeFragileServer(folder, answer(status)) as server:
    assert str(status) in stops(store, small_teacher(server), pairs, 'credit')
    server.do = None
    verdicts, _ = judge(store, small_teacher(server), pairs)
    assert_right(verdicts, pairs)  # none was taken for unanswerable


@pytest.mark.parametrize('status', [400, 408, 409, 204, 302])
def test_what_may_pass_is_never_stored_as_an_answer(folder, store, status):
  pairs = make_pairs(DOCS, LABELS[:3])
  with FakeFragileServer(folder, answer(status)) as server:
    teacher = small_teacher(server)
    meddler = FakeMeddler(
      teacher, after(10, lambda: setattr(server, 'do', None))
    )
    verdicts, _ = judge(store, meddler, pairs)
    assert_right(verdicts, pairs)


def test_every_question_is_too_long(folder, store):
  pairs = make_pairs(['the ' * 100], [str(i) for i in range(100)])
  with FakeSglangServer(folder, context_length=60) as server:
    message = stops(store, make_teacher(server.url), pairs, 'too long')
    assert '--teacher_doc_tokens' in message
    server.context_length = 2048
    verdicts, tally = judge(store, make_teacher(server.url), pairs)
    assert_right(verdicts, pairs)
    assert tally.asked == 100
  few = make_pairs(['the ' * 101], ['a', 'b'])
  with FakeSglangServer(folder, context_length=60) as server:
    verdicts, tally = judge(store, make_teacher(server.url), few)
    assert (verdicts.answer == INVALID).all() and tally.invalid == 2


def test_new_weights_in_a_server_that_stays(folder, store):
  pairs = make_pairs(DOCS, [str(i) for i in range(60)])
  with FakeSglangServer(folder, latency_s=0.005) as server:
    teacher = FakeMeddler(
      small_teacher(server),
      after(100, lambda: setattr(server, 'weight_version', 'v2')),
    )
    stops(store, teacher, pairs, 'another model')
    # Those answered with the old weights, and no other, are known.
    server.weight_version = 'default'
    known = store.known(small_teacher(server), pairs).sum()
    assert 100 <= known < 160


def test_completions_of_a_model_without_a_token_for_yes(tmp_path, store):
  folder = write_tokenizer(tmp_path / 'none', spellings=())
  pairs = make_pairs(DOCS, LABELS)
  with FakeSglangServer(folder) as server:
    teacher = make_teacher(server.url, teacher_api='openai')
    assert '"verdict": "text"' in teacher.identity
    verdicts, _ = judge(store, teacher, pairs)
  assert (verdicts.answer != INVALID).all()


def test_a_late_server_does_not_hold_the_others(folder, store, monkeypatch):
  monkeypatch.setattr('lmtx_jax.teacher.llm.connection._LATE_S', 0.2)
  with (
    FakeSglangServer(folder) as one,
    FakeSglangServer(folder, starting=10**6) as two,
  ):
    start = time.monotonic()
    teacher = make_teacher(two.url, one.url, teacher_patience=50.0)
    teacher.prepare()
    assert time.monotonic() - start < 20
    two.starting = 0
    pairs = make_pairs(DOCS, LABELS)
    verdicts, _ = judge(store, teacher, pairs)
    assert_right(verdicts, pairs)
    assert pathlib.Path(folder).name in teacher.identity
