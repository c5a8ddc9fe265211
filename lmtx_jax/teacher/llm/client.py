"""Servers that are found or started when they are needed, and asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
import functools
from typing import Any

from absl import logging

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.api import Api
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
from lmtx_jax.teacher.llm.prompt_maker import PromptMaker
from lmtx_jax.teacher.llm.server import Server
from lmtx_jax.teacher.llm.usage import Usage


class LlmClient:
  """What all who ask an LLM have in common.

  Nothing is said to a server before it is needed; `prepare` is a first need.

  Attributes:
    identity: names what may change an answer.
  """

  identity: str

  def __init__(
    self, config: LlmConfig, template: str, usage: Usage, server_log: str = ''
  ):
    """Takes the flags.

    Args:
      config: of the LLM.
      template: the question.
      usage: counts what asking costs.
      server_log: where the server of `--teacher_launch` writes.
    """
    self._config, self._template, self._usage = config, template, usage
    self._launched = (
      LaunchedServer(config, server_log) if config.teacher_launch else None
    )

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

  def _model_identity(self) -> dict[str, str]:
    """What names the model, its tokenizer and the way to it."""
    model = {**self._connection.model}
    model.pop('tokenizer', None)
    return {
      'api': self._config.teacher_api,
      **model,
      'tokenizer': fingerprint(self._connection.tokenizer),
    }

  def _ask(
    self,
    api: Api,
    prompt: Callable[..., Any],
    blocks: Iterator[list[Question]],
  ) -> Iterator[Answers]:
    """Puts questions to the servers, see `Dispatcher`.

    Raises:
      UserError: no server answered for `--teacher_patience` seconds, a server
        has another model than before, or a setting is wrong.
    """
    connection = self._connection
    self._revive()
    if self._launched and self._launched.memory:
      self._launched.memory.resume()
    with asyncio.Runner() as runner:
      answers = self._answers(api, prompt, blocks, connection)

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
    self,
    api: Api,
    prompt: Callable[..., Any],
    blocks: Iterator[list[Question]],
    connection: Connection,
  ) -> AsyncIterator[Answers]:
    config = self._config
    async with new_session(config) as session:
      dispatcher = Dispatcher(
        [Server(u, session, config.teacher_timeout_s) for u in connection.urls],
        connection.model,
        functools.partial(look, config=config),
        api,
        prompt,
        blocks,
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
