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
from lmtx_jax.train.pair_source import PairSource, Refresh
from lmtx_jax.train.schedule import FitConfig, learning_rate
from lmtx_jax.train.step import TrainState, p_train_step
from lmtx_jax.train.stopping import Agreement
from lmtx_jax.types import UserError

_LOG_STEPS = 10


@functools.lru_cache(maxsize=8)
def _optimizer(
  eps: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
  """AdamW but for its learning rate, which the step is handed."""
  clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  return optax.chain(
    *clip, optax.scale_by_adam(eps=eps), optax.add_decayed_weights(weight_decay)
  )


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
  refresh: Refresh | None = None,
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
    refresh: makes the sources that all batches are from, instead of `pairs`.

  Returns:
    Parameters on the host.

  Raises:
    UserError: a loss that is not finite, a batch that does not divide among
      the devices or is too large for them, a checkpoint of another model.
    KeyboardInterrupt, Preempted: this process was told to stop, or another
      one; the steps that are done are in a checkpoint.
  """
  _check_batch_size(pairs, desc)
  num_steps = min(pairs.num_steps, config.max_steps or pairs.num_steps)
  if num_steps < 1:
    logging.warning('%s: not one whole batch of pairs, no training', desc)
    return params
  optimizer = _optimizer(config.adam_eps, config.weight_decay, config.clip_norm)
  p_step = p_train_step(bi_encoder, loss, optimizer, config.chunk)
  state = TrainState(np.int32(0), params, optimizer.init(params))
  state = jax.tree.map(np.asarray, state)
  with (
    contextlib.closing(
      Checkpoints(checkpoints_dir, config.checkpoint_steps)
    ) as checkpoints,
    devices.memory_advice(_advice(pairs, config)),
  ):
    state, first = checkpoints.restore(state)
    writer.rewind(cycle, first)
    with contextlib.closing(_bar(first, num_steps, desc)) as bar:
      meter = _Meter(writer, cycle, desc, bar)
      training = _Training(p_step, config, num_steps, rng, checkpoints, meter)
      return training.run(state, first, pairs, refresh).params


def _check_batch_size(pairs: PairSource, desc: str) -> None:
  if pairs.batch_size % devices.total():
    raise UserError(
      f'{desc}: a batch of {pairs.batch_size} does not divide among'
      f' {devices.total()} devices'
    )


def _advice(pairs: PairSource, config: FitConfig) -> str:
  """What helps where memory runs out; first what a run may change."""
  kept = pairs.batch_size // devices.total()  # documents, on a device
  kept = min(config.chunk.rows or kept, kept)
  if config.chunk.tokens:
    kept = 1  # a few as it is
  return (
    f'the same command goes on with --grad_cache_chunk={max(1, kept // 2)}, or'
    ' in another --run_dir lower --batch_size (of the warm-up,'
    ' --warmup_batch_size)'
  )


def _bar(first: int, num_steps: int, desc: str) -> tqdm:
  return tqdm(
    total=num_steps,
    initial=first,
    desc=desc,
    unit='step',
    disable=not processes.is_lead(),
  )


def _segments(
  first: int, num_steps: int, refresh: Refresh | None
) -> Iterator[range]:
  """The steps that are still to do, cut where their pairs change."""
  every = num_steps if refresh is None else refresh.steps
  while first < num_steps:
    last = min(num_steps, (first // every + 1) * every)
    yield range(first, last)
    first = last


@dataclasses.dataclass(frozen=True)
class _Training:
  """What all steps of a training share."""

  p_step: Callable
  config: FitConfig
  num_steps: int
  rng: jax.Array
  checkpoints: Checkpoints
  meter: _Meter

  def run(
    self,
    state: TrainState,
    first: int,
    pairs: PairSource,
    refresh: Refresh | None,
  ) -> TrainState:
    """All steps from the first that is still to do; states on the host."""
    for steps in _segments(first, self.num_steps, refresh):
      if refresh is not None:
        # All steps are in a checkpoint, so a signal may end this at once.
        begin = steps.start // refresh.steps * refresh.steps
        pairs = refresh.pairs(begin, state.params)
      # A checkpoint under way is kept, whatever happens.
      with deferred() as signals, self.checkpoints.finished():
        state, stopped = self._take(state, steps, pairs, signals)
      if stopped:  # by a signal to another process; an own one is raised
        raise Preempted
    return state

  def _take(
    self, state: TrainState, steps: range, pairs: PairSource, signals: list[int]
  ) -> tuple[TrainState, bool]:
    """Takes some steps, until a signal comes.

    Returns:
      the state on the host, and whether a process was told to stop. Unless it
      is that of the last step of all, this state is in a checkpoint; if a
      process was told to stop, it is in any case.
    """
    meter, checkpoints = self.meter, self.checkpoints
    state, agreement = devices.replicate(state), Agreement()
    sharding = jax.tree.leaves(state)[0].sharding
    done, stop = steps.start, False
    with contextlib.closing(_prefetch(pairs, steps, sharding)) as batches:
      for step, batch in batches:
        rate = learning_rate(self.config, step, self.num_steps)
        state, metrics = self.p_step(state, batch, self.rng, np.float32(rate))
        done = step + 1
        # Reads the step before, so that the device is never waited for.
        meter.add(step, metrics, rate)
        stop = agreement.stop(bool(signals))
        if stop:
          break
        if checkpoints.due(done) and done < steps.stop:
          meter.flush()
          checkpoints.save(done, devices.unreplicate(state))
    meter.flush()
    stop = stop or agreement.stop_now(bool(signals))
    state = devices.unreplicate(state)
    if stop:
      logging.info(
        '%s: stopped after %d steps, which are kept', meter.desc, done
      )
    if stop or done < self.num_steps:
      checkpoints.save(done, state)
    return state, stop


class _Meter:
  """Metrics of steps, read one step late, checked, and written now and then."""

  def __init__(self, writer: MetricWriter, cycle: int, desc: str, bar: tqdm):
    self._writer, self._cycle, self.desc = writer, cycle, desc
    self._bar, self._pending = bar, None

  def add(self, step: int, metrics: dict[str, jax.Array], rate: float) -> None:
    self.flush()
    self._pending = (step, metrics, rate)
    self._bar.update()

  def flush(self) -> None:
    """Waits for the last step and checks it."""
    if self._pending is None:
      return
    step, metrics, rate = self._pending
    self._pending = None
    row = {k: float(v) for k, v in devices.unreplicate(metrics).items()}
    self._bar.set_postfix_str(f'loss {row["loss"]:.4f}', refresh=False)
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
  pairs: PairSource, steps: range, sharding: jax.sharding.Sharding
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
  """Steps and their batches, the next one on its way while this one trains."""

  def load(step: int) -> dict[str, jax.Array]:
    # As the step would lay it out; the transfer goes on behind the step.
    return jax.device_put(devices.shard(pairs.batch(step)), sharding)

  with ThreadPoolExecutor(1) as pool:
    future = pool.submit(load, steps.start)
    for step in steps:
      batch = future.result()
      if step + 1 in steps:
        future = pool.submit(load, step + 1)
      yield step, batch
