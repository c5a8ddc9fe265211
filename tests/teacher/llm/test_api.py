import copy
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax.teacher.llm.api import Malformed, OpenAiApi, SglangApi
from lmtx_jax.types import INVALID, NO, YES

YES_IDS, NO_IDS = (5, 6), (7,)


def item(rid, logprobs, **meta):
  entries = [[lp, i, None] for i, lp in zip((5, 6, 7), logprobs, strict=True)]
  return {
    'text': '',
    'meta_info': {
      'id': rid,
      'finish_reason': {'type': 'length', 'length': 0},
      'prompt_tokens': 10,
      'cached_tokens': 8,
      'output_token_ids_logprobs': [entries],
      **meta,
    },
  }


def logs(*probabilities):
  return [math.log(p) for p in probabilities]


REPLY = [item('a', logs(0.2, 0.1, 0.1)), item('b', logs(0.1, 0.1, 0.6))]


def test_sglang_body():
  body = SglangApi((YES_IDS, NO_IDS)).body(['p', 'q'], ['a', 'b'])
  assert body['text'] == ['p', 'q']
  assert body['rid'] == ['a', 'b']
  assert body['sampling_params'] == {'temperature': 0, 'max_new_tokens': 0}
  assert body['token_ids_logprob'] == [5, 6, 7]
  body = SglangApi().body(['p'], ['a'])
  assert body['sampling_params'] == {'temperature': 0, 'max_new_tokens': 8}
  # One kind of request only: a mixture kills sglang 0.5.20.
  assert body['return_logprob'] and body['token_ids_logprob'] == [0]


def test_p_yes_is_the_share_of_all_spellings():
  reply = SglangApi((YES_IDS, NO_IDS)).read(REPLY, ['a', 'b'])
  np.testing.assert_allclose(reply.answers.p_yes, [0.75, 0.25], rtol=1e-6)
  assert reply.answers.answer.tolist() == [YES, NO]
  assert (reply.prompt_tokens, reply.cached_tokens) == (20, 16)
  assert reply.answer_mass == pytest.approx((0.4 + 0.8) / 2)


@given(st.lists(st.floats(-700, 0), min_size=3, max_size=3))
def test_p_yes_of_any_logprobs(values):
  reply = SglangApi((YES_IDS, NO_IDS)).read([item('a', values)], ['a'])
  yes, no = np.logaddexp(*values[:2]), values[2]
  expected = 1 / (1 + math.exp(min(no - yes, 700)))
  np.testing.assert_allclose(
    reply.answers.p_yes, [expected], rtol=1e-5, atol=1e-30
  )


def broken(change):
  reply = copy.deepcopy(REPLY)
  return change(reply) or reply


def change_meta(**meta):
  return lambda reply: reply[0]['meta_info'].update(meta)


@pytest.mark.parametrize(
  'change',
  [
    lambda r: r[:1],
    lambda r: [*r, r[0]],
    lambda r: r[::-1],
    lambda r: r[0],
    lambda r: {'error': 'no'},
    lambda r: [None, None],
    lambda r: r[0].pop('meta_info') and None,
    change_meta(id='b'),
    change_meta(finish_reason={'type': 'abort', 'message': 'x'}),
    change_meta(prompt_tokens=math.inf),
    change_meta(output_token_ids_logprobs=[]),
    change_meta(output_token_ids_logprobs=None),
    change_meta(output_token_ids_logprobs=[[[-1.0, 5, None]]]),
    change_meta(output_token_ids_logprobs=item('a', [math.nan, -1, -1])),
    *(
      change_meta(
        output_token_ids_logprobs=[[[x, 5], [-1.0, 6], [-1.0, 7]]]
      )
      for x in (math.nan, None, 3.0, 'x', [])
    ),
  ],
)  # fmt: skip
def test_sglang_reply_that_is_none(change):
  with pytest.raises(Malformed):
    SglangApi((YES_IDS, NO_IDS)).read(broken(change), ['a', 'b'])


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('Yes, it is', YES),
    (' YES', YES),
    ('No.', NO),
    ('\nno', NO),
    ('It is so: yes', INVALID),  # the word comes too late
    ('', INVALID),
    ('I cannot know: yes', NO),  # "cannot" holds a no; the paper's reading
    ('yes or no', YES),
  ],
)
def test_text_is_read_as_in_the_paper(text, answer):
  replies = {
    'sglang': SglangApi().read([{**item('a', [0, 0, 0]), 'text': text}], ['a']),
    'openai': OpenAiApi('m', False).read(
      {'choices': [{'index': 0, 'text': text}]}, ['a']
    ),
  }
  for reply in replies.values():
    assert reply.answers.answer.tolist() == [answer]
    p_yes = {YES: 1, NO: 0, INVALID: np.nan}[answer]
    np.testing.assert_equal(reply.answers.p_yes, np.float32([p_yes]))


