"""The fake server answers as a real one does."""

import concurrent.futures
import json
import urllib.error

from fake_server import FakeSglangServer, right_p_yes
from fake_tokenizer import BOS_CHAT_TEMPLATE, SPELLINGS, write_tokenizer
from plain_client import PROMPTS, ask, completion, get, p_yes, post, question
import pytest
from transformers import AutoTokenizer

# Answers of sglang 0.5.20, for the names and types of their fields.
COSTS = {
  'reasoning_tokens': 0,
  'completion_tokens': 0,
  'cached_tokens': 5,
  'weight_versions': [{'version': 'default', 'start': 0, 'end': 0}],
  'cached_tokens_details': {'device': 5, 'host': 0},
  'dp_rank': None,
  'e2e_latency': 0.011215044999971724,
  'response_sent_to_client_ts': 1795434382.298434,
}
REAL_LOGPROB = {
  'text': '',
  'output_ids': [],
  'meta_info': {
    'id': 'a1',
    'finish_reason': {'type': 'length', 'length': 0},
    'prompt_tokens': 6,
    'weight_version': 'default',
    'num_retractions': 0,
    'input_token_logprobs': [],
    'output_token_logprobs': [],
    'output_token_logprobs_length': 0,
    'input_token_ids_logprobs': [],
    'output_token_ids_logprobs': [[[-23.95, 5, '!'], [-21.01, 6, '"']]],
    **COSTS,
  },
}
REAL_TEXT = {
  'text': 'isuno',
  'output_ids': [667, 307],
  'meta_info': {
    'id': '7ffebb7475974e46b512093af2d4286b',
    'finish_reason': {'type': 'length', 'length': 2},
    'prompt_tokens': 6,
    'weight_version': 'default',
    'num_retractions': 0,
    **COSTS,
  },
}
REAL_CHOICE = {
  'index': 0,
  'text': 'isu',
  'logprobs': {
    'text_offset': [-1],
    'token_logprobs': [-1.44],
    'tokens': ['isu'],
    'top_logprobs': [{'isu': -1.44, ' ce': -1.92}],
  },
  'finish_reason': 'length',
  'matched_stop': None,
}


def shape(value):
  """Names and types; of a list, those of its first."""
  if isinstance(value, dict):
    return {key: shape(v) for key, v in value.items()}
  if isinstance(value, list):
    return [shape(v) for v in value[:1]]
  return type(value)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write_tokenizer(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture
def server(folder):
  with FakeSglangServer(folder) as server:
    yield server


def test_answers_look_like_sglang(server):
  ask(server)  # so that the next has something cached
  status, items = ask(server)
  assert status == 200
  assert shape(items) == shape([REAL_LOGPROB])
  plain = {'sampling_params': {'max_new_tokens': 2, 'temperature': 0}}
  server.answer = lambda prompt: 'It is hard to say'
  text = json.loads(
    post(server.url, '/generate', {'text': PROMPTS[0], **plain})[1]
  )
  assert shape(text) == shape(REAL_TEXT)
  server.answer = right_p_yes
  choice = json.loads(post(server.url, '/v1/completions', completion())[1])[
    'choices'
  ][0]
  top = choice['logprobs'].pop('top_logprobs')
  assert len(top) == 1 and len(top[0]) == 5
  assert shape(choice | {'logprobs': {}}) == shape(
    REAL_CHOICE | {'logprobs': {}}
  )
  for path in ('/model_info', '/get_model_info', '/server_info'):
    info = json.loads(get(server.url, path))
    assert info['model_path'] == info['tokenizer_path'] == server.model_path
  models = json.loads(get(server.url, '/v1/models'))
  assert models['data'][0]['max_model_len'] == 2048
  assert not server.crimes


def test_verdicts_are_of_the_prompt_alone(server):
  _, items = ask(server)
  for prompt, item in zip(PROMPTS, items, strict=True):
    assert p_yes(item) == pytest.approx(right_p_yes(prompt), abs=1e-9)
  assert len({right_p_yes(prompt) for prompt in PROMPTS}) == len(PROMPTS)
  _, again = ask(server, prompts=PROMPTS[::-1])
  assert list(map(p_yes, again)) == list(map(p_yes, items))[::-1]
  assert server.answered == dict.fromkeys(PROMPTS, 2)
  server.answer = lambda prompt: 'Yes.' if prompt == PROMPTS[0] else 'Perhaps.'
  _, items = ask(server)
  assert p_yes(items[0]) > 0.999
  assert (
    max(lp for lp, *_ in items[1]['meta_info']['output_token_ids_logprobs'][0])
    < -20
  )


def test_text_answers(server):
  sampling = {'sampling_params': {'max_new_tokens': 8, 'temperature': 0}}
  server.answer = lambda prompt: 1.0 if prompt == PROMPTS[0] else 0.0
  _, items = ask(server, **sampling)
  assert [item['text'][:3] for item in items] == ['Yes', 'No.', 'No.']
  server.answer = lambda prompt: 'Perhaps, who knows the answer to this'
  assert ask(server, **sampling)[1][0]['text'] == 'Perhaps,'


def test_tokens_and_prefixes(server):
  shared = 'document = the answer is in the document. '
  _, (one,) = ask(server, prompts=[shared + 'yes'])
  tokenizer = AutoTokenizer.from_pretrained(server.tokenizer_path)
  ids = tokenizer(shared + 'yes')['input_ids']
  assert one['meta_info']['prompt_tokens'] == len(ids)
  assert one['meta_info']['cached_tokens'] == 0
  _, (two,) = ask(server, prompts=[shared + 'no'])
  assert 8 <= two['meta_info']['cached_tokens'] < len(ids)
  _, (whole,) = ask(server, prompts=[shared + 'no'], logprob_start_len=0)
  entries = whole['meta_info']['input_token_logprobs']
  assert [i for _, i, _ in entries] == tokenizer(shared + 'no')['input_ids']
  assert [lp is None for lp, *_ in entries] == [True] + [False] * (
    len(entries) - 1
  )
  assert get(server.url, '/flush_cache')
  _, (three,) = ask(server, prompts=[shared + 'no'])
  assert three['meta_info']['cached_tokens'] == 0


def test_tokenizers_with_few_spellings_or_a_bos(tmp_path):
  for name, chosen in (('none', ()), ('some', (' yes', 'No'))):
    tokenizer = AutoTokenizer.from_pretrained(
      write_tokenizer(tmp_path / name, spellings=chosen, chat_template=None)
    )
    single = {s for s in SPELLINGS if len(tokenizer.encode(s)) == 1}
    assert single == set(chosen)
    assert tokenizer.chat_template is None
  folder = write_tokenizer(
    tmp_path / 'bos', bos=True, chat_template=BOS_CHAT_TEMPLATE
  )
  tokenizer = AutoTokenizer.from_pretrained(folder)
  chat = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': 'yes?'}], tokenize=False
  )
  with FakeSglangServer(folder) as server:
    ask(server, prompts=[chat.removeprefix(tokenizer.bos_token)])
    assert not server.crimes
    ask(server, prompts=[chat])
    assert server.crimes


