"""Exact maximum inner product search: every label scored, block by block.

No array of queries x labels is ever made. Blocks of labels are the outer loop,
so that a search of many queries reads the embeddings once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmtx_jax.best_labels import pick
from lmtx_jax.embeddings import as_float32

_LABEL_BLOCK = 16_384  # labels scored at once on a CPU
_DEVICE_LABEL_BLOCK = 131_072  # and on an accelerator: 512 MiB of scores
_GROUP = 128  # labels of a block that are passed over at once on a CPU
_QUERY_BLOCK = 1_024
_IN_FLIGHT = 2  # blocks of labels handed to a device before the first is done
_DEVICE_SHARE = 0.5  # of a device's free memory that embeddings may stay in


class _Block(NamedTuple):
  """A block of labels.

  Attributes:
    embeddings: `[block, dim]`, on a device.
    first: label of its first row.
    start: the first label that no block before it had.
  """

  embeddings: jax.Array
  first: int
  start: int


class ExactIndex:
  """Scores every label, and merges each block's best."""

  def __init__(self, embeddings: np.ndarray, on_device: bool | None = None):
    """Takes the embeddings.

    Args:
      embeddings: `[num_labels, dim]` f32 or bf16, memory-mapped or not.
      on_device: whether the best labels are picked on the device too, as
        accelerators do; by default it follows from JAX's backend.
    """
    self._embeddings = embeddings
    if on_device is None:
      on_device = jax.default_backend() != 'cpu'
    self._on_device = on_device
    block = _DEVICE_LABEL_BLOCK if on_device else _LABEL_BLOCK
    self._block = min(block, len(embeddings))
    self._resident: dict[jax.Device, list[_Block]] = {}

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """See MipsIndex; of equal scores the lower label comes first."""
    k = min(k, len(self._embeddings))
    labels = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    parts = [
      slice(start, min(start + _QUERY_BLOCK, len(queries)))
      for start in range(0, len(queries), _QUERY_BLOCK)
    ]
    if self._on_device:
      self._search_on_devices(queries, parts, labels, scores)
    else:
      self._search_on_host(queries, parts, labels, scores)
    return labels, scores

  def _search_on_host(self, queries, parts, labels, scores) -> None:
    """XLA multiplies, numpy picks: XLA's top_k is slow on a CPU."""
    if not parts:
      return
    for block in self._blocks(None):
      for rows in parts:
        size = rows.stop - rows.start
        found, maxima = (
          np.asarray(x)[:size] for x in _maxima(_padded(queries[rows]), *block)
        )
        pick(labels[rows], scores[rows], found, maxima, block.first)

  def _search_on_devices(self, queries, parts, labels, scores) -> None:
    """Query blocks go round the local devices, each of which has all labels."""
    k, devices = labels.shape[1], jax.local_devices()[: len(parts)]
    shares = [parts[i :: len(devices)] for i in range(len(devices))]
    best = {
      rows.start: _nothing(_padded_size(rows), k, device)
      for device, share in zip(devices, shares, strict=True)
      for rows in share
    }
    blocks = [self._device_blocks(device) for device in devices]
    in_flight = []
    for by_device in zip(*blocks, strict=True):
      for block, device, share in zip(by_device, devices, shares, strict=True):
        for rows in share:
          part = jax.device_put(_padded(queries[rows]), device)
          best[rows.start] = _merge(part, *block, *best[rows.start])
      # The next block is read while the devices work, but not many of them.
      in_flight.append([best[share[-1].start] for share in shares])
      if len(in_flight) == _IN_FLIGHT:
        jax.block_until_ready(in_flight.pop(0))
    for rows in parts:
      for out, part in zip((labels, scores), best[rows.start], strict=True):
        out[rows] = np.asarray(part)[: rows.stop - rows.start]

  def _device_blocks(self, device: jax.Device) -> Iterator[_Block]:
    """Blocks on a device, which stay there if there is room for all."""
    if device not in self._resident and _fits(device, self._embeddings.nbytes):
      self._resident[device] = list(self._blocks(device))
    yield from self._resident.get(device) or self._blocks(device)

  def _blocks(self, device: jax.Device | None) -> Iterator[_Block]:
    num_labels = len(self._embeddings)
    for start in range(0, num_labels, self._block):
      # The last block overlaps the one before, so that all have one shape.
      first = min(start, num_labels - self._block)
      block = self._embeddings[first : first + self._block]
      if device is None:
        block = as_float32(block)
      yield _Block(jax.device_put(block, device), first, start)


