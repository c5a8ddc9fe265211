"""What servers are sent and send back, whatever the question is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import math
from typing import Any, TypeVar

import numpy as np

# Sglang 0.5.20 dies of a batch in which some requests name tokens and some do
# not; so all of ours do, for another run may be using the same server.
_ANY_ID = (0,)

T = TypeVar('T')


class Malformed(Exception):
  """A reply that is not what was asked for; asking again may help."""


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a request brought.

  Attributes:
    answers: to its `n` prompts, in order: a dataclass of arrays of that length,
      such as `Verdicts`.
    prompt_tokens: of all prompts.
    cached_tokens: of those, how many the server had in its cache.
    answer_mass: mean probability of yes and no together; NaN if unknown.
    weights: versions of the weights that answered, where they are told.
    written_tokens: of all answers.
  """

  answers: Any
  prompt_tokens: int
  cached_tokens: int
  answer_mass: float
  weights: frozenset[str] = frozenset()
  written_tokens: int = 0


def take(answers: T, rows: np.ndarray) -> T:
  """Some of the answers of a dataclass of arrays, in the order of `rows`."""
  return type(answers)(
    *(getattr(answers, f.name)[rows] for f in dataclasses.fields(answers))
  )


def sglang_body(
  prompts: Sequence[str],
  rids: Sequence[str],
  new_tokens: int,
  ids: Sequence[int] = _ANY_ID,
) -> dict[str, Any]:
  """What is posted to `/generate`; `ids` are those whose chance is told."""
  return {
    'text': list(prompts),
    'rid': list(rids),
    # The temperature scales log-probabilities too: 0 leaves them alone.
    'sampling_params': {'temperature': 0, 'max_new_tokens': new_tokens},
    'return_logprob': True,
    'token_ids_logprob': list(ids),
  }


def sglang_metas(reply: Any, rids: Sequence[str]) -> list[dict[str, Any]]:
  """What `/generate` tells of each answer; use it within `reading`.

  Raises:
    Malformed: it does not answer these prompts.
  """
  if not isinstance(reply, list) or len(reply) != len(rids):
    raise Malformed('not as many answers as questions')
  metas = [item['meta_info'] for item in reply]
  if [meta['id'] for meta in metas] != list(rids):
    raise Malformed('answers to other questions')
  if any(meta['finish_reason']['type'] == 'abort' for meta in metas):
    raise Malformed('aborted by the server')
  return metas


def sglang_reply(
  answers: Any, metas: list[dict[str, Any]], answer_mass: float = math.nan
) -> Reply:
  """Answers and what they cost; use it within `reading`."""
  return Reply(
    answers,
    sum(int(meta['prompt_tokens']) for meta in metas),
    sum(int(meta.get('cached_tokens') or 0) for meta in metas),
    answer_mass,
    frozenset(str(x['weight_version']) for x in metas if 'weight_version' in x),
    sum(int(meta.get('completion_tokens') or 0) for meta in metas),
  )


def openai_body(
  model: str, prompts: Sequence[str], new_tokens: int
) -> dict[str, Any]:
  """What is posted to `/v1/completions`."""
  return {
    'model': model,
    'prompt': list(prompts),
    'temperature': 0,
    'max_tokens': new_tokens,
  }


def openai_choices(reply: Any, num_prompts: int) -> list[dict[str, Any]]:
  """The answers of `/v1/completions`, in order; use it within `reading`.

  Raises:
    Malformed: it does not answer so many prompts.
  """
  choices = sorted(reply['choices'], key=lambda choice: choice['index'])
  if [choice['index'] for choice in choices] != list(range(num_prompts)):
    raise Malformed('not one answer to each question')
  return choices


def openai_reply(
  answers: Any, reply: Any, answer_mass: float = math.nan
) -> Reply:
  """Answers and what they cost; use it within `reading`."""
  usage = reply.get('usage') or {}
  details = usage.get('prompt_tokens_details') or {}
  return Reply(
    answers,
    int(usage.get('prompt_tokens') or 0),
    int(details.get('cached_tokens') or 0),
    answer_mass,
    written_tokens=int(usage.get('completion_tokens') or 0),
  )


@contextlib.contextmanager
def reading() -> Iterator[None]:
  """Turns what goes wrong in reading a reply into `Malformed`."""
  try:
    yield
  except (
    *(LookupError, TypeError, ValueError),
    *(AttributeError, OverflowError),
  ) as e:
    raise Malformed(f'an answer that cannot be read ({e!r})') from e
