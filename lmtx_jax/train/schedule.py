"""How a training optimises, and the learning rate of each of its steps."""

from __future__ import annotations

import dataclasses

from lmtx_jax.train.grad_cache import WHOLE, Chunk

_MAX_WARMUP_SHARE = 0.85  # so that a training of few steps learns as well


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """How to optimise.

  Attributes:
    learning_rate: at its peak.
    lr_warmup_steps: of linear rise; at most 85% of all steps.
    adam_eps: epsilon of AdamW.
    weight_decay: of AdamW.
    checkpoint_steps: steps between checkpoints.
    chunk: what a device keeps activations of at a time.
    final_learning_rate: that the decay ends with.
    by_epoch: whether all steps of an epoch have one learning rate.
    epochs: that `by_epoch` cuts the steps into.
    max_steps: steps at most; 0: all that the pairs have.
    clip_norm: longest gradient, longer ones are scaled; 0: any.
  """

  learning_rate: float
  lr_warmup_steps: int
  adam_eps: float
  weight_decay: float
  checkpoint_steps: int
  chunk: Chunk = WHOLE
  final_learning_rate: float = 0.0
  by_epoch: bool = False
  epochs: int = 1
  max_steps: int = 0
  clip_norm: float = 0.0


def learning_rate(config: FitConfig, step: int, num_steps: int) -> float:
  """The learning rate of a step.

  By step: linear warm-up, then linear decay that would reach its end behind the
  last step (method, LMTX). By epoch: no warm-up; the first epoch has the peak,
  the last one the end, those between lie on a line (RTS). Where `max_steps`
  cuts a training short, that many steps are cut into the epochs.

  Args:
    config: how to optimise.
    step: from 0.
    num_steps: that are taken in all.
  """
  start, final = config.learning_rate, config.final_learning_rate
  if config.by_epoch:
    epoch = step * config.epochs // num_steps
    return start + (final - start) * epoch / max(1, config.epochs - 1)
  warmup = min(config.lr_warmup_steps, int(_MAX_WARMUP_SHARE * num_steps))
  if step < warmup:
    return start * step / warmup
  left = num_steps - step
  return final + (start - final) * left / max(1, num_steps - warmup)
