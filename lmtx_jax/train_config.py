"""Flags of training: the cycles' and the warm-up's."""

from __future__ import annotations

import dataclasses

from lmtx_jax.cli import flag
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Training within a cycle."""

  batch_size: int = flag(128, 'Documents a step, over all devices.', low=2)
  epochs: int = flag(1, 'Passes over the pseudo-labelled documents.', low=1)
  learning_rate: float = flag(2e-4, 'Peak learning rate of AdamW.', low=0.0)
  lr_warmup_steps: int = flag(
    100, 'Steps of linear warm-up, before linear decay to 0.', low=0
  )
  final_learning_rate: float = flag(
    0.0, 'Learning rate that the decay ends with.', low=0.0
  )
  lr_schedule: str = flag(
    'step',
    'Whether the learning rate falls with each step, or with each epoch and '
    'without --lr_warmup_steps (RTS).',
    choices=('step', 'epoch'),
  )
  max_steps: int = flag(
    0, 'Steps of a training at most; 0: as many as --epochs has.', low=0
  )
  clip_norm: float = flag(
    0.0, 'Longest gradient, longer ones are scaled; 0: any.', low=0.0
  )
  adam_eps: float = flag(1e-6, 'Epsilon of AdamW.', low=0.0)
  weight_decay: float = flag(0.0, 'Weight decay of AdamW.', low=0.0)
  loss: str = flag(
    'triplet_softmax',
    "The authors' softmax-weighted triplet loss, the paper's equation 1, or "
    "DEXML's decoupled softmax.",
    choices=('triplet_softmax', 'triplet', 'decoupled_softmax'),
  )
  margin: float = flag(0.3, 'Margin of the triplet loss.', low=0.0)
  loss_temperature: float = flag(
    0.1,
    'Temperature of the softmax over negatives (triplet_softmax, '
    'decoupled_softmax).',
    low=1e-6,
  )
  num_negatives: int = flag(
    10, 'Hardest in-batch labels that enter the softmax loss.', low=1
  )
  hard_negatives: int = flag(
    0,
    'Labels that the teacher refused a document, which enter a batch as '
    'further negatives (the paper found that they hurt).',
    low=0,
  )
  batching: str = flag(
    'length',
    'Documents of like length in a batch, which saves padding, or of like '
    'meaning, which makes harder negatives (NGAME).',
    choices=('length', 'clusters'),
  )
  batch_cluster_size: int = flag(
    16, 'Documents of a cluster of --batching=clusters, about.', low=2
  )
  dropout: float = flag(
    -1.0,
    "Dropout of hidden states and attention in training; -1 keeps the model's.",
    low=-1.0,
    high=0.9,
  )
  warm_start: bool = flag(
    False, 'Cycles go on from the last parameters instead of starting anew.'
  )
  checkpoint_steps: int = flag(
    100, 'Steps between checkpoints within a cycle.', low=1, operational=True
  )
  grad_cache_chunk: int = flag(
    0,
    'Documents whose activations a device keeps at a time, for the same '
    'gradient; 0: all, but in cycles of LMTX on a CPU as many as have about '
    '2048 tokens, which is quicker.',
    low=0,
    operational=True,
  )


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
  """Self-supervised warm-up before the first cycle."""

  warmup_epochs: int = flag(
    0, 'Passes over documents and labels; 0: no warm-up.', low=0
  )
  warmup_batch_size: int = flag(
    256, 'Pairs a step of the warm-up, over all devices.', low=2
  )
  warmup_learning_rate: float = flag(
    1e-3, 'Peak learning rate of the warm-up.', low=0.0
  )
  warmup_temperature: float = flag(
    0.05, 'Temperature of the InfoNCE loss.', low=1e-6
  )
  warmup_min_words: int = flag(
    80, 'Shortest window of words that a document is cut into.', low=2
  )
  warmup_max_words: int = flag(
    160, 'Longest window of words that a document is cut into.', low=2
  )

  def __post_init__(self):
    """Checks what no flag can check alone."""
    if self.warmup_min_words > self.warmup_max_words:
      raise UserError(
        f'--warmup_min_words={self.warmup_min_words} is more than'
        f' --warmup_max_words={self.warmup_max_words}'
      )
