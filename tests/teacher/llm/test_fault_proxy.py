"""Each fault is what it says, as a plain client sees it."""

import collections
import contextlib
import http.client
import json
import math
import urllib.error

from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from fault_proxy import KINDS, FaultProxy
from plain_client import PROMPTS, ask, completion, get, p_yes, post, question
import pytest

LOST = (ConnectionResetError, http.client.RemoteDisconnected)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write_tokenizer(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture
def server(folder):
  with FakeSglangServer(folder) as server:
    yield server


@pytest.fixture
def proxy(server):
  with FaultProxy(server.url, stall_s=0.1) as proxy:
    yield proxy


@pytest.fixture
def meet(server, proxy):
  """Asks with a given fault: (status, answer as it came)."""

  def ask_with(kind, body=None, path='/generate', **kwargs):
    proxy.script.append(kind)
    return post(proxy.url, path, body or question(server), **kwargs)

  return ask_with


def rids(items):
  return [item['meta_info']['id'] for item in items]


def test_without_faults_nothing_changes(server, proxy):
  ask(server)  # fills the prefix cache
  right = ask(server)[1]
  assert list(map(p_yes, ask(server, proxy.url)[1])) == list(map(p_yes, right))
  assert get(proxy.url, '/model_info') == get(server.url, '/model_info')
  assert get(proxy.url, '/health') == b''
  assert ask(server, proxy.url, rid=['x'])[0] == 400
  assert proxy.answered == dict.fromkeys(PROMPTS, 1)
  assert proxy.done == {'clean': 2} and proxy.num_faults == 0
  server.api_key = 'sesame'
  body = question(server)
  assert post(proxy.url, '/generate', body)[0] == 401
  assert post(proxy.url, '/generate', body, key='sesame')[0] == 200


@pytest.mark.parametrize('kind', ['reset_before', 'hang', 'reset_after'])
def test_no_answer(server, proxy, meet, kind):
  with pytest.raises(TimeoutError if kind == 'hang' else LOST):
    meet(kind, timeout=0.5)
  assert server.answered.total() == (3 if kind == 'reset_after' else 0)
  assert not proxy.answered
  assert proxy.done == {kind: 1}
  assert ask(server, proxy.url)[0] == 200


@pytest.mark.parametrize(
  'kind, status, start',
  [
    ('error_500', 500, b'Internal'),
    ('error_429', 429, b'{'),
    ('burst_503', 503, b'{"object":"error"'),
    ('html', 200, b'<!DOCTYPE html>'),
    ('empty', 200, b''),
  ],
)
def test_answers_in_its_place(server, proxy, meet, kind, status, start):
  got, answer = meet(kind)
  assert got == status
  assert answer.startswith(start) and bool(answer) == bool(start)
  assert not server.received and not proxy.answered
  assert proxy.done == {kind: 1}


def test_cut_answers(server, proxy, meet):
  status, answer = meet('truncated_json')
  assert status == 200
  with pytest.raises(ValueError, match='line 1'):
    json.loads(answer)
  with pytest.raises(http.client.IncompleteRead):
    meet('truncated_body')
  assert server.answered.total() == 6 and not proxy.answered


def test_stall_ends_with_the_right_answer(server, proxy, meet):
  status, answer = meet('stall')
  assert status == 200 and rids(json.loads(answer)) == ['r0', 'r1', 'r2']
  assert proxy.answered == dict.fromkeys(PROMPTS, 1)
  proxy.stall_s = 60.0
  with pytest.raises(TimeoutError):
    meet('stall', timeout=0.5)
  assert server.answered.total() == 2 * proxy.answered.total() == 6
  assert proxy.done == {'stall': 2}


def test_spoiled_batches(server, meet):
  right = {
    p_yes(item): rid
    for rid, item in zip(['r0', 'r1', 'r2'], ask(server)[1], strict=True)
  }

  def spoiled(kind):
    items = json.loads(meet(kind)[1])
    return rids(items), [right[p_yes(item)] for item in items]

  names, contents = spoiled('missing_item')
  assert len(names) == 2 and names == contents
  names, contents = spoiled('doubled_item')
  assert len(names) == 4 and len(set(names)) == 3 and names == contents
  names, contents = spoiled('duplicated_rid')
  assert len(set(names)) == 2 and contents == ['r0', 'r1', 'r2']
  names, contents = spoiled('swapped_rids')
  assert sorted(names) == contents == ['r0', 'r1', 'r2'] != names
  names, contents = spoiled('swapped_items')
  assert sorted(names) == ['r0', 'r1', 'r2'] != names == contents


def test_spoiled_numbers(meet):
  for kind, bad in (('nan_logprob', math.isnan), ('null_logprob', None)):
    items = json.loads(meet(kind)[1])
    numbers = [
      entry[0]
      for item in items
      for entry in item['meta_info']['output_token_ids_logprobs'][0]
    ]
    found = [n for n in numbers if (n is None if bad is None else bad(n))]
    assert len(numbers) == 24 and len(found) == 1


def test_completions_are_spoiled_too(proxy, meet):
  def choices(kind):
    return json.loads(meet(kind, completion(), '/v1/completions')[1])['choices']

  def indices(kind):
    return [choice['index'] for choice in choices(kind)]

  assert indices(None) == [0, 1, 2]
  assert len(indices('missing_item')) == 2
  assert len(indices('doubled_item')) == 4
  assert len(set(indices('duplicated_rid'))) == 2
  assert sorted(indices('swapped_rids')) == [0, 1, 2] != indices('swapped_rids')
  assert sorted(indices('swapped_items')) == [0, 1, 2]
  spoiled = [
    choice['logprobs']['top_logprobs'][0].values()
    for choice in choices('null_logprob')
  ]
  assert sorted({None} == set(values) for values in spoiled) == [0, 0, 1]
  assert proxy.done['clean'] == 1


def test_a_fault_that_has_no_place_leaves_the_answer_clean(server, proxy, meet):
  sampling = {'max_new_tokens': 8, 'temperature': 0}
  for kind in ('swapped_rids', 'missing_item', 'null_logprob'):
    body = {'text': PROMPTS[:1], 'sampling_params': sampling}
    assert len(json.loads(meet(kind, body)[1])) == 1
  assert proxy.done == {'clean': 3}


def test_shares_are_drawn_by_the_seed(server):
  faults = {'error_500': 0.2, 'html': 0.1, 'burst_503': 0.1}

  def kinds(seed):
    with FaultProxy(server.url, faults, seed, burst=3) as proxy:
      return [ask_quietly(server, proxy) for _ in range(200)], proxy.done

  answers, done = kinds(1)
  assert (answers, done) == kinds(1)
  assert answers != kinds(2)[0]
  assert done.total() == 200
  assert set(done) == {*faults, 'clean'} and done['html'] < done['error_500']
  # A burst is three at least; another may follow at once.
  text = ''.join('x' if status == 503 else '.' for status in answers)
  runs = [len(run) for run in text.split('.') if run][:-1]
  assert runs and min(runs) >= 3


def ask_quietly(server, proxy):
  return post(proxy.url, '/generate', question(server, prompts=['the']))[0]


def test_every_kind_is_drawn(server):
  with FaultProxy(server.url, 1.0, stall_s=0.0, burst=1) as proxy:
    for _ in range(300):
      with contextlib.suppress(OSError, http.client.HTTPException):
        post(proxy.url, '/generate', question(server), timeout=0.1)
    assert set(proxy.done) == set(KINDS)


def test_poison(server, proxy):
  proxy.poison = lambda prompt: '= b.' in prompt
  body = question(server)
  assert post(proxy.url, '/generate', body)[0] == 500
  assert post(proxy.url, '/v1/completions', completion())[0] == 500
  assert ask(server, proxy.url, prompts=PROMPTS[:1])[0] == 200
  assert proxy.done == {'poison': 2, 'clean': 1}
  assert server.received == {PROMPTS[0]: 1}


def test_down_and_another_target(folder, server, proxy):
  proxy.down = True
  for path in ('/health', '/model_info'):
    with pytest.raises((*LOST, urllib.error.URLError)):
      get(proxy.url, path)
  with pytest.raises((*LOST, urllib.error.URLError)):
    ask(server, proxy.url)
  proxy.down = False
  with FakeSglangServer(folder) as other:
    proxy.target = other.url
    assert ask(server, proxy.url)[0] == 200
    assert other.answered == collections.Counter(PROMPTS)
  assert post(proxy.url, '/generate', question(server))[0] == 502
  assert not server.answered
