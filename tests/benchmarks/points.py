"""Synthetic points that are about as hard to search as embeddings of texts.

A point is the sum of two nested topics (domain, topic, subtopic; the second
weighs less) and of what is its own, then cut to unit length. Topics differ in
size and spread (log-normal), directions in variance (a power law, then turned
at random, so that no axis is special). All points share a mean direction, and
queries are drawn like points, from the same topics.

The constants are set by 20,000 label titles and 2,000 documents of Debian's
package descriptions in all-MiniLM-L6-v2. There (here, at 20,000 x 768) the
mean inner product of a document with its nearest label is 0.70 (0.67), with its
tenth 0.51 (0.55), with any label 0.11 (0.10).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_MEAN = 0.05  # of the variance of a topic's point
_LEVELS = ((400, 0.15), (40, 0.15), (5, 0.25))  # (points a topic, variance)
_OWN = 0.4
_SECOND = 0.5  # weight of the second topic
_DECAY = 0.3  # standard deviation of direction i is i^-0.3
_SIZE_SPREAD, _RADIUS_SPREAD = 1.0, 0.4
_BLOCK = 16_384


class Points:
  """A distribution of points; equal arguments give equal points."""

  def __init__(self, num_points: int, dim: int, seed: int = 0):
    """Draws the topics.

    Args:
      num_points: how many points will be drawn; it sets the number of topics.
      dim: of a point.
      seed: of every draw.
    """
    self._rng = np.random.default_rng(seed)
    self._dim = dim
    scale = np.arange(1, dim + 1) ** -_DECAY
    self._scale = (scale / np.linalg.norm(scale)).astype(np.float32)
    turn, _ = np.linalg.qr(self._rng.standard_normal((dim, dim)))
    self._turn = turn.astype(np.float32)
    mean = self._noise(1, 1.0)
    centre = mean * (_MEAN**0.5 / np.linalg.norm(mean))
    for size, variance in _LEVELS:
      num = max(1, num_points // size)
      parent = centre[self._choice(self._weights(len(centre)), num)]
      centre = parent + self._noise(num, variance) * self._radii(num)
    self._topics, self._topic_weights = centre, self._weights(len(centre))

  def blocks(self, num: int) -> Iterator[np.ndarray]:
    """The next `num` points, as `[at most 16384, dim]` f32 of unit norm."""
    for start in range(0, num, _BLOCK):
      n = min(_BLOCK, num - start)
      first, second = (
        self._topics[self._choice(self._topic_weights, n)] for _ in range(2)
      )
      own = self._noise(n, _OWN) * self._radii(n)
      x = (first + _SECOND * second + own) @ self._turn
      yield x / np.linalg.norm(x, axis=1, keepdims=True)

  def write(self, path: str, num: int) -> None:
    """Writes the next `num` points to a .npy file, `[num, dim]` f32."""
    out = np.lib.format.open_memmap(path, 'w+', np.float32, (num, self._dim))
    start = 0
    for block in self.blocks(num):
      out[start : start + len(block)] = block
      start += len(block)
    out.flush()

  def _noise(self, num: int, variance: float) -> np.ndarray:
    normal = self._rng.standard_normal((num, self._dim), np.float32)
    return normal * (self._scale * np.float32(variance**0.5))

  def _radii(self, num: int) -> np.ndarray:
    return self._rng.lognormal(0, _RADIUS_SPREAD, (num, 1)).astype(np.float32)

  def _weights(self, num: int) -> np.ndarray:
    """Cumulative shares of topics."""
    return np.cumsum(self._rng.lognormal(0, _SIZE_SPREAD, num))

  def _choice(self, weights: np.ndarray, num: int) -> np.ndarray:
    return np.searchsorted(weights, self._rng.random(num) * weights[-1])