@pytest.mark.parametrize(
  'fields, status, message',
  [
    ({'prompts': ['a', 'the ' * 2048]}, 400, 'longer than the model'),
    ({'prompts': ['the' + ' the' * 2042]}, 400, 'exceeds the maximum allowed'),
    ({'rid': ['x'] * 3}, 400, 'Duplicate request IDs'),
    ({'rid': ['x']}, 400, 'rids length mismatch'),
    ({'prompts': ['']}, 400, 'texts cannot be empty'),
  ],
)
def test_refusals(server, fields, status, message):
  got, answer = ask(server, **fields)
  assert got == status
  assert message in answer['error']['message']
  assert not server.answered


@pytest.mark.parametrize(
  'fields',
  [
    {'token_ids_logprob': [5000]},
    {'token_ids_logprob': [[7]]},
    {'text': None, 'input_ids': [[7], [-1]], 'rid': None},
    {'sampling_params': {'max_new_tokens': 0}},
  ],
)
def test_crimes_are_seen(server, fields):
  body = {k: v for k, v in question(server, **fields).items() if v is not None}
  post(server.url, '/generate', body)
  assert len(server.crimes) == 1


def test_knobs(server):
  server.max_queued = 2
  assert ask(server) == (
    503,
    {
      'object': 'error',
      'message': 'The request queue is full.',
      'type': '503',
      'param': None,
      'code': 503,
    },
  )
  server.max_queued, server.api_key = None, 'sesame'
  assert ask(server) == (401, {'error': 'Unauthorized'})
  body = question(server)
  assert post(server.url, '/generate', body, key='sesame')[0] == 200
  server.api_key, server.sglang_jax = None, True
  server.model_path = 'another'
  with pytest.raises(urllib.error.HTTPError, match='404'):
    get(server.url, '/model_info')
  assert b'another' in get(server.url, '/get_model_info')
  server.hang = True
  with pytest.raises(TimeoutError):
    post(server.url, '/generate', body, timeout=0.2)
  assert get(server.url, '/health') == b''
  server.hang = False
  url = server.url
  server.stop()
  with pytest.raises(urllib.error.URLError, match='refused'):
    ask(server)
  server.start()
  assert server.url == url and ask(server)[0] == 200
  assert server.in_flight == 0 and server.most_in_flight == 3


def test_two_kinds_of_log_probabilities_at_once_are_a_crime(server):
  server.latency_s = 0.3
  for bodies, num_crimes in (
    ([question(server), question(server, rid=None)], 0),
    ([question(server), question(server, return_logprob=False, rid=None)], 0),
    ([question(server), question(server, token_ids_logprob=[], rid=None)], 1),
  ):
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for body in bodies:
        pool.submit(post, server.url, '/generate', body)
    assert len(server.crimes) == num_crimes
