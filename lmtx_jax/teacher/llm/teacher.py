"""The LLM on an SGLang server, as a teacher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
import dataclasses
import functools
import json

from absl import logging
import numpy as np

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.llm.api import Api, OpenAiApi, SglangApi
from lmtx_jax.teacher.llm.connection import (
  Connection,
  connect,
  fingerprint,
  look,
  new_session,
)
from lmtx_jax.teacher.llm.dispatch import Answers, Dispatcher
from lmtx_jax.teacher.llm.lane import Question
from lmtx_jax.teacher.llm.launch import LaunchedServer
from lmtx_jax.teacher.llm.prompt_maker import PromptMaker, answer_ids
from lmtx_jax.teacher.llm.server import Server
from lmtx_jax.teacher.llm.usage import Usage
from lmtx_jax.teacher.pairs import Pairs

_BLOCK_DOCS, _BLOCK_PAIRS = 64, 2048  # read and cut at a time


class LlmTeacher:
  """Asks an LLM; a verdict is what it holds likelier, yes or no.

  Nothing is said to a server before it is needed; `prepare` is a first need.
  """

  def __init__(self, config: LlmConfig, prompt: str, server_log: str = ''):
    """Takes the flags.

    Args:
      config: of the LLM.
      prompt: name of the template, where the user gives none of their own.
      server_log: where the server of `--teacher_launch` writes.
    """
    self._config = config
    # A flagfile holds no line breaks.
    self._template = (
      config.prompt_template.replace('\\n', '\n') or prompts.TEMPLATES[prompt]
    )
    self._usage = Usage()
    self._launched = (
      LaunchedServer(config, server_log) if config.teacher_launch else None
    )

  @property
  def yes_threshold(self) -> float:
    """See `Teacher`."""
    return self._config.yes_threshold

  def prepare(self) -> None:
    """Makes sure that there is a server, and that all flags fit its model.

    Raises:
      UserError: there is none, or one does not.
    """
    logging.info('the teacher is %s', self.identity)
    if self._launched and self._launched.memory:
      self._launched.memory.release()

  def close(self) -> None:
    """Ends the server, if it was started here."""
    if self._launched:
      self._launched.stop()

  @functools.cached_property
  def _connection(self) -> Connection:
    urls = self._config.urls
    if self._launched:
      self._launched.start()
      self._launched.wait(self._config.teacher_patience)
      urls = (self._launched.url,)
    return asyncio.run(connect(self._config, urls))

  @functools.cached_property
  def _maker(self) -> PromptMaker:
    return PromptMaker(
      self._connection.tokenizer,
      self._template,
      self._config.chat_format,
      self._config.teacher_doc_tokens,
    )

  @functools.cached_property
  def _api(self) -> Api:
    config, connection = self._config, self._connection
    ids = None
    if config.verdict == 'logprob':
      ids = answer_ids(connection.tokenizer)
      if not all(ids):
        ids = None
        logging.warning(
          'the tokenizer of the teacher has no single token for yes or for no;'
          ' answers are read as text (--verdict=text)'
        )
    if config.teacher_api == 'openai':
      return OpenAiApi(connection.model['model'], ids is not None)
    return SglangApi(ids)

  @functools.cached_property
  def identity(self) -> str:
    """Names model, tokenizer, prompt, chat format and way of reading."""
    model = {**self._connection.model}
    model.pop('tokenizer', None)
    return json.dumps(
      {
        'teacher': 'sglang',
        'api': self._config.teacher_api,
        **model,
        'tokenizer': fingerprint(self._connection.tokenizer),
        **self._maker.identity,
        'verdict': 'logprob' if self._api.reads_logprobs else 'text',
      },
      sort_keys=True,
    )

  def usage(self) -> dict[str, float]:
    """See `Teacher.usage`."""
    return dataclasses.asdict(self._usage)

  def judge(self, pairs: Pairs) -> Iterator[Answers]:
    """See `Teacher.judge`.

    Raises:
      UserError: no server answered for `--teacher_patience` seconds, a server
        has another model than before, or a setting is wrong.
    """
    connection = self._connection
    self._revive()
    if self._launched and self._launched.memory:
      self._launched.memory.resume()
    with asyncio.Runner() as runner:
      answers = self._answers(pairs, connection)

      async def step() -> Answers | None:
        return await anext(answers, None)

      try:
        while (chunk := runner.run(step())) is not None:
          yield chunk
      finally:
        runner.run(answers.aclose())
    if self._launched and self._launched.memory:
      self._launched.memory.release()  # not after a failure: it may be at work

  def _revive(self) -> None:
    """Starts our own server again if it has ended."""
    if self._launched and not self._launched.alive():
      logging.warning('%s; it is started again', self._launched.ended())
      self._launched.start()

  async def _answers(
    self, pairs: Pairs, connection: Connection
  ) -> AsyncIterator[Answers]:
    config = self._config
    async with new_session(config) as session:
      dispatcher = Dispatcher(
        [Server(u, session, config.teacher_timeout_s) for u in connection.urls],
        connection.model,
        functools.partial(look, api=config.teacher_api),
        self._api,
        self._maker.prompt,
        self._blocks(pairs),
        self._usage,
        self._revive,
        config,
      )
      answers = dispatcher.run()
      try:
        async for chunk in answers:
          yield chunk
      finally:
        await answers.aclose()

  def _blocks(self, pairs: Pairs) -> Iterator[list[Question]]:
    """The questions, document by document, read as they are needed."""
    doc_index = pairs.doc_index
    starts = np.flatnonzero(np.diff(doc_index, prepend=-1))
    ends = np.append(starts[1:], len(doc_index))
    first = 0
    while first < len(starts):
      last = int(
        np.searchsorted(ends, starts[first] + _BLOCK_PAIRS, side='right')
      )
      last = min(max(last, first + 1), first + _BLOCK_DOCS)
      texts = pairs.documents.get(doc_index[starts[first:last]])
      rows, place = np.unique(
        pairs.label_index[starts[first] : ends[last - 1]], return_inverse=True
      )
      labels = pairs.labels.get(rows)
      block = []
      for text, start, end in zip(
        self._maker.cut(texts),
        starts[first:last].tolist(),
        ends[first:last].tolist(),
        strict=True,
      ):
        opener, *others = (
          Question(i, text, labels[place[i - starts[first]]])
          for i in range(start, end)
        )
        opener.waiting = others
        block.append(opener)
      yield block
      first = last
