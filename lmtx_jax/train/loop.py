"""One training, from start to end: the only owner of optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import functools
import math
from typing import Any

from absl import logging
import jax
import numpy as np
import optax
from tqdm import tqdm

from lmtx_jax import devices
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.checkpoint import Checkpoints
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.pairs import Batch, PairSource
from lmtx_jax.train.step import TrainState, p_train_step
from lmtx_jax.types import UserError

_MAX_WARMUP_SHARE = 0.85  # so that a training of few steps learns as well
_LOG_STEPS = 10


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """How to optimise.

  Attributes:
    learning_rate: at its peak.
    lr_warmup_steps: of linear rise; at most 85% of all steps.
    adam_eps: epsilon of AdamW.
    weight_decay: of AdamW.
    checkpoint_steps: steps between checkpoints.
  """

  learning_rate: float
  lr_warmup_steps: int
  adam_eps: float
  weight_decay: float
  checkpoint_steps: int


@functools.lru_cache(maxsize=8)
def _optimizer(eps: float, weight_decay: float) -> optax.GradientTransformation:
  """AdamW but for its learning rate, which the step is handed."""
  return optax.chain(
    optax.scale_by_adam(eps=eps), optax.add_decayed_weights(weight_decay)
  )


def learning_rate(config: FitConfig, step: int, num_steps: int) -> float:
  """Linear warm-up, then linear decay to 0 at the last step (method, LMTX)."""
  warmup = min(config.lr_warmup_steps, int(_MAX_WARMUP_SHARE * num_steps))
  if step < warmup:
    return config.learning_rate * step / warmup
  return config.learning_rate * (num_steps - step) / max(1, num_steps - warmup)


def fit(
  bi_encoder: BiEncoder,
  params: Any,
  pairs: PairSource,
  loss: Loss,
  config: FitConfig,
  *,
  rng: jax.Array,
  cycle: int,
  checkpoints_dir: str,
  writer: MetricWriter,
  desc: str,
) -> Any:
  """Trains and returns new parameters; killed, it goes on where it was.

  Args:
    bi_encoder: the tied towers.
    params: what to start from, on the host.
    pairs: source of batches; its number of steps is the training's.
    loss: of the embeddings.
    config: how to optimise.
    rng: key of the dropout of this training.
    cycle: for the metrics; -1 is the warm-up.
    checkpoints_dir: folder of this training's checkpoints.
    writer: gets loss, gradient norm and learning rate.
    desc: name on the progress bar.

  Returns:
    Parameters on the host.

  Raises:
    UserError: a loss that is not finite, or a batch that does not divide
      among the devices.
  """
  if pairs.batch_size % devices.count():
    raise UserError(
      f'{desc}: a batch of {pairs.batch_size} does not divide among'
      f' {devices.count()} devices'
    )
  if pairs.num_steps < 1:
    logging.warning('%s: not one whole batch of pairs, no training', desc)
    return params
  optimizer = _optimizer(config.adam_eps, config.weight_decay)
  p_step = p_train_step(bi_encoder, loss, optimizer)
  state = TrainState(np.int32(0), params, optimizer.init(params))
  state = jax.tree.map(np.asarray, state)
  # Closed on Ctrl-C too, so that a checkpoint under way is kept.
  with contextlib.closing(
    Checkpoints(checkpoints_dir, config.checkpoint_steps)
  ) as checkpoints:
    state, first = checkpoints.restore(state)
    writer.rewind(cycle, first)
    meter = _Meter(writer, cycle, desc)
    return _take_steps(
      state, first, pairs, p_step, config, rng, checkpoints, meter
    ).params


def _take_steps(
  state: TrainState,
  first: int,
  pairs: PairSource,
  p_step: Callable,
  config: FitConfig,
  rng: jax.Array,
  checkpoints: Checkpoints,
  meter: _Meter,
) -> TrainState:
  """All steps from the first that is still to do; the state on the host."""
  state = devices.replicate(state)
  bar = tqdm(
    _prefetch(pairs, first),
    total=pairs.num_steps,
    initial=first,
    desc=meter.desc,
    unit='step',
  )
  for step, batch in bar:
    rate = learning_rate(config, step, pairs.num_steps)
    state, metrics = p_step(state, batch, rng, np.float32(rate))
    # Reads the step before, so that the device is never waited for.
    meter.add(step, metrics, rate)
    if checkpoints.due(step + 1) and step + 1 < pairs.num_steps:
      meter.flush()
      checkpoints.save(step + 1, devices.unreplicate(state))
    bar.set_postfix_str(f'loss {meter.loss:.4f}', refresh=False)
  meter.flush()
  return devices.unreplicate(state)


class _Meter:
  """Metrics of steps, read one step late, checked, and written now and then."""

  def __init__(self, writer: MetricWriter, cycle: int, desc: str):
    self._writer, self._cycle, self.desc = writer, cycle, desc
    self._pending: tuple | None = None
    self.loss = math.nan

  def add(self, step: int, metrics: dict[str, jax.Array], rate: float) -> None:
    self.flush()
    self._pending = (step, metrics, rate)

  def flush(self) -> None:
    """Waits for the last step and checks it."""
    if self._pending is None:
      return
    step, metrics, rate = self._pending
    self._pending = None
    row = {k: float(v) for k, v in devices.unreplicate(metrics).items()}
    self.loss = row['loss']
    if not all(math.isfinite(value) for value in row.values()):
      raise UserError(
        f'{self.desc}: the loss is not finite at step {step}; try a lower '
        'learning rate, or --compute_dtype=float32'
      )
    if step % _LOG_STEPS == 0:
      row['learning_rate'] = rate
      self._writer.write(
        self._cycle, step, {f'train/{name}': v for name, v in row.items()}
      )


def _prefetch(pairs: PairSource, first: int) -> Iterator[tuple[int, Batch]]:
  """Steps and their batches, the next one made while this one trains."""
  with ThreadPoolExecutor(1) as pool:
    load = lambda step: devices.shard(pairs.batch(step))  # noqa: E731
    future = pool.submit(load, first) if first < pairs.num_steps else None
    for step in range(first, pairs.num_steps):
      batch = future.result()
      if step + 1 < pairs.num_steps:
        future = pool.submit(load, step + 1)
      yield step, batch
