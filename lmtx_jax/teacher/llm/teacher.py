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
from lmtx_jax.teacher.llm import lists
from lmtx_jax.teacher.llm.api import Api, OpenAiApi, SglangApi
from lmtx_jax.teacher.llm.client import LlmClient
from lmtx_jax.teacher.llm.dispatch import Answers
from lmtx_jax.teacher.llm.lane import Question
from lmtx_jax.teacher.llm.list_api import (
  Lines,
  ListPrompt,
  OpenAiLists,
  SglangLists,
)
from lmtx_jax.teacher.llm.prompt_maker import answer_ids
from lmtx_jax.teacher.llm.usage import Usage
from lmtx_jax.teacher.pairs import Pairs

_BLOCK_DOCS, _BLOCK_PAIRS = 64, 2048  # read and cut at a time


class LlmTeacher(LlmClient):
  """Asks an LLM; a verdict is what it holds likelier, yes or no.

  Attributes:
    asked_alone: with --question=list, the pairs that had no line of their own
      when pairs were judged last.
  """

  asked_alone: Pairs | None = None

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
    own = config.list_template.replace('\\n', '\n')
    self._list_template = own or prompts.LIST_TEMPLATES[prompt]
    self._by_list = config.question == 'list'
    usage = lists.ListUsage() if self._by_list else Usage()
    super().__init__(config, template, usage, server_log)

  @property
  def yes_threshold(self) -> float:
    """See `Teacher`."""
    return self._config.yes_threshold

  @functools.cached_property
  def _answer_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Tokens of yes and of no; None where answers are read as text."""
    if self._config.verdict == 'text':
      return None
    ids = answer_ids(self._connection.tokenizer)
    if all(ids):
      return ids
    logging.warning(
      'the tokenizer of the teacher has no single token for yes or for no;'
      ' answers are read as text (--verdict=text)'
    )
    return None

  def _api(self, by_list: bool) -> Api:
    ids = self._answer_ids
    if self._config.teacher_api == 'openai':
      make = OpenAiLists if by_list else OpenAiApi
      return make(self._connection.model['model'], ids is not None)
    return SglangLists(ids) if by_list else SglangApi(ids)

  @functools.cached_property
  def one_by_one(self) -> lists.OneByOne:
    """The same LLM, asked about each pair alone."""
    verdict = 'text' if self._answer_ids is None else 'logprob'
    identity = {
      'teacher': 'sglang',
      **self._model_identity(),
      **self._maker.identity,
      'verdict': verdict,
    }
    return lists.OneByOne(
      json.dumps(identity, sort_keys=True),
      self.yes_threshold,
      self._judge_pairs,
      self.usage,
    )

  @functools.cached_property
  def identity(self) -> str:
    """Names model, tokenizer, prompt, chat format and way of reading."""
    if not self._by_list:
      return self.one_by_one.identity
    identity = json.loads(self.one_by_one.identity)
    identity['question'] = f'list of {self._config.list_size}'
    identity['list_prompt'] = self._list_template
    return json.dumps(identity, sort_keys=True)

  def usage(self) -> dict[str, float]:
    """See `Teacher.usage`."""
    return dataclasses.asdict(self._usage)

  def judge(self, pairs: Pairs) -> Iterator[Answers]:
    """See `Teacher.judge`.

    Raises:
      UserError: no server answered for `--teacher_patience` seconds, a server
        has another model than before, or a setting is wrong.
    """
    if self._by_list:
      yield from lists.judge(
        pairs,
        self._config.list_size,
        self._judge_lists,
        self._judge_pairs,
        self._count_pairs,
      )
    else:
      yield from self._judge_pairs(pairs)

  def _judge_pairs(self, pairs: Pairs) -> Iterator[Answers]:
    yield from self._ask(
      self._api(by_list=False), self._maker.prompt, self._blocks(pairs)
    )

  def _judge_lists(
    self, pairs: Pairs, some: lists.Lists
  ) -> Iterator[tuple[np.ndarray, Lines]]:
    def prompt(doc: str, labels: tuple[str, ...]) -> ListPrompt:
      labels = labels or ('',)  # where we try a server
      text = prompts.render_list(self._list_template, doc, labels)
      return ListPrompt(self._maker.wrap(text), len(labels))

    questions = lists.questions(self._blocks(pairs), some)
    yield from self._ask(self._api(by_list=True), prompt, questions)

  def _count_pairs(self, num_listed: int, num_again: int, alone: Pairs) -> None:
    self._usage.count_pairs(num_listed, num_again)
    self.asked_alone = alone

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
