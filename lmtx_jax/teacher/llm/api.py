"""What is said to a server, and how its replies become verdicts."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, Protocol

import numpy as np

from lmtx_jax.teacher.llm.wire import (
  Malformed,
  Reply,
  openai_body,
  openai_choices,
  openai_reply,
  reading,
  sglang_body,
  sglang_metas,
  sglang_reply,
)
from lmtx_jax.types import INVALID, NO, YES, Verdicts

_TEXT_TOKENS, _TEXT_CHARS = 8, 10  # the paper's reading of an answer
_TOP = 5  # completions show so many of the likeliest tokens


# A question that was refused, as a verdict.
NO_VERDICT = Verdicts(
  np.array([INVALID], np.int8), np.array([np.nan], np.float32)
)


class Api(Protocol):
  """A way to put prompts to a server.

  Attributes:
    path: where they are posted.
    no_answer: stands for the one answer to a prompt that no server can take.
    shorten: flags by which all prompts become shorter.
  """

  path: str
  no_answer: Any
  shorten: str

  def body(self, prompts: Sequence[Any], rids: Sequence[str]) -> dict[str, Any]:
    """What is posted; `rids` are names of the prompts, new for each post."""
    ...

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """Reads the JSON that came back.

    Raises:
      Malformed: it does not answer these prompts.
    """
    ...


class SglangApi:
  """SGLang's own `/generate`.

  Attributes:
    reads_logprobs: whether verdicts come from probabilities, not from text.
  """

  path, no_answer = '/generate', NO_VERDICT
  shorten = '--teacher_doc_tokens'

  def __init__(
    self, answer_ids: tuple[Sequence[int], Sequence[int]] | None = None
  ):
    """Takes the token ids of yes and of no; None reads the text instead."""
    self._ids = answer_ids
    self.reads_logprobs = answer_ids is not None

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """See `Api.body`."""
    if self._ids is None:
      return sglang_body(prompts, rids, _TEXT_TOKENS)
    yes, no = self._ids
    # Without a new token there is the distribution after the prompt.
    return sglang_body(prompts, rids, 0, (*yes, *no))

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with reading():
      metas = sglang_metas(reply, rids)
      if self._ids is None:
        verdicts, mass = _read_texts([item['text'] for item in reply])
      else:
        last = []
        for meta in metas:
          (entries,) = meta['output_token_ids_logprobs']
          last.append(entries)
        verdicts, mass = self._read_logprobs(last)
      return sglang_reply(verdicts, metas, mass)

  def _read_logprobs(self, tokens: list[list]) -> tuple[Verdicts, float]:
    """What the entries of each token say, and their mean mass."""
    yes, no = self._ids
    rows = []
    for entries in tokens:
      seen = {entry[1]: entry[0] for entry in entries}
      rows.append([seen[i] for i in (*yes, *no)])
    table = np.array(rows, np.float64)  # a null becomes NaN
    if np.isnan(table).any() or (table > 1e-3).any():
      raise Malformed('a log-probability that is none')
    with np.errstate(divide='ignore'):
      mass_yes, mass_no = (
        np.logaddexp.reduce(part, axis=1)
        for part in (table[:, : len(yes)], table[:, len(yes) :])
      )
    mass = float(np.exp(np.logaddexp(mass_yes, mass_no)).mean())
    return _verdicts(mass_yes, mass_no), mass


class OpenAiApi:
  """`/v1/completions`, which SGLang, vLLM and others serve alike.

  Attributes:
    reads_logprobs: as of `SglangApi`.
  """

  path, no_answer = '/v1/completions', NO_VERDICT
  shorten = '--teacher_doc_tokens'

  def __init__(self, model: str, reads_logprobs: bool):
    """Takes the server's name of its model, and how answers are read."""
    self._model, self.reads_logprobs = model, reads_logprobs

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """See `Api.body`; this one has no names for prompts."""
    if not self.reads_logprobs:
      return openai_body(self._model, prompts, _TEXT_TOKENS)
    return {**openai_body(self._model, prompts, 1), 'logprobs': _TOP}

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with reading():
      choices = openai_choices(reply, len(rids))
      if not self.reads_logprobs:
        verdicts, mass = _read_texts([choice['text'] for choice in choices])
      else:
        first = []
        for choice in choices:
          (top, *_) = choice['logprobs']['top_logprobs']
          first.append(top)
        verdicts, mass = self._read_logprobs(first)
      return openai_reply(verdicts, reply, mass)

  def _read_logprobs(
    self, tokens: list[dict[str, float]]
  ) -> tuple[Verdicts, float]:
    """An answer that is not among the likeliest has at most the last's mass."""
    rows = []
    for top in tokens:
      mass = {'yes': 0.0, 'no': 0.0}
      for token, logprob in top.items():
        # NaN and what is no probability fails here, not silently later.
        if not -math.inf <= float(logprob) <= 1e-3:
          raise Malformed('a log-probability that is none')
        word = bare(token)
        if word in mass:
          mass[word] += math.exp(logprob)
      least = math.exp(min(top.values()))
      known = any(mass.values())
      rows.append(
        [(mass[word] or least) if known else 0.0 for word in ('yes', 'no')]
        + [sum(mass.values())]
      )
    table = np.array(rows, np.float64)
    with np.errstate(divide='ignore'):
      verdicts = _verdicts(np.log(table[:, 0]), np.log(table[:, 1]))
    return verdicts, float(table[:, 2].mean())


def bare(token: str) -> str:
  """A token without the signs that some tokenizers have for a space."""
  return token.strip(' \u2581\u0120').lower()


def _verdicts(log_yes: np.ndarray, log_no: np.ndarray) -> Verdicts:
  """Verdicts of two log masses; INVALID where both are nothing."""
  with np.errstate(invalid='ignore'):
    p_yes = np.exp(log_yes - np.logaddexp(log_yes, log_no)).astype(np.float32)
  answer = np.where(p_yes > 0.5, YES, NO)
  answer = np.where(np.isnan(p_yes), INVALID, answer)
  return Verdicts(answer.astype(np.int8), p_yes)


def _read_texts(texts: list[str]) -> tuple[Verdicts, float]:
  """The paper's reading: a word among the first characters; yes goes first."""
  heads = [text[:_TEXT_CHARS].lower() for text in texts]
  answer = np.array(
    [YES if 'yes' in h else NO if 'no' in h else INVALID for h in heads],
    np.int8,
  )
  p_yes = np.where(answer == INVALID, np.nan, answer).astype(np.float32)
  return Verdicts(answer, p_yes), math.nan
