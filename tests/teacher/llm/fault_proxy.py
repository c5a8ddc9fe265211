"""A reverse proxy in a thread, that spoils a share of the answers."""

import asyncio
import collections
import functools
import json
import random

import aiohttp
from aiohttp import web
from server_thread import ServerThread, reset

_QUESTIONS = ('/generate', '/v1/completions')
_HANG_S = 86400.0
_OWN_HEADERS = ('host', 'content-length', 'connection', 'transfer-encoding')
_HTML = '<!DOCTYPE html><html><body>Please log in.</body></html>'


def _missing_item(items, rng):
  if len(items) < 2:
    return False
  del items[rng.randrange(len(items))]
  return True


def _doubled_item(items, rng):
  i = rng.randrange(len(items))
  items.insert(i, items[i])
  return True


def _two_items(fault):
  """A fault of two items, which takes a batch."""

  @functools.wraps(fault)
  def apply(items, rng):
    if len(items) < 2:
      return False
    fault(items, *rng.sample(range(len(items)), 2))
    return True

  return apply


def _name(item):
  """Where an item carries its name: its dictionary, and the key."""
  if 'meta_info' in item:
    return item['meta_info'], 'id'
  return item, 'index'


@_two_items
def _duplicated_rid(items, i, j):
  (one, key), (other, _) = _name(items[i]), _name(items[j])
  one[key] = other[key]


@_two_items
def _swapped_rids(items, i, j):
  (one, key), (other, _) = _name(items[i]), _name(items[j])
  one[key], other[key] = other[key], one[key]


@_two_items
def _swapped_items(items, i, j):
  items[i], items[j] = items[j], items[i]


def _spoil_logprobs(value, items, rng):
  """One token's of /generate, all first tokens' of /v1/completions."""
  item = rng.choice(items)
  if 'meta_info' in item:
    all_tokens = item['meta_info'].get('output_token_ids_logprobs')
    if all_tokens:
      rng.choice(all_tokens[0])[0] = value
    return bool(all_tokens)
  if item.get('logprobs') is None:
    return False
  top = item['logprobs']['top_logprobs']
  top[0] = dict.fromkeys(top[0], value)
  return True


# Change the items of a right answer: (items, rng) -> whether there was a way.
_SPOILERS = {
  'missing_item': _missing_item,
  'doubled_item': _doubled_item,
  'duplicated_rid': _duplicated_rid,
  'swapped_rids': _swapped_rids,
  'swapped_items': _swapped_items,
  'nan_logprob': functools.partial(_spoil_logprobs, float('nan')),
  'null_logprob': functools.partial(_spoil_logprobs, None),
}
# The target never sees the request.
_IN_ITS_PLACE = {
  'error_500': (500, 'Internal Server Error', 'text/plain'),
  'error_429': (429, '{"error": "Too Many Requests"}', 'application/json'),
  'burst_503': (
    503,
    '{"object":"error","message":"The request queue is full.","type":"503",'
    '"param":null,"code":503}',
    'application/json',
  ),
  'html': (200, _HTML, 'text/html'),
  'empty': (200, '', 'application/json'),
}
KINDS = (
  'reset_before',  # the target never sees the request
  'hang',  # nor this one; ends when the client gives up
  *_IN_ITS_PLACE,
  'reset_after',  # the target did the work, the answer is lost
  'stall',  # the right answer, `stall_s` late
  'truncated_json',  # valid HTTP
  'truncated_body',  # less than Content-Length, then the connection ends
  *_SPOILERS,
)


