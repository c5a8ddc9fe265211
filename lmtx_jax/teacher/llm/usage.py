"""What asking has cost so far, and whether the answers look like answers."""

from __future__ import annotations

import dataclasses

from absl import logging

from lmtx_jax.teacher.llm.wire import Reply

_ODD_AFTER, _ODD_MASS = 100, 0.1  # questions; probability of yes and no


@dataclasses.dataclass
class Usage:
  """Counters, none of which ever falls.

  Attributes:
    prompt_tokens: of all answered prompts.
    cached_tokens: of those, found in the servers' caches.
    written_tokens: of all answers.
    retries: requests that had to be made again.
    given_up: questions that no server could answer.
  """

  prompt_tokens: int = 0
  cached_tokens: int = 0
  written_tokens: int = 0
  retries: int = 0
  given_up: int = 0

  def __post_init__(self):
    self.num_answers, self._answer_mass = 0, 0.0

  def count(self, reply: Reply) -> None:
    """Takes the answers of a request; warns once of a model off the rails."""
    self.prompt_tokens += reply.prompt_tokens
    self.cached_tokens += reply.cached_tokens
    self.written_tokens += reply.written_tokens
    before = self.num_answers
    self.num_answers += len(reply.answers)
    self._answer_mass += reply.answer_mass * len(reply.answers)
    if before < _ODD_AFTER <= self.num_answers:
      mass = self._answer_mass / self.num_answers  # NaN where it is unknown
      if mass < _ODD_MASS:
        logging.warning(
          'the teacher gives yes and no together a probability of %.2g only:'
          ' it wants to say something else; look at --chat_format',
          mass,
        )
