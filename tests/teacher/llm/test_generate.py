"""Texts from servers, of which some fail."""

import json
import os
import signal
import threading

from asking_fakes import in_time, make_pairs, make_teacher
from fake_server import FakeSglangServer
import numpy as np
import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm import generate
from lmtx_jax.teacher.llm.generate import Generator, OpenAiTexts, SglangTexts
from lmtx_jax.teacher.llm.wire import Malformed
from lmtx_jax.types import UserError

pytestmark = pytest.mark.usefixtures('short_pauses', 'no_leftovers')
PROMPTS = [f'Tell me of number {i}.' for i in range(40)]


def tell(prompt):
  return f'It is said: {prompt}\nNo more.'


def make_generator(*servers, tokens=256, **flags):
  urls = ','.join(x if isinstance(x, str) else x.url for x in servers)
  flags = {
    'chat_format': 'none',
    'teacher_timeout_s': 5.0,
    'teacher_patience': 20.0,
    'teacher_batch_size': 4,
    'teacher_in_flight': 16,
    **flags,
  }
  return Generator(LlmConfig(teacher_urls=urls, **flags), tokens)


def write_all(generator, prompts=PROMPTS, meddle=lambda num: None):
  """Texts and whether they were cut; each prompt answered at most once."""
  return in_time(_write_all, generator, prompts, meddle)


def _write_all(generator, prompts, meddle):
  found, num = {}, 0
  for positions, texts in generator.generate(prompts):
    for i, text, is_cut in zip(
      positions.tolist(), texts.text, texts.is_cut, strict=True
    ):
      assert i not in found
      found[i] = text, bool(is_cut)
    num += len(positions)
    meddle(num)
  return found


@pytest.fixture(autouse=True)
def talking(servers):
  for server in servers:
    server.answer = tell
  return servers


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_each_prompt_gets_its_text(server, api):
  generator = make_generator(server, teacher_api=api)
  found = write_all(generator)
  assert found == {i: (tell(p), False) for i, p in enumerate(PROMPTS)}
  assert [server.received[p] for p in PROMPTS] == [1] * len(PROMPTS)
  assert all(
    body.get('sampling_params', body)['temperature'] == 0
    for body in server.bodies
  )
  assert generator.usage()['prompt_tokens'] > 0


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_a_text_that_is_too_long_is_cut(server, api):
  generator = make_generator(server, tokens=5, teacher_api=api)
  (text, is_cut) = write_all(generator, PROMPTS[:1])[0]
  assert is_cut and tell(PROMPTS[0]).startswith(text) and 0 < len(text) < 15


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_tokens_of_each_text(server, api):
  generator = make_generator(server, teacher_api=api)
  encode = generator._connection.tokenizer.encode
  (chunk,) = [
    texts for _, texts in generator.generate(PROMPTS[:4]) if len(texts)
  ]
  total = sum(len(encode(prompt)) for prompt in PROMPTS[:4])
  assert chunk.prompt_tokens.sum() == total
  assert chunk.new_tokens.sum() == sum(
    len(encode(tell(prompt))) for prompt in PROMPTS[:4]
  )
  assert generator.usage()['prompt_tokens'] == total


def test_an_empty_text_is_an_answer(server):
  server.answer = lambda prompt: ''
  assert write_all(make_generator(server), PROMPTS[:3]) == {
    i: ('', False) for i in range(3)
  }


def test_the_chat_format_is_applied(server):
  write_all(make_generator(server, chat_format='vicuna'), PROMPTS[:1])
  (prompt,) = server.received
  assert prompt.endswith(f' USER: {PROMPTS[0]} ASSISTANT:')
  write_all(make_generator(server, chat_format='tokenizer'), ['{doc} {label}'])
  assert '<|im_start|>user\n{doc} {label}<|im_end|>' in [*server.received][1]


def test_documents_are_cut_by_the_tokenizer_of_the_model(server):
  generator = make_generator(server, teacher_doc_tokens=7)
  text = 'the document is relevant, ' * 30
  (cut,) = generator.cut([text])
  assert text.startswith(cut)
  assert len(generator._connection.tokenizer.encode(cut)) == 7


def test_the_identity_names_what_may_change_an_answer(server):
  def identity(*args, **kwargs):
    return make_generator(server, *args, **kwargs).identity

  plain = identity()
  assert plain == identity(teacher_batch_size=1, teacher_doc_tokens=3)
  others = {
    identity(tokens=9),
    identity(chat_format='vicuna'),
    identity(teacher_api='openai'),
  }
  assert len(others | {plain}) == 4
  assert json.loads(plain)['answer_tokens'] == 256