def _fits(device: jax.Device, num_bytes: int) -> bool:
  """Whether a device tells its memory, and has much more than that free."""
  stats = device.memory_stats() or {}
  free = stats.get('bytes_limit', 0) - stats.get('bytes_in_use', 0)
  return num_bytes <= _DEVICE_SHARE * free


def _padded_size(rows: slice) -> int:
  """Queries are padded to a power of two: few programs are compiled."""
  return min(_QUERY_BLOCK, 1 << (rows.stop - rows.start - 1).bit_length())


def _padded(queries: np.ndarray) -> np.ndarray:
  out = np.zeros(
    (_padded_size(slice(0, len(queries))), queries.shape[1]), np.float32
  )
  out[: len(queries)] = queries
  return out


@jax.jit
def _score(queries: jax.Array, embeddings: jax.Array) -> jax.Array:
  """`[queries, block]` f32 inner products, as exact as f32 makes them."""
  if embeddings.dtype == jnp.bfloat16:
    return _score_bfloat16(queries, embeddings)
  return jnp.matmul(queries, embeddings.T, precision=jax.lax.Precision.HIGHEST)


def _score_bfloat16(queries: jax.Array, embeddings: jax.Array) -> jax.Array:
  """As `_score`, by three products of bfloat16, the quickest on accelerators.

  A float32 is the sum of three bfloat16, and their products with bfloat16 are
  exact in the float32 that they are summed in.
  """
  total = 0.0
  for _ in range(3):
    # Not astype there and back, which XLA may take for nothing.
    part = jax.lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
    queries = queries - part
    total += jnp.matmul(
      part.astype(jnp.bfloat16),
      embeddings.T,
      preferred_element_type=jnp.float32,
    )
  return total


@jax.jit
def _maxima(queries, embeddings, first, start):
  """Scores of a block, -inf for labels seen before, and each group's best."""
  found = _unseen(_score(queries, embeddings), first, start)
  short = -found.shape[1] % _GROUP
  found = jnp.pad(found, ((0, 0), (0, short)), constant_values=-jnp.inf)
  return found, found.reshape(len(found), -1, _GROUP).max(axis=2)


def _unseen(scores: jax.Array, first: jax.Array, start: jax.Array) -> jax.Array:
  """`[queries, block]` scores, -inf for the labels below `start`."""
  ids = first + jnp.arange(scores.shape[1], dtype=jnp.int32)
  return jnp.where(ids >= start, scores, -jnp.inf)


def _nothing(
  num_queries: int, k: int, device: jax.Device
) -> tuple[jax.Array, jax.Array]:
  labels = np.full((num_queries, k), -1, np.int32)
  scores = np.full((num_queries, k), -np.inf, np.float32)
  return jax.device_put((labels, scores), device)


@jax.jit
def _merge(queries, embeddings, first, start, labels, scores):
  """The best k of those known and of one more block of labels."""
  found = _unseen(_score(queries, embeddings), first, start)
  k = labels.shape[1]
  found, places = _top_k(found, min(k, found.shape[1]))
  scores = jnp.concatenate([scores, found], axis=1)
  labels = jnp.concatenate([labels, first + places], axis=1)
  scores, places = jax.lax.top_k(scores, k)
  return jnp.take_along_axis(labels, places, axis=1), scores


def _top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`jax.lax.top_k`, sorting less: the best k lie in the k best groups.

  Of equal maxima the first groups are taken, and groups stay in their order,
  so that of equal scores the first wins here too.
  """
  num_rows, width = scores.shape
  group = 1 << max(0, (width // (4 * k)).bit_length() - 1)
  if group < 4:
    return jax.lax.top_k(scores, k)
  short = -width % group
  scores = jnp.pad(scores, ((0, 0), (0, short)), constant_values=-jnp.inf)
  groups = scores.reshape(num_rows, -1, group)
  _, chosen = jax.lax.top_k(groups.max(axis=2), k)
  chosen = jnp.sort(chosen, axis=1)
  found = jnp.take_along_axis(groups, chosen[:, :, None], axis=1)
  found, places = _top_k(found.reshape(num_rows, k * group), k)
  chosen = jnp.take_along_axis(chosen, places // group, axis=1)
  places = chosen * group + places % group
  # Padding is taken only where nothing but -inf is left.
  return found, jnp.minimum(places, width - 1)
