"""Getting to know the servers: their model, its tokenizer, that both match."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
import dataclasses
import hashlib
import time
from typing import TYPE_CHECKING, Any
import uuid

from absl import logging
import aiohttp

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.model.tokenizer import load_tokenizer
from lmtx_jax.teacher.llm.api import OpenAiApi, SglangApi
from lmtx_jax.teacher.llm.server import Busy, Failed, Lost, Refused, Server
from lmtx_jax.teacher.llm.wire import Malformed
from lmtx_jax.types import UserError

if TYPE_CHECKING:  # slow to import
  from transformers import PreTrainedTokenizerFast

_POLL_S = 2.0  # between two looks at a server that is still starting
_LATE_S = 10.0  # that one may be later than another
# Text that two tokenizers will hardly cut alike unless they are the same.
_SAMPLE = (
  'Is it? yes no Yes No, 0123456789\n\tna\u00efve \u6771\u4eac \U0001f600'
)


@dataclasses.dataclass(frozen=True)
class Connection:
  """What is known of the servers.

  Attributes:
    urls: their addresses.
    model: what a `look` at any of them has to give.
    tokenizer: of the model.
  """

  urls: tuple[str, ...]
  model: dict[str, Any]
  tokenizer: PreTrainedTokenizerFast


def new_session(config: LlmConfig) -> aiohttp.ClientSession:
  """A session of the running loop, with the key of `--teacher_api_key_file`.

  Raises:
    UserError: the file cannot be read or holds no key.
  """
  headers = {}
  if path := config.teacher_api_key_file:
    try:
      with open(path, encoding='utf-8') as f:
        key = f.read().strip()
    except (OSError, UnicodeDecodeError) as e:
      reason = getattr(e, 'strerror', None) or e
      raise UserError(f'--teacher_api_key_file={path}: {reason}') from e
    if not key.isprintable() or not key.isascii() or not key:
      raise UserError(f'--teacher_api_key_file={path}: no key in it')
    headers['Authorization'] = f'Bearer {key}'
  return aiohttp.ClientSession(
    headers=headers, connector=aiohttp.TCPConnector(limit=0)
  )


async def look(server: Server, config: LlmConfig) -> dict[str, Any]:
  """Which model a server has.

  Raises:
    UserError: it speaks something else, or cannot do what is asked of it.
    Lost, Failed, Refused, Malformed: see `Server.post`.
  """
  if config.teacher_api == 'openai':
    models = await server.look('/v1/models')
    try:
      return {'model': str(models['data'][0]['id'])}
    except (LookupError, TypeError) as e:
      raise UserError(
        f'{server.url}/v1/models names no model; is that a server with the'
        ' OpenAI API?'
      ) from e
  info = await server.look('/model_info')
  if info is None:  # sglang-jax knows the older name only
    info = await server.look('/get_model_info')
  if not isinstance(info, dict) or 'model_path' not in info:
    raise UserError(
      f'{server.url} answers, but not as an SGLang server does; set'
      ' --teacher_api=openai or another --teacher_url'
    )
  if info.get('is_generation') is False:
    raise UserError(
      f'{server.url} serves {info["model_path"]}, an embedding model that'
      ' cannot answer'
    )
  details = await server.look('/server_info')
  details = details if isinstance(details, dict) else {}
  if config.question == 'list' and details.get('grammar_backend') == 'none':
    # Sglang 0.5.20 would not refuse such a question but die of it.
    raise UserError(
      f'{server.url} was started with --grammar-backend none, and'
      ' --question=list binds the form of answers; start it without that flag,'
      ' or ask with --question=pair'
    )
  known = {
    'model': str(info['model_path']).rstrip('/'),
    'revision': details.get('revision'),
    'weights': info.get('weight_version', 'default'),
    'tokenizer': info.get('tokenizer_path'),
  }
  return {k: v for k, v in known.items() if v not in (None, False, 'default')}


async def connect(config: LlmConfig, urls: tuple[str, ...]) -> Connection:
  """Looks at all servers, loads the tokenizer, and checks that it is theirs.

  A server that is still starting is waited for, up to `--teacher_patience`.
  One that cannot be reached is left for later if another one can.

  Raises:
    UserError: no server, one of them has another model, the key is wrong, or
      the tokenizer is not the model's.
  """
  async with new_session(config) as session:
    servers = [Server(u, session, config.teacher_timeout_s) for u in urls]
    found = await _first_looks(servers, config)
    alive = [
      (server, model)
      for server, model in zip(servers, found, strict=True)
      if isinstance(model, dict)
    ]
    if not alive:
      raise UserError(
        f'no teacher answers at {urls[0]}: {found[0]}; start a server there or'
        ' set --teacher_url'
      )
    first, model = alive[0]
    for server, reason in zip(servers, found, strict=True):
      if not isinstance(reason, dict):
        logging.warning('%s does not answer (%s)', server.url, reason)
      elif reason != model:
        raise UserError(
          f'--teacher_urls: {first.url} has {model}, but {server.url} has'
          f' {reason}'
        )
    if config.teacher_api == 'openai' and await first.look('/model_info'):
      logging.warning(
        '%s is an SGLang server: --teacher_api=sglang is faster there, and'
        ' sglang 0.5.20 dies where both are used at the same time',
        first.url,
      )
    tokenizer = _tokenizer(config, model)
    for server, _ in alive:
      await _check_tokenizer(server, config, model, tokenizer)
  return Connection(urls, model, tokenizer)


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
  """Hex digest of a vocabulary, the same wherever the files lie."""
  digest = hashlib.sha256()
  vocabulary = tokenizer.get_vocab()
  for token in sorted(vocabulary, key=vocabulary.__getitem__):
    digest.update(f'{vocabulary[token]} {token}\n'.encode())
  return digest.hexdigest()[:16]


async def _first_looks(
  servers: list[Server], config: LlmConfig
) -> list[dict[str, Any] | str]:
  """The model of each, or why there is none; the first one sets the pace."""
  tasks = [asyncio.create_task(_first_look(x, config)) for x in servers]
  pending = set(tasks)
  try:
    while pending and not _any_model(tasks):
      _, pending = await asyncio.wait(
        pending, return_when=asyncio.FIRST_COMPLETED
      )
    if pending:
      await asyncio.wait(pending, timeout=_LATE_S)
    return [t.result() if t.done() else 'not ready yet' for t in tasks]
  finally:
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _any_model(tasks: list[asyncio.Task]) -> bool:
  return any(task.done() and isinstance(task.result(), dict) for task in tasks)


async def _first_look(
  server: Server, config: LlmConfig
) -> dict[str, Any] | str:
  """The model, or why there is none."""
  try:
    return await _when_ready(server, config, lambda: look(server, config))
  except (Lost, Failed, Refused, Malformed) as e:
    return str(e)


async def _when_ready(
  server: Server, config: LlmConfig, call: Callable[[], Awaitable[Any]]
) -> Any:
  """What a call brings; waits for a server that is busy or still starting."""
  deadline = time.monotonic() + config.teacher_patience
  while True:
    try:
      return await call()
    except Busy as e:
      if time.monotonic() > deadline:
        raise
      logging.info('%s is not ready yet (%s)', server.url, e)
      await asyncio.sleep(min(_POLL_S, config.teacher_patience))


def _tokenizer(
  config: LlmConfig, model: dict[str, Any]
) -> PreTrainedTokenizerFast:
  name = config.teacher_tokenizer or model.get('tokenizer') or model['model']
  try:
    return load_tokenizer(name)
  except Exception as e:  # the files are somebody else's
    reason = str(e) if isinstance(e, UserError) else f'{name}: {e!r}'
    raise UserError(
      f'{reason}; set --teacher_tokenizer to a folder or a hub name with the'
      " tokenizer of the teacher's model"
    ) from e


async def _check_tokenizer(
  server: Server,
  config: LlmConfig,
  model: dict[str, Any],
  tokenizer: PreTrainedTokenizerFast,
) -> None:
  """Lets the server cut a sample into tokens and compares."""
  try:
    theirs = await _when_ready(
      server,
      config,
      lambda: (
        _sglang_tokens(server)
        if config.teacher_api == 'sglang'
        else _openai_tokens(server, model)
      ),
    )
  except (
    *(Lost, Failed, Refused, Malformed),
    *(LookupError, TypeError, ValueError),
  ) as e:
    raise UserError(f'{server.url} cannot answer a first question: {e}') from e
  ours = tokenizer.encode(_SAMPLE)
  bare = tokenizer.encode(_SAMPLE, add_special_tokens=False)
  if isinstance(theirs, int):
    matches = theirs in (len(ours), len(bare))
  else:
    matches = theirs == ours or theirs[-len(bare) :] == bare
  if not matches:
    name = config.teacher_tokenizer or 'the tokenizer that the server names'
    raise UserError(
      f'--teacher_tokenizer: {name} is not that of {model["model"]} at'
      f' {server.url}, which cuts a text into other tokens'
    )


async def _sglang_tokens(server: Server) -> list[int] | int:
  """Token ids of the sample, or their number where ids are not shown."""
  reply = await server.look('/tokenize', json={'prompt': [_SAMPLE]})
  if reply is not None:
    return [int(token) for token in reply['tokens'][0]]
  api, rids = SglangApi(), [uuid.uuid4().hex]
  reply = await server.post(api.path, api.body([_SAMPLE], rids))
  return api.read(reply, rids).prompt_tokens


async def _openai_tokens(server: Server, model: dict[str, Any]) -> int:
  api = OpenAiApi(model['model'], reads_logprobs=False)
  reply = await server.post(api.path, api.body([_SAMPLE], ['']))
  return api.read(reply, ['']).prompt_tokens
