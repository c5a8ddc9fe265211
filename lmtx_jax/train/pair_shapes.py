"""The few shapes that batches of pairs are padded to, both sides at once."""

from __future__ import annotations

import numpy as np

from lmtx_jax.data.batches import bucket_widths
from lmtx_jax.train.pair_source import MIN_WASTE, max_widths, worth_compiling


def training_shapes(
  query_lengths: np.ndarray,
  passage_lengths: np.ndarray,
  max_tokens: int,
  *,
  steps_per_epoch: int,
  epochs: int,
) -> np.ndarray:
  """`pair_shapes` with as many widths as pay for a training on such pairs."""
  return pair_shapes(
    query_lengths,
    passage_lengths,
    max_tokens,
    max_widths(steps_per_epoch),
    waste=MIN_WASTE,
    min_saved=worth_compiling(
      int(query_lengths.sum() + passage_lengths.sum()), steps_per_epoch, epochs
    ),
  )


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

  Each side has widths of its own, which are what is compiled. A shape is one
  of each side: it says which pairs meet in a batch, and is not compiled. One
  shape after the other is added, each time the one that saves the most.

  Args:
    query_lengths: `[n]` input lengths.
    passage_lengths: `[n]` input lengths.
    max_tokens: the longest length that can ever come.
    max_shapes: shapes at most.
    waste: share of padding that is not improved on.
    min_saved: tokens of padding that each width must save.

  Returns:
    `[num_shapes, 2]` widths of query and passage. One of them holds every
    pair; neighbours are alike, as a batch may lie across two.
  """
  pairs = np.stack([query_lengths, passage_lengths], axis=-1)
  enough = pairs.sum() / (1 - waste)
  widths = [
    bucket_widths(
      side, max_tokens, max_shapes, waste=waste, min_saved=min_saved
    )
    for side in pairs.T
  ]
  padded = [
    side_widths[np.searchsorted(side_widths, side)]
    for side_widths, side in zip(widths, pairs.T, strict=True)
  ]
  cells, counts = np.unique(
    np.stack(padded, axis=-1), axis=0, return_counts=True
  )
  tried = np.stack(np.meshgrid(*widths, indexing='ij'), -1).reshape(-1, 2)
  fits = (cells[None] <= tried[:, None]).all(axis=-1)  # [tried, cells]
  found = [np.array([max_tokens, max_tokens])]
  cost = np.full(len(cells), found[0].sum())  # of each cell
  while len(found) < max_shapes and counts @ cost > enough:
    saved = np.maximum(0, cost - tried.sum(axis=1)[:, None]) * fits @ counts
    best = saved.argmax()
    if not saved[best]:
      break
    found.append(tried[best])
    better = np.minimum(cost, found[-1].sum())
    cost = np.where(fits[best], better, cost)
  return _side_by_side(np.array(found))


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
