"""Texts to embeddings, over all devices."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
import functools
from typing import Any

import numpy as np
from tqdm import tqdm

from lmtx_jax import devices, processes
from lmtx_jax.data.batches import default_batch_tokens, encode_batches
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.model.bi_encoder import BiEncoder

_IN_FLIGHT = 2  # batches handed to the devices before the first is fetched


@functools.lru_cache(maxsize=8)
def _p_apply(encoder: BiEncoder) -> Callable:
  return devices.p_gathered(encoder.apply)


class Encoder:
  """A bi-encoder with its parameters on every device."""

  def __init__(self, bi_encoder: BiEncoder, params: Any, batch_tokens: int = 0):
    """Puts the parameters on the devices.

    Args:
      bi_encoder: the architecture.
      params: its parameters, on the host.
      batch_tokens: tokens in a batch on one device, padding included; 0: as
        many as suit it.
    """
    self.dim = bi_encoder.dim
    self._p_apply = _p_apply(bi_encoder.with_best_attention())
    self._params = devices.replicate(bi_encoder.for_inference(params))
    self._batch_tokens = batch_tokens or default_batch_tokens()

  def encode(
    self,
    inputs: TokenView,
    widths: np.ndarray,
    out: np.ndarray | None = None,
    desc: str | None = None,
  ) -> np.ndarray:
    """Embeds every input; the longest go first, so memory peaks at once.

    Several processes do it together, and each gets the whole result.

    Args:
      inputs: what to embed.
      widths: `[num_buckets]` lengths to pad to, ascending; each of them costs
        one compilation.
      out: `[num_inputs, dim]`, what rows are assigned to, e.g. a memory-mapped
        file.
      desc: name on the progress bar; no bar without one.

    Returns:
      `[num_inputs, dim]` float32 embeddings in the order of the inputs, unit
      norm if the bi-encoder normalises.
    """
    if out is None:
      out = np.empty((len(inputs), self.dim), np.float32)
    for rows, embeddings in self.batches(inputs, widths, desc):
      out[rows] = embeddings
    return out

  def batches(
    self, inputs: TokenView, widths: np.ndarray, desc: str | None = None
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `encode`, but what is ready at a time: rows, and their embeddings."""
    pending = collections.deque()
    with (
      devices.memory_advice('lower --encode_batch_tokens'),
      tqdm(
        total=len(inputs),
        desc=desc,
        unit='text',
        disable=desc is None or not processes.is_lead(),
      ) as bar,
    ):

      def fetch() -> tuple[np.ndarray, np.ndarray]:
        rows, embeddings = pending.popleft()
        bar.update(len(rows))
        return rows, devices.gather(embeddings)[: len(rows)]

      for batch in encode_batches(
        inputs.lengths, widths, self._batch_tokens, devices.total()
      ):
        padded = np.resize(batch.rows, batch.size)
        ids, lengths = inputs.batch(padded, batch.width)
        embeddings = self._p_apply(
          self._params, devices.shard(ids), devices.shard(lengths)
        )
        pending.append((batch.rows, embeddings))
        if len(pending) > _IN_FLIGHT:
          yield fetch()
      while pending:
        yield fetch()