def test_two_servers_of_which_one_dies(servers):
  one, two = servers
  for server in servers:
    server.latency_s = 0.02
  stops = [one.stop]

  def meddle(num):
    if num >= 12 and stops:
      stops.pop()()

  generator = make_generator(one, two)
  found = write_all(generator, PROMPTS * 3, meddle)
  assert found == {i: (tell(p), False) for i, p in enumerate(PROMPTS * 3)}
  assert not stops and one.answered and two.answered
  assert generator.usage()['retries'] > 0


def test_faults_of_every_kind(proxies):
  """Connections that break, answers that are none, errors and silence."""
  for proxy in proxies:
    proxy.rate = 0.3
  generator = make_generator(*proxies, teacher_timeout_s=0.5)
  found = write_all(generator)
  assert found == {i: (tell(p), False) for i, p in enumerate(PROMPTS)}


def test_a_busy_server_is_sent_less(server):
  server.max_queued = 6
  found = write_all(make_generator(server, teacher_batch_size=8))
  assert len(found) == len(PROMPTS) and server.most_in_flight <= 6


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_too_long_a_prompt_has_no_text_and_others_do(server, api):
  prompts = [*PROMPTS[:6], 'long ' * 2000, *PROMPTS[6:12]]
  found = write_all(make_generator(server, teacher_api=api), prompts)
  assert found.pop(6) == (None, False)
  assert found == {i: (tell(p), False) for i, p in enumerate(prompts) if i != 6}


def test_all_prompts_too_long(server):
  server.context_length = 64
  with pytest.raises(UserError, match='finds every question too long'):
    write_all(make_generator(server), PROMPTS)


def test_nobody_answers(server):
  generator = make_generator(server, teacher_patience=0.5)
  assert generator.identity
  server.stop()
  with pytest.raises(UserError, match='--teacher_patience'):
    write_all(generator)


def test_ctrl_c(server):
  server.hang = True
  generator = make_generator(server)
  assert generator.identity
  threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
  with pytest.raises(KeyboardInterrupt):
    write_all(generator)


def test_it_shares_a_server_with_a_teacher(server):
  """Sglang dies where only some requests want log-probabilities."""
  server.latency_s = 0.05
  server.answer = lambda prompt: 'Yes, it is.'
  pairs = make_pairs(['a doc', 'another'], [f'tag {i}' for i in range(20)])
  teacher = make_teacher(server.url, teacher_batch_size=4)
  asking = threading.Thread(target=lambda: list(teacher.judge(pairs)))
  asking.start()
  write_all(make_generator(server))
  asking.join()
  assert server.most_in_flight > 4
  assert all('return_logprob' in body for body in server.bodies)
  assert not server.crimes


def test_no_prompts(server):
  assert write_all(make_generator(server), []) == {}


def test_prompts_are_read_in_blocks(server, monkeypatch):
  monkeypatch.setattr(generate, '_BLOCK', 3)
  assert len(write_all(make_generator(server))) == len(PROMPTS)


GOOD = {
  'text': 'a',
  'meta_info': {
    'id': 'r',
    'finish_reason': {'type': 'stop'},
    'prompt_tokens': 3,
    'completion_tokens': 1,
  },
}


def test_half_a_character_is_replaced():
  reply = SglangTexts(9).read([{**GOOD, 'text': 'x\ud83d'}], ['r'])
  assert reply.answers.text.tolist() == ['x?']
  choice = {'index': 0, 'text': '\udc00', 'finish_reason': 'stop'}
  reply = OpenAiTexts('m', 9).read({'choices': [choice]}, ['r'])
  assert reply.answers.text.tolist() == ['?']
  assert reply.answers.new_tokens.tolist() == [0]  # it does not tell


@pytest.mark.parametrize(
  'reply',
  [
    None,
    [],
    [GOOD, GOOD],
    [{**GOOD, 'text': None}],
    [{**GOOD, 'meta_info': {**GOOD['meta_info'], 'id': 'other'}}],
    [
      {
        **GOOD,
        'meta_info': {**GOOD['meta_info'], 'finish_reason': {'type': 'abort'}},
      }
    ],
    [{'text': 'a'}],
  ],
)
def test_what_is_no_answer(reply):
  with pytest.raises(Malformed):
    SglangTexts(9).read(reply, ['r'])
  with pytest.raises(Malformed):
    OpenAiTexts('m', 9).read(reply, ['r'])


@pytest.mark.parametrize('num', [1, 3, 7])
def test_shares_of_tokens_are_the_whole(num):
  shares = generate._shares(20, num)
  assert sum(shares) == 20 and np.ptp(shares) <= 1 and len(shares) == num


def test_the_server_in_use_has_another_model_now(server, folder, tmp_path):
  generator = make_generator(server)
  write_all(generator, PROMPTS[:4])
  server.stop()
  port = int(server.url.rpartition(':')[2])
  with FakeSglangServer(folder, port, answer=tell) as other:
    other.model_path = 'another/model'
    with pytest.raises(UserError, match='another model'):
      write_all(generator)
