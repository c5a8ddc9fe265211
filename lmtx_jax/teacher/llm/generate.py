"""The LLM on an SGLang server, as a writer of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import itertools
import json
from typing import Any

import numpy as np

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.client import LlmClient
from lmtx_jax.teacher.llm.lane import Question
from lmtx_jax.teacher.llm.usage import Usage
from lmtx_jax.teacher.llm.wire import (
  Reply,
  openai_body,
  openai_choices,
  openai_reply,
  reading,
  sglang_body,
  sglang_metas,
  sglang_reply,
)
from lmtx_jax.teacher.llm.writer import Generated

_BLOCK = 256  # prompts made at a time
_TEMPLATE = '{doc}'  # the prompts are whole
_PROBE = 'Hello'  # asked by ourselves, to try a server


_NO_TEXT = Generated.from_rows([(None, False, 0, 0)])


class Generator(LlmClient):
  """Lets an LLM go on from prompts, at temperature 0; see `Writer`.

  Servers, flags and what happens when one fails are those of `LlmTeacher`.
  """

  def __init__(
    self, config: LlmConfig, answer_tokens: int, server_log: str = ''
  ):
    """Takes the flags.

    Args:
      config: of the LLM.
      answer_tokens: tokens of an answer at most.
      server_log: where the server of `--teacher_launch` writes.
    """
    super().__init__(config, _TEMPLATE, Usage(), server_log)
    self._answer_tokens = answer_tokens

  @functools.cached_property
  def identity(self) -> str:
    """Names model, tokenizer, chat format and length of an answer."""
    return json.dumps(
      {
        'teacher': 'sglang',
        **self._model_identity(),
        'chat_format': self._maker.identity['chat_format'],
        'answer_tokens': self._answer_tokens,
      },
      sort_keys=True,
    )

  def usage(self) -> dict[str, float]:
    """See `Writer.usage`."""
    return dataclasses.asdict(self._usage)

  def cut(self, texts: list[str]) -> list[str]:
    """Documents cut to --teacher_doc_tokens, each a prefix of its text."""
    return self._maker.cut(texts)

  def generate(
    self, prompts: Sequence[str]
  ) -> Iterator[tuple[np.ndarray, Generated]]:
    """See `Writer.generate`.

    Raises:
      UserError: no server answered for `--teacher_patience` seconds, a server
        has another model than before, or a setting is wrong.
    """

    def in_chat(prompt: str, _: str) -> str:
      return self._maker.prompt(prompt or _PROBE, '')

    yield from self._ask(self._api, in_chat, _blocks(prompts))

  @functools.cached_property
  def _api(self) -> SglangTexts | OpenAiTexts:
    if self._config.teacher_api == 'sglang':
      return SglangTexts(self._answer_tokens)
    return OpenAiTexts(self._connection.model['model'], self._answer_tokens)


class SglangTexts:
  """SGLang's own `/generate`, see `Api`."""

  path, no_answer = '/generate', _NO_TEXT
  shorten = '--teacher_doc_tokens'

  def __init__(self, answer_tokens: int):
    """Takes the tokens of an answer at most."""
    self._answer_tokens = answer_tokens

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """See `Api.body`."""
    return sglang_body(prompts, rids, self._answer_tokens)

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with reading():
      metas = sglang_metas(reply, rids)
      rows = [
        (
          _storable(item['text']),
          meta['finish_reason']['type'] == 'length',
          int(meta['prompt_tokens']),
          int(meta['completion_tokens']),
        )
        for item, meta in zip(reply, metas, strict=True)
      ]
      return sglang_reply(Generated.from_rows(rows), metas)


class OpenAiTexts:
  """`/v1/completions`, see `Api`."""

  path, no_answer = '/v1/completions', _NO_TEXT
  shorten = '--teacher_doc_tokens'

  def __init__(self, model: str, answer_tokens: int):
    """Takes what the server calls its model, and the tokens of an answer."""
    self._model, self._answer_tokens = model, answer_tokens

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """See `Api.body`."""
    return openai_body(self._model, prompts, self._answer_tokens)

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with reading():
      choices = openai_choices(reply, len(rids))
      usage = reply.get('usage') or {}
      rows = zip(
        (_storable(choice['text']) for choice in choices),
        (choice['finish_reason'] == 'length' for choice in choices),
        # Tokens are told of all answers together.
        *(
          _shares(int(usage.get(name) or 0), len(choices))
          for name in ('prompt_tokens', 'completion_tokens')
        ),
        strict=True,
      )
      return openai_reply(Generated.from_rows(list(rows)), reply)


def _storable(text: str) -> str:
  """A text without half characters, which JSON allows and no file does."""
  return text.encode(errors='replace').decode()


def _shares(total: int, num: int) -> list[int]:
  """So many about equal parts of a whole."""
  return [total * (i + 1) // num - total * i // num for i in range(num)]


def _blocks(prompts: Sequence[str]) -> Iterator[list[Question]]:
  """All prompts, none of which waits for another."""
  numbered = iter(enumerate(prompts))
  while chunk := list(itertools.islice(numbered, _BLOCK)):
    yield [Question(i, prompt, '') for i, prompt in chunk]
