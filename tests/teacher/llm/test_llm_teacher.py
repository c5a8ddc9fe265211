"""An LLM behind a verdict store, asked over HTTP."""

import json

from asking_fakes import (
  DOCS,
  LABELS,
  ask_all,
  assert_right,
  in_time,
  judge,
  make_pairs,
  make_teacher,
  plain_prompt,
  right_answers,
)
from fake_server import FakeSglangServer
from fake_tokenizer import BOS_CHAT_TEMPLATE, write_tokenizer
import numpy as np
import pytest

from lmtx_jax.types import INVALID, NO, YES, UserError


def test_every_pair_gets_its_verdict(server, store):
  pairs = make_pairs(DOCS, LABELS)
  verdicts, tally = judge(store, make_teacher(server.url), pairs)
  assert_right(verdicts, pairs)
  assert (tally.asked, tally.invalid) == (63, 0)
  assert set(server.answered.values()) == {1} and len(server.answered) == 63
  assert tally.usage['prompt_tokens'] > tally.usage['cached_tokens'] > 0
  assert tally.usage['retries'] == tally.usage['given_up'] == 0


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_text(server, store, api):
  server.answer = lambda prompt: (
    'Yes, it is' if 'tag 1 ' in prompt
    else 'Who can say' if 'tag 2 ' in prompt else ' no'
  )  # fmt: skip
  pairs = make_pairs(DOCS, LABELS)
  teacher = make_teacher(server.url, verdict='text', teacher_api=api)
  verdicts, tally = judge(store, teacher, pairs)
  right = np.tile([NO, YES, INVALID, *[NO] * 6], 7)
  np.testing.assert_array_equal(verdicts.answer, right)
  assert tally.invalid == 7
  server.received.clear()
  judge(store, teacher, pairs)
  assert not server.received  # an answer that says nothing is one, too


def test_openai_logprobs(server, store):
  pairs = make_pairs(DOCS, LABELS)
  teacher = make_teacher(server.url, teacher_api='openai')
  verdicts, _ = judge(store, teacher, pairs)
  right = right_answers(pairs)
  # Only the five likeliest tokens are seen.
  np.testing.assert_allclose(verdicts.p_yes, right, atol=0.04)
  clear = abs(right - 0.5) > 0.04
  np.testing.assert_array_equal(
    verdicts.answer[clear], np.where(right > 0.5, YES, NO)[clear]
  )
  assert set(server.answered.values()) == {1}


def vicuna(question):
  return (
    'A chat between a curious user and an artificial intelligence assistant. '
    "The assistant gives helpful, detailed, and polite answers to the user's "
    f'questions. USER: {question} ASSISTANT:'
  )


def im_start(question):
  return (
    f'<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n'
    '<think>\n\n</think>\n\n'
  )


@pytest.mark.parametrize(
  ('chat_format', 'chat'), [('vicuna', vicuna), ('tokenizer', im_start)]
)
def test_chats(server, store, chat_format, chat):
  pairs = make_pairs(DOCS, LABELS)
  teacher = make_teacher(server.url, chat_format=chat_format)
  verdicts, _ = judge(store, teacher, pairs)
  assert_right(
    verdicts, pairs, prompt=lambda *texts: chat(plain_prompt(*texts))
  )


def test_own_start_token(tmp_path, store):
  folder = write_tokenizer(tmp_path, chat_template=BOS_CHAT_TEMPLATE, bos=True)
  with FakeSglangServer(folder) as server:
    pairs = make_pairs(DOCS[:1], LABELS)
    teacher = make_teacher(server.url, chat_format='tokenizer')
    judge(store, teacher, pairs)
    assert not server.crimes and len(server.answered) == 9


def test_own_prompt(server, store):
  pairs = make_pairs(DOCS, LABELS)
  teacher = make_teacher(server.url, prompt_template='{label}?\\n{doc} {label}')
  verdicts, _ = judge(store, teacher, pairs)
  assert_right(
    verdicts, pairs, prompt=lambda doc, label: f'{label}?\n{doc} {label}'
  )


