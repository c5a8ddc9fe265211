"""One step of training, and embedding its documents, against PyTorch.

python -m tests.benchmarks.train_step --model=DIR [--batch_size=64]
    [--doc_tokens=128] [--label_tokens=16] [--rounds=7]
    [--compute_dtype=float32] [--grad_cache_chunk=-1] [--steps=1]

The paper's step: same weights, lengths, loss (softmax triplet over the 10
hardest labels), dropout and optimiser (AdamW without decay). PyTorch runs
eagerly, as sentence-transformers does, with the model's default attention and
the fused AdamW; on a GPU where torch finds one, in bfloat16 by autocast. The
batch lies on the device before the step, for ours as in a run, and unless told
otherwise ours takes the chunks that a run on this device takes ("chunk"). With
several --steps, as on an accelerator, the next is handed to the device before
the last one has ended, as in a run.

One JSON line with the median seconds of a step and the ratio, and the same of
the forward pass of the documents alone, where PyTorch casts its weights at each
call and ours has cast them, as in a run; "ours_tflops" and "mfu" (the share of
--peak_tflops), and the same of the forward pass, count the matrix products.
"""

from __future__ import annotations

import dataclasses
import json

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.batch_sizes import cycle_chunk
from lmtx_jax.cli import flag
from lmtx_jax.config import TRAINING, Config, default_cache
from lmtx_jax.model import pretrained
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train_config import TrainConfig
from tests.benchmarks.alternate import alternate, medians
from tests.benchmarks.flops import forward_flops, rate
from tests.benchmarks.peers import JAX_ENVIRON

_CONFIG = TrainConfig()


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """Train step."""

  model: str = flag('', 'Folder of a BERT or DistilBERT bi-encoder.')
  batch_size: int = flag(64, 'Documents a step.', low=2)
  doc_tokens: int = flag(128, 'Tokens of every document.', low=3)
  label_tokens: int = flag(16, 'Tokens of every label.', low=3)
  rounds: int = flag(7, 'Timed turns of each.', low=1)
  steps: int = flag(1, 'Steps of a turn.', low=1)
  compute_dtype: str = flag(
    'float32', 'Of the products.', choices=('float32', 'bfloat16')
  )
  grad_cache_chunk: int = flag(
    -1, 'Of our step; 0: off; -1: as a run takes here.', low=-1
  )
  peak_tflops: float = flag(0.0, "The device's, to print its share.", low=0)


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


def chunk_of(config: StepConfig) -> Chunk:
  """What our step keeps activations of at a time."""
  if config.grad_cache_chunk >= 0:
    return Chunk(config.grad_cache_chunk)
  return cycle_chunk(Config(*(part() for part in TRAINING)))


def make_ours_forward(config: StepConfig):
  """The documents to embeddings, pmapped."""
  from lmtx_jax import devices

  devices.setup(default_cache(), JAX_ENVIRON)
  import jax

  loaded = pretrained.load(config.model, config.compute_dtype)
  encoder = loaded.encoder.with_best_attention()
  params = devices.replicate(encoder.for_inference(loaded.params))
  data = devices.shard(batch(config))
  sharding = jax.tree.leaves(params)[0].sharding
  inputs = [data['query_ids'], data['query_lengths']]
  inputs = jax.device_put(inputs, sharding)
  p_apply = devices.p_map(encoder.apply)

  def call() -> None:
    jax.block_until_ready(
      [p_apply(params, *inputs) for _ in range(config.steps)]
    )

  return call


def make_ours(config: StepConfig):
  """Our pmapped step."""
  from lmtx_jax import devices

  devices.setup(default_cache(), JAX_ENVIRON)
  import jax
  import optax

  from lmtx_jax.train.losses import cycle_loss
  from lmtx_jax.train.step import TrainState, p_train_step

  loaded = pretrained.load(config.model, config.compute_dtype)
  optimizer = optax.chain(  # as lmtx_jax.train.loop has it
    optax.scale_by_adam(eps=_CONFIG.adam_eps),
    optax.add_decayed_weights(_CONFIG.weight_decay),
  )
  p_step = p_train_step(
    loaded.encoder.with_best_attention(),
    cycle_loss(_CONFIG),
    optimizer,
    chunk_of(config),
  )
  state = TrainState(np.int32(0), loaded.params, optimizer.init(loaded.params))
  state = devices.replicate(jax.tree.map(np.asarray, state))
  sharding = jax.tree.leaves(state)[0].sharding
  data = jax.device_put(devices.shard(batch(config)), sharding)
  key = jax.random.key(0)

  def call() -> None:
    nonlocal state
    for _ in range(config.steps):
      state, metrics = p_step(state, data, key, np.float32(2e-4))
    jax.block_until_ready((state, metrics))

  return call


