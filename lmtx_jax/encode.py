"""Texts to embeddings, over all local devices."""

from __future__ import annotations

import collections
from collections.abc import Callable
import functools
from typing import Any

import numpy as np
from tqdm import tqdm

from lmtx_jax import devices
from lmtx_jax.data.batches import encode_batches
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.model.bi_encoder import BiEncoder

_IN_FLIGHT = 2  # batches handed to the devices before the first is fetched


@functools.lru_cache(maxsize=8)
def _p_apply(encoder: BiEncoder) -> Callable:
  return devices.p_map(encoder.apply)


class Encoder:
  """A bi-encoder with its parameters on every local device."""

  def __init__(self, bi_encoder: BiEncoder, params: Any, batch_tokens: int):
    """Puts the parameters on the devices.

    Args:
      bi_encoder: the architecture.
      params: its parameters, on the host.
      batch_tokens: tokens in a batch on one device, padding included.
    """
    self.dim = bi_encoder.dim
    self._p_apply = _p_apply(bi_encoder)
    self._params = devices.replicate(params)
    self._batch_tokens = batch_tokens

  def encode(
    self,
    inputs: TokenView,
    widths: np.ndarray,
    out: np.ndarray | None = None,
    desc: str | None = None,
  ) -> np.ndarray:
    """Embeds every input; the longest go first, so memory peaks at once.

    Args:
      inputs: what to embed.
      widths: `[num_buckets]` lengths to pad to, ascending; each of them costs
        one compilation.
      out: `[num_inputs, dim]` array to write to, e.g. a memory-mapped file.
      desc: name on the progress bar; no bar without one.

    Returns:
      `[num_inputs, dim]` float32 embeddings in the order of the inputs, unit
      norm if the bi-encoder normalises.
    """
    if out is None:
      out = np.empty((len(inputs), self.dim), np.float32)
    pending = collections.deque()
    with tqdm(
      total=len(inputs), desc=desc, unit='text', disable=desc is None
    ) as bar:

      def fetch() -> None:
        rows, embeddings = pending.popleft()
        out[rows] = devices.gather(embeddings)[: len(rows)]
        bar.update(len(rows))

      for batch in encode_batches(
        inputs.lengths, widths, self._batch_tokens, devices.count()
      ):
        padded = np.resize(batch.rows, batch.size)
        ids, lengths = inputs.batch(padded, batch.width)
        embeddings = self._p_apply(
          self._params, devices.shard(ids), devices.shard(lengths)
        )
        pending.append((batch.rows, embeddings))
        if len(pending) > _IN_FLIGHT:
          fetch()
      while pending:
        fetch()
    return out
