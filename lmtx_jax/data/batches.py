"""Static shapes: length buckets, and batches that a step number determines."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

import jax
import numpy as np

# Widths from where on they are multiples of 4 and of 8, as matrix units like;
# of shorter texts rounding up would cost more.
_BY_4, _BY_8 = 32, 128


def default_batch_tokens() -> int:
  """Tokens to embed at a time: on a CPU few, so that caches hold them."""
  return 2048 if jax.default_backend() == 'cpu' else 65_536


def steps_a_compilation() -> float:
  """Steps of training that one more width must save: it is compiled meanwhile.

  On a CPU about one (six layers of 384) to three (the small encoder of the
  quickstart) are computed while what embeds a width, and leads its gradient
  back, is compiled; on an H100, DistilBERT and batches of 128 documents of 430
  tokens, some hundreds, which is taken for all accelerators.
  """
  return 1.0 if jax.default_backend() == 'cpu' else 300.0


def width_cost(passes: int = 1) -> float:
  """Tokens that a width to embed inputs at must save in each of some passes.

  Without a gradient it is compiled in about the time of a batch on a CPU, and
  of 300 on an H100, which is taken for all accelerators.
  """
  batches = 1 if jax.default_backend() == 'cpu' else 300
  return batches * default_batch_tokens() / passes


def allowed_widths(max_tokens: int) -> np.ndarray:
  """All widths that a batch may have, ascending to `max_tokens`."""
  width = np.arange(1, max_tokens + 1)
  multiple = np.where(width <= _BY_4, 1, np.where(width <= _BY_8, 4, 8))
  width = width[width % multiple == 0]
  return np.union1d(width, max_tokens)


def bucket_widths(
  lengths: np.ndarray,
  max_tokens: int,
  max_buckets: int = 32,
  *,
  waste: float = 0.03,
  min_saved: float | None = None,
) -> np.ndarray:
  """The widths to pad to that waste the fewest tokens on these lengths.

  Since each width is compiled once, they are as few as do.

  Args:
    lengths: `[n]` input lengths.
    max_tokens: the longest length that can ever come; the last width.
    max_buckets: widths at most.
    waste: share of padding that is not improved on.
    min_saved: tokens of padding that each width must save; None: as many as
      pay for it when the inputs are embedded once.

  Returns:
    `[num_buckets]` int64, ascending.
  """
  if min_saved is None:
    min_saved = width_cost()
  lengths = np.minimum(lengths, max_tokens)
  width = allowed_widths(max_tokens)
  counts = np.bincount(np.searchsorted(width, lengths), minlength=len(width))
  total = np.concatenate([[0], np.cumsum(counts)])
  # cost[j] is the least number of padded tokens of all lengths up to width[j],
  # if that is a width; one more width is allowed in each round.
  cost = total[1:] * width
  enough = lengths.sum() / (1 - waste)
  below = np.triu(np.ones((len(width), len(width)), bool), 1)  # [i, j]: i < j
  group = (total[None, 1:] - total[1:, None]) * width[None, :]
  back = []
  while len(back) + 1 < max_buckets and cost[-1] > enough:
    option = np.where(below, cost[:, None] + group, cost)
    if cost[-1] - option[:, -1].min() < min_saved:
      break
    better = option.min(axis=0) < cost
    back.append(np.where(better, option.argmin(axis=0), -1))
    cost = np.where(better, option.min(axis=0), cost)
  found = [len(width) - 1]
  for choice in reversed(back):
    if choice[found[-1]] >= 0:
      found.append(int(choice[found[-1]]))
  return width[found[::-1]]


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

  All batches of a width have one size: what is left over of its inputs is
  filled up with the next shorter ones. Only the last batch may be smaller.

  Args:
    lengths: `[n]` input lengths.
    widths: bucket widths, ascending.
    batch_tokens: tokens of one batch on one device, padding included.
    multiple: number of devices, which divides every size.
  """
  order = np.argsort(-lengths, kind='stable')
  bucket = np.searchsorted(widths, lengths[order])
  start, size, last = 0, 0, -1
  while start < len(order):
    if bucket[start] != last:
      last = bucket[start]
      full = max(1, batch_tokens // int(widths[last])) * multiple
      # A few long inputs do not make many shorter ones as wide.
      few = int(np.count_nonzero(bucket[start:] == last))
      size = min(full, _few_rows(few, multiple, start > 0))
    size = min(size, _few_rows(len(order) - start, multiple, start > 0))
    rows = order[start : start + size]
    yield EncodeBatch(rows, int(widths[last]), size)
    start += size


def _few_rows(rows: int, multiple: int, follows: bool) -> int:
  """The size of a batch of a few rows: a number that comes again.

  Within a corpus it is close; where it is all there is it is a power of two,
  so that a program that answers small requests compiles few sizes.
  """
  share = -(-rows // multiple)
  size = _power_of_two(share)
  step = max(1, size // 16) if follows else size
  return -(-share // step) * step * multiple


def _power_of_two(n: int) -> int:
  """The smallest that is at least `n`."""
  return 1 << max(0, n - 1).bit_length()


def epoch_order(
  shapes: np.ndarray, batch_size: int, rng: np.random.Generator
) -> np.ndarray:
  """A random order in which batches hold inputs of like shapes.

  The inputs are shuffled, then sorted by shape, then the batches are shuffled.
  So which inputs of a shape meet in a batch is random, where an order by length
  would bring the same together in each epoch. What is left over after the last
  whole batch of the shuffled inputs is dropped.

  Args:
    shapes: `[n]` numbers of the inputs' shapes; neighbours are alike.
    batch_size: inputs a batch.
    rng: source of randomness.

  Returns:
    `[num_batches, batch_size]` int64 input indices.
  """
  num_batches = len(shapes) // batch_size
  order = rng.permutation(len(shapes))[: num_batches * batch_size]
  order = order[np.argsort(shapes[order], kind='stable')]
  return rng.permutation(order.reshape(num_batches, batch_size))
