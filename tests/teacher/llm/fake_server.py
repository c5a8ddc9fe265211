"""An SGLang server without a model, in a thread of the test.

Fields, error texts and status codes are those of sglang 0.5.20.
"""

import asyncio
import collections
import itertools
import time
import uuid

from aiohttp import web
import fake_info
from fake_model import FakeModel, cost_fields, right_p_yes
from fake_tokenizer import BOS
from server_thread import ServerThread

_HANG_S = 86400.0


class FakeSglangServer(ServerThread):
  """Speaks /generate and /v1/completions; every knob can be turned any time."""

  def __init__(self, folder, port=0, **knobs):
    """Takes the folder of `write_tokenizer` and any of the knobs below."""
    super().__init__(port)
    self.model_path = self.tokenizer_path = str(folder)
    self.weight_version = 'default'
    self.answer = right_p_yes  # prompt -> p_yes, or the text of the answer
    self.context_length = 2048
    self.max_queued = None  # prompts in flight; a batch that makes it more: 503
    self.api_key = None
    self.latency_s = 0.0
    self.hang = False  # what comes now is never answered, but for /health
    self.sglang_jax = False  # no /model_info
    self.is_generation = True
    self.grammar_backend = 'xgrammar'
    self.starting = 0  # so many looks at its model get a 503
    self.missing = ()  # paths that it does not have
    self.odd = {}  # path, or '*' for all -> text that stands there instead
    for name, value in knobs.items():
      assert name in vars(self), name
      setattr(self, name, value)
    self.received = collections.Counter()  # prompt -> times asked
    self.answered = collections.Counter()  # prompt -> times answered
    self.num_requests = collections.Counter()  # path -> requests
    self.bodies = []  # of questions, in the order they came
    self.headers = []  # of the same requests
    self.rids = []
    self.in_flight = self.most_in_flight = 0  # prompts
    self.crimes = []  # what kills a real server, or spoils its answers
    self._model = FakeModel(folder)
    self._running = set()  # rids
    self._with_logprobs = collections.Counter()  # prompts in flight, by kind

  async def handle(self, request):
    path = '/' + request.match_info['path']
    self.num_requests[path] += 1
    if path == '/health':  # needs no key and knows nothing of a hang
      return web.Response()
    for odd in {path, '*'}.intersection(self.odd):
      return web.Response(text=self.odd[odd], content_type='text/html')
    if path in self.missing:
      return web.json_response({'detail': 'Not Found'}, status=404)
    key = request.headers.get('Authorization')
    if self.api_key is not None and key != f'Bearer {self.api_key}':
      return web.json_response({'error': 'Unauthorized'}, status=401)
    questions = {
      '/generate': self._generate,
      '/v1/completions': self._completions,
    }
    if path not in (*questions, '/tokenize'):
      return self._inform(path)
    if request.method != 'POST':
      return web.json_response({'detail': 'Method Not Allowed'}, status=405)
    body = await request.json()
    if path == '/tokenize':
      tokens = [self._model.read(text)[1] for text in body['prompt']]
      return web.json_response(fake_info.tokens(self, tokens))
    self.bodies.append(body)
    self.headers.append(dict(request.headers))
    try:
      return web.json_response(await questions[path](body))
    except _Refused as e:
      body = {'error': {'message': str(e)}}
      if path != '/generate' or e.status == 503:
        kind = 'BadRequestError' if e.status == 400 else str(e.status)
        body = fake_info.openai_error(str(e), kind, e.status)
      return web.json_response(body, status=e.status)

  def _inform(self, path):
    if path == '/flush_cache':
      self._model.flush()
      return web.Response(text='Cache flushed.\n')
    if path == '/abort_request':
      return web.Response()
    answers = {
      '/model_info': fake_info.model_info,
      '/get_model_info': fake_info.model_info,
      '/server_info': fake_info.server_info,
      '/get_server_info': fake_info.server_info,
      '/v1/models': fake_info.models,
    }
    if self.sglang_jax:
      del answers['/model_info']
    if path == '/model_info' and self.starting > 0:
      self.starting -= 1
      return web.Response(status=503)
    if path not in answers:
      return web.json_response({'detail': 'Not Found'}, status=404)
    return web.json_response(answers[path](self))

  async def _generate(self, body):
    given = body['text'] if 'text' in body else body.get('input_ids')
    if given is None:
      raise _Refused(
        'Either text, input_ids or input_embeds should be provided.'
      )
    single = _is_single(given)
    given = [given] if single else given
    rids = self._read_rids(body.get('rid'), len(given), single)
    wanted = self._read_wanted(body.get('token_ids_logprob'), len(given))
    kinds = [None] * len(given)
    if body.get('return_logprob'):
      kinds = [ids is not None for ids in wanted]
    sampling = body.get('sampling_params', {})
    if isinstance(sampling, list):
      self._same_length('sampling_params', sampling, given)
    else:
      sampling = [sampling] * len(given)
    num_new = [params.get('max_new_tokens', 128) for params in sampling]
    whole = body.get('return_logprob') and body.get('logprob_start_len') == 0
    self.rids += rids
    self._running.update(rids)
    start = time.time()
    items = []
    try:
      async for i, thought, ids, num_cached in self._serve(
        given, num_new, sampling, kinds
      ):
        new, text = self._model.go_on(thought, num_new[i])
        logprobs = {}
        if body.get('return_logprob'):
          logprobs = self._model.logprob_fields(
            thought,
            ids,
            new,
            wanted[i],
            whole,
            body.get('return_text_in_logprobs'),
          )
        reason = {'type': 'stop', 'matched': self._model.eos}
        if len(new) == num_new[i]:
          reason = {'type': 'length', 'length': num_new[i]}
        meta = {
          'id': rids[i],
          'finish_reason': reason,
          'prompt_tokens': len(ids),
          'weight_version': self.weight_version,
          'num_retractions': 0,
          **logprobs,
          **cost_fields(len(new), 0 if whole else num_cached, start),
        }
        items.append({'text': text, 'output_ids': new, 'meta_info': meta})
    finally:
      self._running.difference_update(rids)
    return items[0] if single else items

  def _same_length(self, name, values, given):
    if len(values) != len(given):
      self.crimes.append(f'{name}: a list, but not one a prompt')
      raise _Refused('Internal Server Error', 500)

  def _read_rids(self, rids, num, single):
    if isinstance(rids, str):
      rids = [rids] if single else [f'{rids}_{i}' for i in range(num)]
    rids = rids or [uuid.uuid4().hex for _ in range(num)]
    twice = [rid for rid, n in collections.Counter(rids).items() if n > 1]
    if twice:
      raise _Refused(
        f'Duplicate request IDs detected within the request: {twice}'
      )
    if len(rids) != num:
      raise _Refused(
        'The specified rids length mismatch with the batch_size for batch '
        'processing.'
      )
    for rid in self._running.intersection(rids):
      raise _Refused(f'Duplicate request ID detected: {rid}')
    return rids

  def _read_wanted(self, wanted, num):
    if not wanted or not isinstance(wanted[0], list):
      wanted = [wanted or None] * num
    else:
      self._same_length('token_ids_logprob', wanted, range(num))
    self._check_ids(itertools.chain(*filter(None, wanted)))
    return wanted

  def _check_ids(self, ids):
    for token in ids:
      if token not in range(self._model.num_tokens):
        self.crimes.append(f'id {token} is out of the vocabulary')
        raise _Refused('Internal Server Error', 500)

  async def _completions(self, body):
    given, num_new = body.get('prompt'), body.get('max_tokens', 16)
    if not given:
      raise _Refused('Prompt cannot be empty')
    given = [given] if _is_single(given) else given
    choices, usage = [], collections.Counter()
    kinds = [None if body.get('logprobs') is None else False] * len(given)
    async for i, thought, ids, _ in self._serve(
      given, [num_new] * len(given), [body] * len(given), kinds
    ):
      new, text = self._model.go_on(thought, num_new)
      usage.update(prompt_tokens=len(ids), completion_tokens=len(new))
      choices.append(
        {
          'index': i,
          'text': text,
          'logprobs': self._model.top_fields(
            thought, new, body.get('logprobs')
          ),
          'finish_reason': 'length' if len(new) == num_new else 'stop',
          'matched_stop': None if len(new) == num_new else self._model.eos,
        }
      )
    return {
      'id': uuid.uuid4().hex,
      'object': 'text_completion',
      'created': int(time.time()),
      'model': body.get('model'),
      'choices': choices,
      'usage': {
        **usage,
        'total_tokens': usage.total(),
        'prompt_tokens_details': None,
        'reasoning_tokens': 0,
      },
      'metadata': {'weight_version': self.weight_version},
    }

  async def _serve(self, given, num_new, sampling, kinds):
    """Yields `(index, thought, ids, cached tokens)`, all or none.

    Args:
      given: the prompts, texts or ids.
      num_new: tokens to generate for each.
      sampling: where the temperature stands, of each.
      kinds: of each prompt, whether the log-probabilities wanted are those of
        named tokens; None if none are wanted.
    """
    for heat in {params.get('temperature', 1.0) for params in sampling} - {0}:
      self.crimes.append(f'temperature {heat}')
    for one in given:
      self._check_ids([] if isinstance(one, str) else one)
    prompts = [self._model.read(one) for one in given]
    self.received.update(text for text, _ in prompts)
    for (text, ids), new in zip(prompts, num_new, strict=True):
      if not text:
        raise _Refused(
          'texts cannot be empty and tokenizer must be initialized'
        )
      if self._model.bos in ids[1:]:
        self.crimes.append(f'more than one {BOS}: {text[:40]!r}')
      message = self._model.too_long(len(ids), new, self.context_length)
      if message:
        raise _Refused(message)
    in_flight = self.in_flight + len(prompts)
    if self.max_queued is not None and in_flight > self.max_queued:
      raise _Refused('The request queue is full.', 503)
    self.in_flight = in_flight
    self._with_logprobs.update(kinds)
    if self._with_logprobs[True] and self._with_logprobs[False]:
      # If these meet in one step of the scheduler, it dies.
      self.crimes.append('log-probabilities with and without token ids at once')
    self.most_in_flight = max(self.most_in_flight, in_flight)
    num_cached = [self._model.num_cached(ids) for _, ids in prompts]
    try:
      await asyncio.sleep(_HANG_S if self.hang else self.latency_s)
    finally:
      self.in_flight -= len(prompts)
      self._with_logprobs.subtract(kinds)
    for i, (text, ids) in enumerate(prompts):
      yield i, self.answer(text), ids, num_cached[i]
    for text, ids in prompts:
      self._model.remember(ids)
      self.answered[text] += 1


class _Refused(Exception):
  def __init__(self, message, status=400):
    super().__init__(message)
    self.status = status


def _is_single(given):
  return isinstance(given, str) or bool(given and isinstance(given[0], int))
