"""One step of training against the same step in PyTorch.

python -m tests.benchmarks.train_step --model=DIR [--batch_size=64]
    [--doc_tokens=128] [--label_tokens=16] [--rounds=7]

Same weights, lengths, loss (softmax triplet), dropout and optimiser (AdamW);
one JSON line with the median seconds of a step and the ratio.
"""

from __future__ import annotations

import dataclasses
import json

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import TrainConfig, default_cache
from tests.benchmarks.alternate import alternate, medians

_CONFIG = TrainConfig()


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """Train step."""

  model: str = flag('', 'Folder of a BERT or DistilBERT bi-encoder.')
  batch_size: int = flag(64, 'Documents a step.', low=2)
  doc_tokens: int = flag(128, 'Tokens of every document.', low=3)
  label_tokens: int = flag(16, 'Tokens of every label.', low=3)
  rounds: int = flag(7, 'Timed steps.', low=1)


def batch(
  config: StepConfig, vocab_size: int = 20_000
) -> dict[str, np.ndarray]:
  """Random ids of full length; every label is another one."""
  rng = np.random.default_rng(0)
  size = config.batch_size
  return {
    'query_ids': rng.integers(
      1000, vocab_size, (size, config.doc_tokens), np.int32
    ),
    'query_lengths': np.full(size, config.doc_tokens, np.int32),
    'passage_ids': rng.integers(
      1000, vocab_size, (size, config.label_tokens), np.int32
    ),
    'passage_lengths': np.full(size, config.label_tokens, np.int32),
    'passage_key': np.arange(size, dtype=np.int32),
    'accepted': np.arange(size, dtype=np.int32)[:, None],
  }


def make_ours(config: StepConfig):
  """Our pmapped step."""
  from lmtx_jax import devices

  devices.setup(default_cache())
  import jax
  import optax

  from lmtx_jax.model import pretrained
  from lmtx_jax.train.losses import cycle_loss
  from lmtx_jax.train.step import TrainState, p_train_step

  loaded = pretrained.load(config.model)
  optimizer = optax.scale_by_adam(eps=_CONFIG.adam_eps)
  p_step = p_train_step(loaded.encoder, cycle_loss(_CONFIG), optimizer)
  state = TrainState(np.int32(0), loaded.params, optimizer.init(loaded.params))
  state = devices.replicate(jax.tree.map(np.asarray, state))
  data, key = devices.shard(batch(config)), jax.random.key(0)

  def call() -> None:
    nonlocal state
    state, metrics = p_step(state, data, key, np.float32(2e-4))
    jax.block_until_ready((state, metrics))

  return call


def make_torch(config: StepConfig):
  """The same step in eager PyTorch with transformers' model."""
  import torch
  from transformers import AutoModel

  model = AutoModel.from_pretrained(config.model)
  model.train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=2e-4, eps=_CONFIG.adam_eps, weight_decay=0.0
  )
  data = {name: torch.tensor(x).long() for name, x in batch(config).items()}

  def embed(ids: torch.Tensor) -> torch.Tensor:
    hidden = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)

  def call() -> None:
    score = embed(data['query_ids']) @ embed(data['passage_ids']).T
    positive = score.diagonal()[:, None]
    eye = torch.eye(len(score), dtype=torch.bool)
    hard = score.detach().masked_fill(eye, -torch.inf)
    negative = score.gather(1, hard.topk(_CONFIG.num_negatives).indices)
    hinge = (negative - positive + _CONFIG.margin).clamp(min=0)
    logit = negative / _CONFIG.loss_temperature * (hinge != 0)
    loss = (hinge * logit.softmax(dim=1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()

  return call


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(StepConfig, values)
  median = medians(
    alternate(
      {'ours': (make_ours, (config,)), 'torch': (make_torch, (config,))},
      config.rounds,
    )
  )
  print(
    json.dumps(
      {
        'benchmark': 'train_step',
        **dataclasses.asdict(config),
        'ours_s': round(median['ours'], 4),
        'torch_s': round(median['torch'], 4),
        'speed_ratio': round(median['torch'] / median['ours'], 3),
      }
    )
  )


if __name__ == '__main__':
  cli.run(main, (StepConfig,), __doc__)
