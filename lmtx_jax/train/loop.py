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

from lmtx_jax import devices, processes
from lmtx_jax.interrupts import Preempted, deferred
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.train.checkpoint import Checkpoints
from lmtx_jax.train.losses import Loss
from lmtx_jax.train.pair_source import PairSource
from lmtx_jax.train.step import TrainState, p_train_step
from lmtx_jax.train.stopping import Agreement
from lmtx_jax.types import UserError

_MAX_WARMUP_SHARE = 0.85  # so that a training of few steps learns as well
_LOG_STEPS = 10
_ADVICE = (
  'lower --batch_size (of the warm-up, --warmup_batch_size), or set'
  ' --grad_cache_chunk'
)


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """How to optimise.

  Attributes:
    learning_rate: at its peak.
    lr_warmup_steps: of linear rise; at most 85% of all steps.
    adam_eps: epsilon of AdamW.
    weight_decay: of AdamW.
    checkpoint_steps: steps between checkpoints.
    grad_cache_chunk: rows that a device keeps activations of at a time; 0: of
      all its rows.
  """

  learning_rate: float
  lr_warmup_steps: int
  adam_eps: float
  weight_decay: float
  checkpoint_steps: int
  grad_cache_chunk: int = 0


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
    UserError: a loss that is not finite, a batch that does not divide among
      the devices or is too large for them, a checkpoint of another model.
    KeyboardInterrupt, Preempted: this process was told to stop, or another
      one; the steps that are done are in a checkpoint.
  """
  _check_batch_size(pairs, desc)
  if pairs.num_steps < 1:
    logging.warning('%s: not one whole batch of pairs, no training', desc)
    return params
  optimizer = _optimizer(config.adam_eps, config.weight_decay)
  p_step = p_train_step(bi_encoder, loss, optimizer, config.grad_cache_chunk)
  state = TrainState(np.int32(0), params, optimizer.init(params))
  state = jax.tree.map(np.asarray, state)
  with (
    deferred() as signals,
    # Closed whatever happens, so that a checkpoint under way is kept.
    contextlib.closing(
      Checkpoints(checkpoints_dir, config.checkpoint_steps)
    ) as checkpoints,
    devices.memory_advice(_ADVICE),
  ):
    state, first = checkpoints.restore(state)
    writer.rewind(cycle, first)
    meter = _Meter(writer, cycle, desc)
    state, stopped = _take_steps(
      state, first, pairs, p_step, config, rng, checkpoints, meter, signals
    )
  if stopped:  # by a signal to another process; an own one is raised by now
    raise Preempted
  return state.params


def _check_batch_size(pairs: PairSource, desc: str) -> None:
  if pairs.batch_size % devices.total():
    raise UserError(
      f'{desc}: a batch of {pairs.batch_size} does not divide among'
      f' {devices.total()} devices'
    )


def _take_steps(
  state: TrainState,
  first: int,
  pairs: PairSource,
  p_step: Callable,
  config: FitConfig,
  rng: jax.Array,
  checkpoints: Checkpoints,
  meter: _Meter,
  signals: list[int],
) -> tuple[TrainState, bool]:
  """All steps from the first that is still to do, until a signal comes.

  Returns:
    the state on the host, and whether a process was told to stop: then this
    state is in a checkpoint.
  """
  state, agreement = devices.replicate(state), Agreement()
  sharding = jax.tree.leaves(state)[0].sharding
  with contextlib.closing(_prefetch(pairs, first, sharding)) as batches:
    bar = tqdm(
      batches,
      total=pairs.num_steps,
      initial=first,
      desc=meter.desc,
      unit='step',
      disable=not processes.is_lead(),
    )
    done, stop = first, False
    for step, batch in bar:
      rate = learning_rate(config, step, pairs.num_steps)
      state, metrics = p_step(state, batch, rng, np.float32(rate))
      done = step + 1
      # Reads the step before, so that the device is never waited for.
      meter.add(step, metrics, rate)
      bar.set_postfix_str(f'loss {meter.loss:.4f}', refresh=False)
      stop = agreement.stop(bool(signals))
      if stop:
        break
      if checkpoints.due(done) and done < pairs.num_steps:
        meter.flush()
        checkpoints.save(done, devices.unreplicate(state))
  meter.flush()
  stop = stop or agreement.stop_now(bool(signals))
  state = devices.unreplicate(state)
  if stop and done > first:
    logging.info('%s: stopped after %d steps, which are kept', meter.desc, done)
    checkpoints.save(done, state)
  return state, stop


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


def _prefetch(
  pairs: PairSource, first: int, sharding: jax.sharding.Sharding
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
  """Steps and their batches, the next one on its way while this one trains."""

  def load(step: int) -> dict[str, jax.Array]:
    # As the step would lay it out; the transfer goes on behind the step.
    return jax.device_put(devices.shard(pairs.batch(step)), sharding)

  with ThreadPoolExecutor(1) as pool:
    future = pool.submit(load, first) if first < pairs.num_steps else None
    for step in range(first, pairs.num_steps):
      batch = future.result()
      if step + 1 < pairs.num_steps:
        future = pool.submit(load, step + 1)
      yield step, batch
