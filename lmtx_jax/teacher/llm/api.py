"""What is said to a server, and how its replies become verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from lmtx_jax.types import INVALID, NO, YES, Verdicts

_TEXT_TOKENS, _TEXT_CHARS = 8, 10  # the paper's reading of an answer
# Sglang 0.5.20 dies of a batch in which some requests name tokens and some do
# not; so all of ours do, for another run may be using the same server.
_ANY_ID = (0,)
_TOP = 5  # completions show so many of the likeliest tokens


class Malformed(Exception):
  """A reply that is not what was asked for; asking again may help."""


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a request brought.

  Attributes:
    verdicts: of its `n` prompts, in order.
    prompt_tokens: of all prompts.
    cached_tokens: of those, how many the server had in its cache.
    answer_mass: mean probability of yes and no together; NaN if unknown.
    weights: versions of the weights that answered, where they are told.
  """

  verdicts: Verdicts
  prompt_tokens: int
  cached_tokens: int
  answer_mass: float
  weights: frozenset[str] = frozenset()


class Api(Protocol):
  """A way to put prompts to a server.

  Attributes:
    path: where they are posted.
    reads_logprobs: whether verdicts come from probabilities, not from text.
  """

  path: str
  reads_logprobs: bool

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """What is posted; `rids` are names of the prompts, new for each post."""
    ...

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """Reads the JSON that came back.

    Raises:
      Malformed: it does not answer these prompts.
    """
    ...


class SglangApi:
  """SGLang's own `/generate`."""

  path = '/generate'

  def __init__(
    self, answer_ids: tuple[Sequence[int], Sequence[int]] | None = None
  ):
    """Takes the token ids of yes and of no; None reads the text instead."""
    self._ids = answer_ids
    self.reads_logprobs = answer_ids is not None

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """See `Api.body`."""
    yes, no = self._ids or (_ANY_ID, ())
    return {
      'text': list(prompts),
      'rid': list(rids),
      'sampling_params': {
        # It scales the log-probabilities too: 0 leaves them alone.
        'temperature': 0,
        # Without a new token there is the distribution after the prompt.
        'max_new_tokens': 0 if self._ids else _TEXT_TOKENS,
      },
      'return_logprob': True,
      'token_ids_logprob': [*yes, *no],
    }

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with _reading():
      if not isinstance(reply, list) or len(reply) != len(rids):
        raise Malformed('not as many answers as questions')
      metas = [item['meta_info'] for item in reply]
      if [meta['id'] for meta in metas] != list(rids):
        raise Malformed('answers to other questions')
      if any(meta['finish_reason']['type'] == 'abort' for meta in metas):
        raise Malformed('aborted by the server')
      if self._ids is None:
        verdicts, mass = _read_texts([item['text'] for item in reply])
      else:
        verdicts, mass = self._read_logprobs(metas)
      return Reply(
        verdicts,
        sum(int(meta['prompt_tokens']) for meta in metas),
        sum(int(meta.get('cached_tokens') or 0) for meta in metas),
        mass,
        frozenset(
          str(x['weight_version']) for x in metas if 'weight_version' in x
        ),
      )

  def _read_logprobs(self, metas: list[dict]) -> tuple[Verdicts, float]:
    yes, no = self._ids
    rows = []
    for meta in metas:
      (entries,) = meta['output_token_ids_logprobs']
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
  """`/v1/completions`, which SGLang, vLLM and others serve alike."""

  path = '/v1/completions'

  def __init__(self, model: str, reads_logprobs: bool):
    """Takes the server's name of its model, and how answers are read."""
    self._model, self.reads_logprobs = model, reads_logprobs

  def body(self, prompts: Sequence[str], rids: Sequence[str]) -> dict[str, Any]:
    """See `Api.body`; this one has no names for prompts."""
    body = {'model': self._model, 'prompt': list(prompts), 'temperature': 0}
    if not self.reads_logprobs:
      return {**body, 'max_tokens': _TEXT_TOKENS}
    return {**body, 'max_tokens': 1, 'logprobs': _TOP}

  def read(self, reply: Any, rids: Sequence[str]) -> Reply:
    """See `Api.read`."""
    with _reading():
      choices = sorted(reply['choices'], key=lambda choice: choice['index'])
      if [choice['index'] for choice in choices] != list(range(len(rids))):
        raise Malformed('not one answer to each question')
      if not self.reads_logprobs:
        verdicts, mass = _read_texts([choice['text'] for choice in choices])
      else:
        verdicts, mass = self._read_logprobs(choices)
      usage = reply.get('usage') or {}
      details = usage.get('prompt_tokens_details') or {}
      return Reply(
        verdicts,
        int(usage.get('prompt_tokens') or 0),
        int(details.get('cached_tokens') or 0),
        mass,
      )

  def _read_logprobs(self, choices: list[dict]) -> tuple[Verdicts, float]:
    """An answer that is not among the likeliest has at most the last's mass."""
    rows = []
    for choice in choices:
      (top, *_) = choice['logprobs']['top_logprobs']
      mass = {'yes': 0.0, 'no': 0.0}
      for token, logprob in top.items():
        # NaN and what is no probability fails here, not silently later.
        if not -math.inf <= float(logprob) <= 1e-3:
          raise Malformed('a log-probability that is none')
        word = token.strip(' \u2581\u0120').lower()
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


@contextlib.contextmanager
def _reading() -> Iterator[None]:
  """Turns what goes wrong in reading a reply into `Malformed`."""
  try:
    yield
  except (
    *(LookupError, TypeError, ValueError),
    *(AttributeError, OverflowError),
  ) as e:
    raise Malformed(f'an answer that cannot be read ({e!r})') from e


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