def _torch_tower(config: StepConfig):
  """The model, its device, the batch there, and what embeds with it."""
  import torch
  from transformers import AutoModel

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = AutoModel.from_pretrained(config.model).to(device)
  data = {
    name: torch.tensor(x).long().to(device) for name, x in batch(config).items()
  }
  lower = torch.autocast(
    device, torch.bfloat16, enabled=config.compute_dtype == 'bfloat16'
  )

  def embed(ids: torch.Tensor) -> torch.Tensor:
    with lower:
      mask = torch.ones_like(ids)
      hidden = model(ids, attention_mask=mask).last_hidden_state.float()
    return torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)

  return model, device, data, embed


def make_torch_forward(config: StepConfig):
  """The documents to embeddings in eager PyTorch."""
  import torch

  model, _, data, embed = _torch_tower(config)
  model.eval()

  def call() -> None:
    with torch.inference_mode():
      for _ in range(config.steps):
        embedded = embed(data['query_ids'])
      embedded.sum().item()  # waits for the device

  return call


def make_torch(config: StepConfig):
  """The same step in eager PyTorch with transformers' model."""
  import torch

  model, device, data, embed = _torch_tower(config)
  model.train()
  optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=2e-4,
    eps=_CONFIG.adam_eps,
    weight_decay=_CONFIG.weight_decay,
    fused=True,
  )
  k = min(_CONFIG.num_negatives, config.batch_size)
  eye = torch.eye(config.batch_size, dtype=torch.bool, device=device)

  def step() -> torch.Tensor:
    score = embed(data['query_ids']) @ embed(data['passage_ids']).T
    positive = score.diagonal()[:, None]
    hard = score.detach().masked_fill(eye, -torch.inf)
    negative = score.gather(1, hard.topk(k).indices)
    hinge = (negative - positive + _CONFIG.margin).clamp(min=0)
    logit = negative / _CONFIG.loss_temperature * (hinge != 0)
    loss = (hinge * logit.softmax(dim=1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss

  def call() -> None:
    for _ in range(config.steps):
      loss = step()
    loss.item()  # waits for the device

  return call


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(StepConfig, values)
  peers = {
    'ours': make_ours,
    'torch': make_torch,
    'ours_forward': make_ours_forward,
    'torch_forward': make_torch_forward,
  }
  median = medians(
    alternate(
      {name: (make, (config,)) for name, make in peers.items()}, config.rounds
    )
  )
  median = {name: x / config.steps for name, x in median.items()}
  shape = pretrained.load(config.model).encoder.config
  lengths = np.repeat(
    [config.doc_tokens, config.label_tokens], config.batch_size
  )
  both = forward_flops(shape, lengths)
  forward = forward_flops(shape, lengths[: config.batch_size])
  line = {
    'benchmark': 'train_step',
    **dataclasses.asdict(config),
    'chunk': dataclasses.asdict(chunk_of(config)),
    **{f'{name}_s': round(x, 4) for name, x in median.items()},
    'torch_ratio': round(median['torch'] / median['ours'], 3),
    **rate(3 * both, median['ours'], config.peak_tflops),
    'forward_ratio': round(median['torch_forward'] / median['ours_forward'], 3),
    **_forward(rate(forward, median['ours_forward'], config.peak_tflops)),
  }
  print(json.dumps(line))


def _forward(row: dict[str, float]) -> dict[str, float]:
  return {f'forward_{name}': x for name, x in row.items()}


if __name__ == '__main__':
  cli.run(main, (StepConfig,), __doc__)
