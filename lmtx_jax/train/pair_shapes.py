"""The few shapes that batches of pairs are padded to, both sides at once."""

from __future__ import annotations

import numpy as np

from lmtx_jax.data.batches import allowed_widths

_BLOCK = 512  # shapes that are tried at a time


def pair_shapes(
  query_lengths: np.ndarray,
  passage_lengths: np.ndarray,
  max_tokens: int,
  max_shapes: int,
  *,
  waste: float,
  min_saved: float,
) -> np.ndarray:
  """Shapes that pad pairs of these lengths with few tokens.

  One shape after the other is added, each time the one that saves the most.

  Args:
    query_lengths: `[n]` input lengths.
    passage_lengths: `[n]` input lengths.
    max_tokens: the longest length that can ever come.
    max_shapes: shapes at most, each of which is compiled once.
    waste: share of padding that is not improved on.
    min_saved: tokens of padding that each shape must save.

  Returns:
    `[num_shapes, 2]` widths of query and passage. One of them holds every
    pair; neighbours are alike, as a batch may lie across two.
  """
  widths = allowed_widths(max_tokens)
  cell, counts = np.unique(
    np.searchsorted(widths, query_lengths) * len(widths)
    + np.searchsorted(widths, passage_lengths),
    return_counts=True,
  )
  query, passage = widths[cell // len(widths)], widths[cell % len(widths)]
  tried = np.stack(
    np.meshgrid(np.unique(query), np.unique(passage), indexing='ij'), -1
  ).reshape(-1, 2)
  found = [(max_tokens, max_tokens)]
  cost = np.full(len(cell), 2 * max_tokens)  # of a pair, by its cell
  enough = (query_lengths.sum() + passage_lengths.sum()) / (1 - waste)
  while len(found) < max_shapes and counts @ cost > enough:
    saved = np.concatenate(
      [
        _saved(tried[start : start + _BLOCK], query, passage, counts, cost)
        for start in range(0, len(tried), _BLOCK)
      ]
    )
    if saved.max() < min_saved:
      break
    shape = tried[saved.argmax()]
    found.append(tuple(shape.tolist()))
    fits = (query <= shape[0]) & (passage <= shape[1])
    cost = np.where(fits, np.minimum(cost, shape.sum()), cost)
  return _side_by_side(np.array(found))


def _saved(
  shapes: np.ndarray,
  query: np.ndarray,
  passage: np.ndarray,
  counts: np.ndarray,
  cost: np.ndarray,
) -> np.ndarray:
  """`[shapes]` tokens that each would save over the costs `[cells]`."""
  fits = (query <= shapes[:, :1]) & (passage <= shapes[:, 1:])
  saved = np.maximum(0, cost - shapes.sum(axis=1, keepdims=True))
  return np.where(fits, saved, 0) @ counts


def _side_by_side(shapes: np.ndarray) -> np.ndarray:
  """Orders shapes so that two neighbours fit into one that is not large."""
  both = np.maximum(shapes[:, None], shapes[None])  # [shapes, shapes, 2]
  cost = shapes.sum(axis=1)[shape_of(both[..., 0], both[..., 1], shapes)]
  order, left = [0], set(range(1, len(shapes)))
  while left:
    order.append(min(left, key=lambda i: (cost[order[-1], i], i)))
    left.remove(order[-1])
  return shapes[order]


def shape_of(
  query_lengths: np.ndarray, passage_lengths: np.ndarray, shapes: np.ndarray
) -> np.ndarray:
  """Which shape holds each pair with the least padding; the lengths' shape."""
  found = np.zeros(np.shape(query_lengths), np.int64)
  for i in np.argsort(-shapes.sum(axis=1), kind='stable'):
    fits = (query_lengths <= shapes[i, 0]) & (passage_lengths <= shapes[i, 1])
    found = np.where(fits, i, found)
  return found
