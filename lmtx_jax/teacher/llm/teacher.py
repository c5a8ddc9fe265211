"""The LLM on an SGLang server, as a teacher."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import json

from absl import logging
import numpy as np

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.llm.api import Api, OpenAiApi, SglangApi
from lmtx_jax.teacher.llm.client import LlmClient
from lmtx_jax.teacher.llm.dispatch import Answers
from lmtx_jax.teacher.llm.lane import Question
from lmtx_jax.teacher.llm.prompt_maker import answer_ids
from lmtx_jax.teacher.llm.usage import Usage
from lmtx_jax.teacher.pairs import Pairs

_BLOCK_DOCS, _BLOCK_PAIRS = 64, 2048  # read and cut at a time


class LlmTeacher(LlmClient):
  """Asks an LLM; a verdict is what it holds likelier, yes or no."""

  def __init__(self, config: LlmConfig, prompt: str, server_log: str = ''):
    """Takes the flags.

    Args:
      config: of the LLM.
      prompt: name of the template, where the user gives none of their own.
      server_log: where the server of `--teacher_launch` writes.
    """
    # A flagfile holds no line breaks.
    own = config.prompt_template.replace('\\n', '\n')
    template = own or prompts.TEMPLATES[prompt]
    super().__init__(config, template, Usage(), server_log)

  @property
  def yes_threshold(self) -> float:
    """See `Teacher`."""
    return self._config.yes_threshold

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
    return json.dumps(
      {
        'teacher': 'sglang',
        **self._model_identity(),
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
    yield from self._ask(self._api, self._maker.prompt, self._blocks(pairs))

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
