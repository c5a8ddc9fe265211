"""Maximum inner product search: ScaNN, and its exact twin on the device."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Protocol

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

# Rules of ScaNN's documentation on when to search how, in numbers of labels.
_BRUTE_FORCE_BELOW = 20_000
_TREE_FROM = 100_000
_DIMS_PER_BLOCK = 2
_AH_THRESHOLD = 0.2
_LABEL_BLOCK = 16_384  # labels scored at once by the exact index
_QUERY_BLOCK = 1_024


class MipsIndex(Protocol):
  """Finds the labels with the largest inner products."""

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Looks queries up.

    Args:
      queries: `[n, dim]` float32.
      k: labels a query; at most as many as there are labels come back.

    Returns:
      labels `[n, k]` int32, and inner products `[n, k]` float32, best first;
      -1 and -inf where the index reached no more.
    """


class ExactIndex:
  """Scores every label, block by block, and merges each block's best.

  No array of queries x labels is ever made.
  """

  def __init__(self, embeddings: np.ndarray):
    """Takes `[num_labels, dim]` float32 embeddings, memory-mapped or not."""
    self._embeddings = embeddings

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """See MipsIndex."""
    num_labels, n = len(self._embeddings), len(queries)
    k = min(k, num_labels)
    labels = np.empty((n, k), np.int32)
    scores = np.empty((n, k), np.float32)
    for start in range(0, n, _QUERY_BLOCK):
      part = queries[start : start + _QUERY_BLOCK]
      size = min(_QUERY_BLOCK, 1 << (len(part) - 1).bit_length())
      padded = np.zeros((size, queries.shape[1]), np.float32)
      padded[: len(part)] = part
      part_labels, part_scores = self._search_block(jnp.asarray(padded), k)
      labels[start : start + len(part)] = part_labels[: len(part)]
      scores[start : start + len(part)] = part_scores[: len(part)]
    return labels, scores

  def _search_block(self, queries: jax.Array, k: int):
    num_labels = len(self._embeddings)
    block = min(_LABEL_BLOCK, num_labels)
    best_scores = jnp.full((len(queries), k), -jnp.inf)
    best_labels = jnp.full((len(queries), k), -1, jnp.int32)
    for start in range(0, num_labels, block):
      # The last block overlaps the one before, so that all have one shape.
      first = min(start, num_labels - block)
      best_labels, best_scores = _merge(
        queries,
        jnp.asarray(self._embeddings[first : first + block]),
        best_labels,
        best_scores,
        first,
        start,
        k,
      )
    return np.asarray(best_labels), np.asarray(best_scores)


@functools.partial(jax.jit, static_argnames='k')
def _merge(queries, embeddings, best_labels, best_scores, first, start, k):
  """The best k of those known and of one more block of labels."""
  scores = jnp.matmul(
    queries, embeddings.T, precision=jax.lax.Precision.HIGHEST
  )  # [queries, block]
  ids = first + jnp.arange(embeddings.shape[0], dtype=jnp.int32)
  scores = jnp.where(ids >= start, scores, -jnp.inf)
  scores, places = jax.lax.top_k(scores, min(k, embeddings.shape[0]))
  scores = jnp.concatenate([best_scores, scores], axis=1)
  labels = jnp.concatenate([best_labels, ids[places]], axis=1)
  scores, places = jax.lax.top_k(scores, k)
  return jnp.take_along_axis(labels, places, axis=1), scores


class ScannIndex:
  """ScaNN: brute force for few labels, then hashing, then a tree as well."""

  def __init__(self, searcher, num_labels: int):
    self._searcher = searcher
    self._num_labels = num_labels

  @classmethod
  def build(cls, embeddings: np.ndarray) -> ScannIndex:
    """Indexes `[num_labels, dim]` float32 embeddings."""
    from scann.scann_ops.py import scann_ops_pybind

    n = len(embeddings)
    builder = scann_ops_pybind.builder(
      np.ascontiguousarray(embeddings), min(10, n), 'dot_product'
    )
    if n < _BRUTE_FORCE_BELOW:
      builder = builder.score_brute_force()
    else:
      if n >= _TREE_FROM:
        leaves = int(n**0.5)
        builder = builder.tree(
          num_leaves=leaves,
          num_leaves_to_search=max(100, leaves // 10),
          training_sample_size=min(n, 250_000),
        )
      builder = builder.score_ah(
        _DIMS_PER_BLOCK, anisotropic_quantization_threshold=_AH_THRESHOLD
      ).reorder(300)
    return cls(builder.build(), n)

  @classmethod
  def load(cls, folder: str, num_labels: int) -> ScannIndex:
    """Opens what `save` wrote."""
    from scann.scann_ops.py import scann_ops_pybind

    return cls(scann_ops_pybind.load_searcher(folder), num_labels)

  def save(self, folder: str) -> None:
    """Writes the index into a folder that can be moved."""
    os.makedirs(folder, exist_ok=True)
    self._searcher.serialize(folder, relative_path=True)

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """See MipsIndex."""
    k = min(k, self._num_labels)
    if not len(queries):
      return np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    kwargs = {}
    if self._num_labels >= _BRUTE_FORCE_BELOW:
      # Hashed scores choose these many, whose true scores are then compared.
      kwargs['pre_reorder_num_neighbors'] = max(300, 4 * k)
    labels, scores = self._searcher.search_batched_parallel(
      np.asarray(queries, np.float32), final_num_neighbors=k, **kwargs
    )
    absent = np.isnan(scores)  # fewer than k were reached in the tree
    return (
      np.where(absent, -1, labels).astype(np.int32),
      np.where(absent, -np.inf, scores).astype(np.float32),
    )


def choose_index(kind: str) -> str:
  """Resolves 'auto': ScaNN where it has a build, the exact index elsewhere."""
  if kind != 'auto':
    return kind
  if importlib.util.find_spec('scann'):
    return 'scann'
  logging.info('ScaNN is not installed, it has no build here: exact search')
  return 'exact'