def completion(*tops):
  return {
    'choices': [
      {'index': i, 'text': 'x', 'logprobs': {'top_logprobs': [top]}}
      for i, top in enumerate(tops)
    ],
    'usage': {
      'prompt_tokens': 30,
      'prompt_tokens_details': {'cached_tokens': 20},
    },
  }


def test_openai_body():
  body = OpenAiApi('m', True).body(['p'], ['a'])
  assert body == {
    'model': 'm',
    'prompt': ['p'],
    'temperature': 0,
    'max_tokens': 1,
    'logprobs': 5,
  }
  assert OpenAiApi('m', False).body(['p'], ['a'])['max_tokens'] == 8


def test_openai_logprobs():
  tops = [
    {' yes': math.log(0.3), 'Yes': math.log(0.3), ' No': math.log(0.2)},
    {'\u2581no': math.log(0.8), '\u0120Yes': math.log(0.1), 'x': -9.0},
    # No "no" among the likeliest: it has 0.1 at most.
    {' yes': math.log(0.4), 'maybe': math.log(0.1)},
    {'maybe': math.log(0.4), 'yesterday': math.log(0.1)},
  ]
  reply = OpenAiApi('m', True).read(completion(*tops), list('abcd'))
  np.testing.assert_allclose(
    reply.answers.p_yes, [0.75, 1 / 9, 0.8, np.nan], rtol=1e-6
  )
  assert reply.answers.answer.tolist() == [YES, NO, YES, INVALID]
  assert (reply.prompt_tokens, reply.cached_tokens) == (30, 20)


def test_openai_answers_are_put_in_order():
  reply = completion({' yes': -0.1, 'x': -3}, {' no': -0.1, 'x': -3})
  reply['choices'].reverse()
  found = OpenAiApi('m', True).read(reply, ['a', 'b'])
  assert found.answers.answer.tolist() == [YES, NO]


@pytest.mark.parametrize(
  'reply',
  [
    [],
    {},
    {'choices': []},
    {'choices': [{'index': 0, 'logprobs': None}]},
    {'choices': [{'index': 0, 'logprobs': {'top_logprobs': [None]}}]},
    {'choices': [{'index': 0, 'logprobs': {'top_logprobs': [{}]}}]},
    completion({' yes': math.nan}),
    completion({' yes': None}),
    completion({' yes': -0.1}, {' yes': -0.1}),
    {'choices': [{**completion({' yes': -0.1})['choices'][0], 'index': 1}]},
  ],
)
def test_openai_reply_that_is_none(reply):
  with pytest.raises(Malformed):
    OpenAiApi('m', True).read(reply, ['a'])


def test_bodies_are_json():
  prompt = 'a\x00b\u2028\ud83d\ude00 "{}"'.encode('utf-16', 'surrogatepass')
  body = SglangApi().body([prompt.decode('utf-16')], ['a'])
  assert json.loads(json.dumps(body)) == body
