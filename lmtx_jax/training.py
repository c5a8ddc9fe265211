"""A training of a run, bound to the parameters that it leaves."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import shutil
from typing import Any

import jax

from lmtx_jax import processes
from lmtx_jax.batch_sizes import small_batch
from lmtx_jax.config import Config
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.pretrained import load_params, save_params
from lmtx_jax.run_dir import RunDir
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train.loop import fit
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.pair_source import PairSource, Refresh
from lmtx_jax.train.schedule import FitConfig
from lmtx_jax.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Training:
  """What is trained on, and how.

  Attributes:
    desc: name on the progress bar.
    pairs: makes the source of batches, by their size.
    batch_size: pairs a step, over all devices.
    loss: of the embeddings.
    fit: how to optimise.
    refresh: makes other pairs now and then, out of the first ones.
    head: a dense layer with tanh, in training only.
  """

  desc: str
  pairs: Callable[[int], PairSource]
  batch_size: int
  loss: Loss
  fit: FitConfig
  refresh: Callable[[PairSource], Refresh] | None = None
  head: bool = False


class Trainer:
  """Runs trainings; each is done once, and its parameters read after that."""

  def __init__(
    self,
    config: Config,
    bi_encoder: BiEncoder,
    run: RunDir,
    writer: MetricWriter,
  ):
    """Takes what the trainings share.

    Args:
      config: of the run.
      bi_encoder: the tied towers.
      run: where parameters and checkpoints are kept.
      writer: gets the metrics.
    """
    self._seed = config.run.seed
    self._encoder = bi_encoder.with_dropout(
      config.train.dropout
    ).with_best_attention()
    self._run, self._writer = run, writer

  def fit(self, cycle: int, start: Any, training: Training) -> Any:
    """The parameters that a training ends with, on the host.

    Args:
      cycle: whose folder they lie in; -1 is the warm-up.
      start: the parameters it starts from, on the host.
      training: what to do.
    """
    run = self._run
    checkpoints = run.cycle_file(cycle, 'checkpoints')

    def make() -> Any:
      with run.timed(cycle, 'train'):
        return self._fit(cycle, start, training, checkpoints)

    path = run.cycle_file(cycle, 'params', 'params.safetensors')
    params = run.once(path, make, save_params, load_params)
    if processes.is_lead():
      shutil.rmtree(checkpoints, ignore_errors=True)  # now of no use
    return params

  def _fit(
    self, cycle: int, start: Any, training: Training, checkpoints: str
  ) -> Any:
    key = jax.random.fold_in(jax.random.key(self._seed), cycle + 1)
    size = training.batch_size
    pairs = training.pairs(size)
    if pairs.num_pairs < size:  # a smaller batch is better than none
      size = small_batch(pairs.num_pairs)
      pairs = training.pairs(size)
    encoder = self._encoder
    if training.head:
      encoder = encoder.with_dense(encoder.dim, 'tanh')
      start = start | {'dense': encoder.init_dense(jax.random.fold_in(key, 1))}
    params = fit(
      encoder,
      start,
      pairs,
      training.loss,
      training.fit,
      rng=key,
      cycle=cycle,
      checkpoints_dir=checkpoints,
      writer=self._writer,
      desc=training.desc,
      refresh=training.refresh and training.refresh(pairs),
    )
    if training.head:
      params = {name: x for name, x in params.items() if name != 'dense'}
    return params


def fit_config(config: TrainConfig, chunk: Chunk) -> FitConfig:
  """How a cycle, or a method's training, optimises.

  Args:
    config: the flags.
    chunk: what a device keeps activations of at a time.
  """
  return FitConfig(
    learning_rate=config.learning_rate,
    lr_warmup_steps=config.lr_warmup_steps,
    adam_eps=config.adam_eps,
    weight_decay=config.weight_decay,
    checkpoint_steps=config.checkpoint_steps,
    chunk=chunk,
    final_learning_rate=config.final_learning_rate,
    by_epoch=config.lr_schedule == 'epoch',
    epochs=config.epochs,
    max_steps=config.max_steps,
    clip_norm=config.clip_norm,
  )
