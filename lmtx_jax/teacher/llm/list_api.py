"""Questions about several labels of a document, and how answers are read.

The prompt shows the document once and then the labels, numbered; the answer is
a line for each of them, "3. yes". SGLang is told to write nothing else (a
regular expression in the sampling parameters), so each number stands there
once and in order, and the probabilities of yes and no are those of the token
that stands in the answer's place. The answer to a label depends on the labels
of the list and on the answers before it: that is what is wanted of a list, and
why its verdicts are another teacher's.

(The other way, to write down an answer and look up the probabilities within
that prompt, needs no writing; but each line would then follow answers that the
model did not give, until some rounds later they happen to be its own.)

OpenAI's completions know no common way to bind an answer. So it is read with
suspicion, whoever wrote it: a line counts if it is a number, a yes or a no and
nothing else, if all numbers before it are lower and all after it are higher,
and if each yes and no of the text is a token whose probabilities agree with
it. What does not count is for the caller to ask again.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import re
from typing import Any

import numpy as np

from lmtx_jax.teacher.llm.api import OpenAiApi, SglangApi, bare
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

_LINE_TOKENS = 8  # of "10. yes" and its line break, at most
_TOP = 5
_WORD = re.compile(r'\b(?:yes|no)\b', re.IGNORECASE)
# A line that begins with a number, and its answer if there is nothing else.
_LINE = re.compile(
  r'^[ \t]*([0-9]{1,9})(?:[.):][ \t]*(yes|no)\.?[ \t\r]*$)?',
  re.IGNORECASE | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class ListPrompt:
  """A prompt about several labels.

  Attributes:
    text: the prompt.
    num_labels: how many.
  """

  text: str
  num_labels: int


@dataclasses.dataclass(frozen=True)
class Lines:
  """What was said about lists.

  Attributes:
    p_yes: `[n]` object, `{number: p_yes}` of the lines that count; empty where
      there is no answer.
  """

  p_yes: np.ndarray

  def __len__(self) -> int:
    return len(self.p_yes)

  @classmethod
  def of(cls, rows: Sequence[dict[int, float]]) -> Lines:
    """Of what was said about each list."""
    table = np.empty(len(rows), object)
    table[:] = rows
    return cls(table)


_NO_LINES = Lines.of([{}])


class SglangLists(SglangApi):
  """SGLang's own `/generate`, see `Api`."""

  no_answer = _NO_LINES
  shorten = '--teacher_doc_tokens or --list_size'

  def body(
    self, prompts: Sequence[ListPrompt], rids: Sequence[str]
  ) -> dict[str, Any]:
    """See `Api.body`."""
    texts = [prompt.text for prompt in prompts]
    ids = [[i for word in self._ids for i in word]] if self._ids else []
    body = sglang_body(texts, rids, 0, *ids)
    # A list of its own length is another expression.
    body['sampling_params'] = [
      {
        **body['sampling_params'],
        'max_new_tokens': _LINE_TOKENS * prompt.num_labels,
        'regex': _expression(prompt.num_labels),
      }
      for prompt in prompts
    ]
    return body

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with reading():
      metas = sglang_metas(reply, rids)
      texts = [item['text'] for item in reply]
      are_cut = [meta['finish_reason']['type'] == 'length' for meta in metas]
      if self._ids is None:
        lines, mass = [_as_said(text) for text in texts], math.nan
      else:
        said = [self._answers(meta) for meta in metas]
        lines, mass = _weighed(said, self._read_logprobs)
      rows = map(read_lines, texts, lines, are_cut)
      return sglang_reply(Lines.of(list(rows)), metas, mass)

  def _answers(self, meta: dict[str, Any]) -> list[tuple[str, list]]:
    """The tokens of an answer that are yes or no: word and entries."""
    words = dict.fromkeys(self._ids[0], 'yes') | dict.fromkeys(
      self._ids[1], 'no'
    )
    return [
      (words[token[1]], entries)
      for token, entries in zip(
        meta['output_token_logprobs'],
        meta['output_token_ids_logprobs'],
        strict=True,
      )
      if token[1] in words
    ]


class OpenAiLists(OpenAiApi):
  """`/v1/completions`, see `Api`."""

  no_answer = _NO_LINES
  shorten = '--teacher_doc_tokens or --list_size'

  def body(
    self, prompts: Sequence[ListPrompt], rids: Sequence[str]
  ) -> dict[str, Any]:
    """See `Api.body`."""
    num_labels = max(prompt.num_labels for prompt in prompts)
    body = openai_body(
      self._model,
      [prompt.text for prompt in prompts],
      _LINE_TOKENS * num_labels,
    )
    return {**body, 'logprobs': _TOP} if self.reads_logprobs else body

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with reading():
      choices = openai_choices(reply, len(rids))
      texts = [choice['text'] for choice in choices]
      are_cut = [choice['finish_reason'] == 'length' for choice in choices]
      if not self.reads_logprobs:
        lines, mass = [_as_said(text) for text in texts], math.nan
      else:
        said = [_openai_answers(choice['logprobs']) for choice in choices]
        lines, mass = _weighed(said, self._read_logprobs)
      rows = map(read_lines, texts, lines, are_cut)
      return openai_reply(Lines.of(list(rows)), reply, mass)


def read_lines(
  text: str, said: Sequence[tuple[str, float]], is_cut: bool
) -> dict[int, float]:
  """p_yes of the lines that count, by their number.

  Args:
    text: the answer.
    said: yes or no and p_yes of each token that is one, in their order.
    is_cut: whether the text would have gone on.
  """
  words = list(_WORD.finditer(text))
  if [word.group().lower() for word in words] != [word for word, _ in said]:
    return {}  # which token is which word is anybody's guess
  p_yes = {word.start(): p for word, (_, p) in zip(words, said, strict=True)}
  lines = list(_LINE.finditer(text))
  numbers = [int(line[1]) for line in lines]
  found = {}
  for i, line in enumerate(lines):
    if line[2] is None or (is_cut and line.end() == len(text)):
      continue
    p = p_yes[line.start(2)]
    if (
      max(numbers[:i], default=0) < numbers[i]
      and numbers[i] < min(numbers[i + 1 :], default=math.inf)
      and (p > 0.5) == (line[2].lower() == 'yes')
    ):
      found[numbers[i]] = p
  return found


def _weighed(
  said, read_logprobs
) -> tuple[list[list[tuple[str, float]]], float]:
  """Words with p_yes in place of what is known of their tokens."""
  tokens = [known for answers in said for _, known in answers]
  if not tokens:
    return [[] for _ in said], 0.0
  verdicts, mass = read_logprobs(tokens)
  p_yes = iter(verdicts.p_yes.tolist())
  return [[(word, next(p_yes)) for word, _ in row] for row in said], mass


def _as_said(text: str) -> list[tuple[str, float]]:
  """Words that are taken as they are."""
  words = (match.group().lower() for match in _WORD.finditer(text))
  return [(word, float(word == 'yes')) for word in words]


def _openai_answers(logprobs: dict[str, Any]) -> list[tuple[str, dict]]:
  """The tokens of an answer that are yes or no: word and the likeliest."""
  tokens = zip(logprobs['tokens'], logprobs['top_logprobs'], strict=True)
  words = ((bare(token), top) for token, top in tokens)
  return [(word, top) for word, top in words if word in ('yes', 'no')]


def _expression(num_labels: int) -> str:
  """What an answer looks like."""
  return r'\n'.join(rf'{i}\. ([Yy]es|[Nn]o)' for i in range(1, num_labels + 1))