class FaultProxy(ServerThread):
  """Disturbs questions; everything else goes through."""

  def __init__(self, target, faults=0.0, seed=0, stall_s=30.0, burst=4, port=0):
    """Makes a proxy; it listens once started.

    Args:
      target: address of a server; `target` may be changed any time.
      faults: share of the questions of each kind of `KINDS`; or the share of
        all, which are then equally likely. May be changed with `set_faults`.
      seed: of the draws, one a question in the order they come.
      stall_s: how late a stalled answer is.
      burst: questions in a row that a 'burst_503' refuses.
      port: 0 for a free one.
    """
    super().__init__(port)
    self.target, self.stall_s, self.burst = target, stall_s, burst
    self.down = False  # every connection is reset
    self.poison = None  # prompt -> whether its batch gets a 500
    self.script = collections.deque()  # kinds, or None, before all drawn ones
    self.done = collections.Counter()  # kind -> times; 'clean', 'bad_gateway'
    self.answered = collections.Counter()  # prompt -> right answers sent
    self.num_questions = 0  # requests, whatever became of them
    self._refusals = 0
    # Two, so that the kinds do not hang on which answer came back first.
    self._rng, self._place = random.Random(seed), random.Random(seed)
    self.set_faults(faults)

  def set_faults(self, faults):
    """Sets the shares anew, see `__init__`."""
    if not isinstance(faults, dict):
      faults = dict.fromkeys(KINDS, faults / len(KINDS))
    assert set(faults) <= set(KINDS), set(faults) - set(KINDS)
    assert sum(faults.values()) <= 1 + 1e-9, faults
    self.faults = faults

  @property
  def num_faults(self):
    """Questions that were disturbed, poisoned ones too."""
    return self.done.total() - self.done['clean']

  async def open(self):
    self._session = aiohttp.ClientSession(
      # A new connection each: the target may have been restarted.
      connector=aiohttp.TCPConnector(limit=0, force_close=True),
      timeout=aiohttp.ClientTimeout(total=None),
    )

  async def close(self):
    await self._session.close()

  async def handle(self, request):
    if self.down:
      return reset(request)
    body = await request.read()
    if request.path not in _QUESTIONS or request.method != 'POST':
      status, kind, answer = await self._ask(request, body)
      return web.Response(status=status, body=answer, headers=kind)
    self.num_questions += 1
    prompts = _prompts(body)
    if self.poison is not None and any(map(self.poison, prompts)):
      self.done['poison'] += 1
      return web.Response(status=500, text='Internal Server Error')
    fault = self._draw()
    if fault == 'reset_before':
      self.done[fault] += 1
      return reset(request)
    if fault == 'hang':
      self.done[fault] += 1
      await asyncio.sleep(_HANG_S)
    if fault in _IN_ITS_PLACE:
      self.done[fault] += 1
      status, text, kind = _IN_ITS_PLACE[fault]
      return web.Response(status=status, text=text, content_type=kind)
    status, kind, answer = await self._ask(request, body)
    if status != 200:  # has a fault of its own
      self.done['bad_gateway' if status == 502 else 'clean'] += 1
      return web.Response(status=status, body=answer, headers=kind)
    return await self._answer(request, prompts, fault, kind, answer)

  def _draw(self):
    """The kind of fault of this question, or None."""
    if self.script:
      return self.script.popleft()
    # Drawn even in a burst, so that each question has a draw of its own.
    at = self._rng.random()
    if self._refusals:
      self._refusals -= 1
      return 'burst_503'
    for kind, share in self.faults.items():
      at -= share
      if at < 0:
        if kind == 'burst_503':
          self._refusals = self.burst - 1
        return kind
    return None

  async def _ask(self, request, body):
    """Status, headers and body that the target answers with."""
    headers = {
      k: v for k, v in request.headers.items() if k.lower() not in _OWN_HEADERS
    }
    try:
      async with self._session.request(
        request.method,
        self.target + request.path_qs,
        data=body,
        headers=headers,
      ) as answer:
        kind = answer.headers.get('Content-Type', 'text/plain')
        return answer.status, {'Content-Type': kind}, await answer.read()
    except aiohttp.ClientError:
      return 502, {'Content-Type': 'text/html'}, b'<html>Bad Gateway</html>'

  async def _answer(self, request, prompts, fault, kind, answer):
    """Sends a right answer, or what the fault makes of it.

    A fault that this answer has no place for leaves it clean.
    """
    if fault == 'reset_after':
      self.done[fault] += 1
      return reset(request)
    if fault == 'truncated_json' and len(answer) > 1:
      self.done[fault] += 1
      cut = self._place.randrange(1, len(answer))
      return web.Response(body=answer[:cut], headers=kind)
    if fault == 'truncated_body' and len(answer) > 1:
      self.done[fault] += 1
      return await _send_half(request, kind, answer)
    if fault in _SPOILERS:
      spoiled = json.loads(answer)
      if _SPOILERS[fault](_items(spoiled), self._place):
        self.done[fault] += 1
        return web.Response(text=json.dumps(spoiled), headers=kind)
    if fault == 'stall':
      self.done[fault] += 1
      await asyncio.sleep(self.stall_s)
    else:
      self.done['clean'] += 1
    self.answered.update(prompts)
    return web.Response(body=answer, headers=kind)


def _prompts(body):
  """The prompts of a question, as a list; token ids become tuples."""
  try:
    question = json.loads(body)
  except ValueError:
    return []
  for key in ('text', 'prompt', 'input_ids'):
    given = question.get(key)
    if given:
      if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
      return [p if isinstance(p, str) else tuple(p) for p in given]
  return []


def _items(answer):
  """The answers of a batch, as a list that belongs to it."""
  if isinstance(answer, dict) and 'choices' in answer:
    return answer['choices']
  return answer if isinstance(answer, list) else [answer]


async def _send_half(request, kind, answer):
  response = web.StreamResponse(headers=kind)
  response.content_length = len(answer)
  await response.prepare(request)
  await response.write(answer[: len(answer) // 2])
  request.transport.close()  # after what is written
  return response