def test_no_single_token_for_an_answer(tmp_path, store, caplog):
  folder = write_tokenizer(tmp_path / 't', spellings=(' yes', 'Yes'))
  with FakeSglangServer(folder) as server:
    teacher = make_teacher(server.url)
    pairs = make_pairs(DOCS, LABELS)
    verdicts, _ = judge(store, teacher, pairs)
    right = np.where(right_answers(pairs) > 0.5, YES, NO)
    np.testing.assert_array_equal(verdicts.answer, right)
    assert json.loads(teacher.identity)['verdict'] == 'text'
    assert sum('--verdict=text' in r.message for r in caplog.records) == 1
    assert not server.crimes


def test_second_judging_and_another_threshold_ask_nothing(server, store):
  pairs = make_pairs(DOCS, LABELS)
  first, _ = judge(store, make_teacher(server.url), pairs)
  server.received.clear()
  again, tally = judge(store, make_teacher(server.url), pairs, 'run/1')
  np.testing.assert_array_equal(first.p_yes, again.p_yes)
  assert (tally.asked, tally.reused) == (0, 63)
  right = right_answers(pairs)
  for threshold in (0.0, 0.2, 0.9, 1.0):
    teacher = make_teacher(server.url, yes_threshold=threshold)
    other, _ = judge(store, teacher, pairs, 'run/2')
    expected = np.where(right > threshold, YES, NO)
    np.testing.assert_array_equal(other.answer, expected)
  assert not server.received


def test_identity(tmp_path, folder, server):
  def identity(url=server.url, **flags):
    return make_teacher(url, **flags).identity

  with FakeSglangServer(folder) as twin:
    same = {
      identity(),
      identity(twin.url),
      identity(twin.url + '/,' + server.url),
      identity(yes_threshold=0.9),
      identity(teacher_batch_size=1, teacher_in_flight=2),
      identity(teacher_timeout_s=1, teacher_patience=1),
    }
    assert len(same) == 1
    different = {
      *same,
      identity(chat_format='vicuna'),
      identity(chat_format='tokenizer'),
      identity(prompt_template='{doc}{label}'),
      identity(teacher_doc_tokens=17),
      identity(verdict='text'),
      identity(teacher_api='openai'),
      identity(teacher_api='openai', verdict='text'),
    }
    twin.model_path = 'another'
    different.add(identity(twin.url))
    twin.model_path, twin.weight_version = folder, '2'
    different.add(identity(twin.url))
    assert len(different) == 10
  for text in different:
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert server.url not in text
  # Where the same tokenizer lies does not matter.
  moved = write_tokenizer(tmp_path / 'moved')
  assert identity(teacher_tokenizer=moved) == identity()


def test_a_server_that_takes_no_such_questions(server, monkeypatch):
  server.answer = lambda prompt: 1 / 0  # never asked
  teacher = make_teacher(server.url)
  teacher.prepare()
  monkeypatch.setattr(
    type(teacher._api(by_list=False)),
    'body',
    lambda *unused: {'sampling_params': {}},
  )
  with pytest.raises(UserError, match='refuses to answer') as info:
    ask_all(teacher, make_pairs(DOCS, LABELS))
  assert '\n' not in str(info.value) and server.url in str(info.value)


def test_an_llm_that_wants_to_say_something_else(server, caplog):
  server.answer = lambda prompt: 'Perhaps'
  ask_all(make_teacher(server.url), make_pairs(DOCS * 3, LABELS))
  odd = [r.message for r in caplog.records if '--chat_format' in r.message]
  assert len(odd) == 1


def test_usage_never_falls(server):
  teacher = make_teacher(server.url)
  assert set(teacher.usage().values()) == {0}
  last = teacher.usage()
  for _ in range(2):

    def run(last=last):
      for _ in teacher.judge(make_pairs(DOCS, LABELS)):
        now = teacher.usage()
        assert all(now[name] >= last[name] for name in last)
        last.update(now)

    in_time(run)
  assert last['cached_tokens'] > 0
  assert teacher.usage() == last
