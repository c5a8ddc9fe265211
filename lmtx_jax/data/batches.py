"""Static shapes: length buckets, and batches that a step number determines."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

import numpy as np

_MULTIPLE = 8  # widths are multiples of it, as matrix units like


def bucket_widths(
  lengths: np.ndarray, max_tokens: int, max_buckets: int = 8
) -> np.ndarray:
  """The widths to pad to that waste the fewest tokens on these lengths.

  Args:
    lengths: `[n]` input lengths.
    max_tokens: the longest length that can ever come; the last width.
    max_buckets: widths at most, each of which is compiled once.

  Returns:
    `[num_buckets]` int64, ascending.
  """
  units = -(-np.minimum(lengths, max_tokens) // _MULTIPLE)
  last = -(-max_tokens // _MULTIPLE)
  counts = np.bincount(units, minlength=last + 1)
  total = np.concatenate([[0], np.cumsum(counts)])
  # cost[j] is the least number of padded units of all lengths up to j units,
  # if j is a width; one more width is allowed in each round.
  cost = total[1:] * np.arange(last + 1)
  back = []
  for _ in range(max_buckets - 1):
    ends = np.arange(last + 1)
    group = (total[None, 1:] - total[1:, None]) * ends[None, :]  # [i, j]
    option = np.where(
      ends[:, None] < ends[None, :], cost[:, None] + group, cost
    )
    choice = option.argmin(axis=0)
    better = option.min(axis=0) < cost
    back.append(np.where(better, choice, -1))
    cost = np.where(better, option.min(axis=0), cost)
  widths = [last]
  for choice in reversed(back):
    if choice[widths[-1]] > 0:
      widths.append(int(choice[widths[-1]]))
  return np.minimum(np.array(widths[::-1]) * _MULTIPLE, max_tokens)


def width_of(length: int, widths: np.ndarray) -> int:
  """The smallest width that holds `length`."""
  return int(widths[np.searchsorted(widths, length)])


@dataclasses.dataclass(frozen=True)
class EncodeBatch:
  """One batch to embed.

  Attributes:
    rows: `[n]` which inputs it holds, n at most `size`.
    width: tokens to pad to.
    size: rows to pad to.
  """

  rows: np.ndarray
  width: int
  size: int


def encode_batches(
  lengths: np.ndarray, widths: np.ndarray, batch_tokens: int, multiple: int
) -> Iterator[EncodeBatch]:
  """Splits inputs into batches of few shapes, longest first.

  Args:
    lengths: `[n]` input lengths.
    widths: bucket widths, ascending.
    batch_tokens: tokens of one batch on one device, padding included.
    multiple: number of devices, which divides every size.
  """
  order = np.argsort(-lengths, kind='stable')
  bucket = np.searchsorted(widths, lengths[order])
  for index in range(len(widths) - 1, -1, -1):
    rows = order[bucket == index]
    width = int(widths[index])
    full = max(1, batch_tokens // width) * multiple
    # A few inputs get a batch of their own size, rounded up to a power of two.
    few = multiple * (1 << max(0, -(-len(rows) // multiple) - 1).bit_length())
    size = min(full, few)
    for start in range(0, len(rows), size):
      yield EncodeBatch(rows[start : start + size], width, size)


def epoch_order(
  lengths: np.ndarray, batch_size: int, rng: np.random.Generator, window: int
) -> np.ndarray:
  """A random order in which batches hold inputs of like lengths.

  The inputs are shuffled; within each window of some batches they are sorted
  by length; then the batches of the window are shuffled. What is left over
  after the last whole batch is dropped.

  Args:
    lengths: `[n]` input lengths.
    batch_size: inputs a batch.
    rng: source of randomness.
    window: batches that are sorted together; 1 leaves a plain shuffle.

  Returns:
    `[num_batches, batch_size]` int64 input indices.
  """
  num_batches = len(lengths) // batch_size
  order = rng.permutation(len(lengths))[: num_batches * batch_size]
  for start in range(0, len(order), window * batch_size):
    part = order[start : start + window * batch_size]
    part = part[np.argsort(lengths[part], kind='stable')]
    part = part.reshape(-1, batch_size)
    order[start : start + part.size] = part[rng.permutation(len(part))].ravel()
  return order.reshape(num_batches, batch_size)
