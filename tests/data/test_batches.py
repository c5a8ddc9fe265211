"""Bucket widths, batches to embed, and the order of an epoch."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from lmtx_jax.data.batches import (
  bucket_widths,
  encode_batches,
  epoch_order,
  width_of,
)

LENGTHS = st.lists(st.integers(2, 64), max_size=30)


def padded_tokens(lengths, widths):
  return sum(width_of(length, np.asarray(widths)) for length in lengths)


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 4))
def test_widths_waste_no_more_than_the_best_choice(lengths, max_buckets):
  widths = bucket_widths(np.array(lengths, np.int64), 64, max_buckets)
  choices = range(8, 64, 8)
  best = min(
    padded_tokens(lengths, [*some, 64])
    for count in range(max_buckets)
    for some in itertools.combinations(choices, count)
  )
  assert padded_tokens(lengths, widths) == best


@given(LENGTHS, st.integers(3, 64), st.integers(1, 8))
def test_widths_ascend_to_the_longest(lengths, max_tokens, max_buckets):
  lengths = np.minimum(np.array(lengths, np.int64), max_tokens)
  widths = bucket_widths(lengths, max_tokens, max_buckets)
  assert widths[-1] == max_tokens
  assert len(widths) <= max_buckets
  assert np.all(np.diff(widths) > 0)
  assert np.all(widths[:-1] % 8 == 0)
  for length in lengths:
    width = width_of(length, widths)
    assert width >= length
    assert not np.any((widths >= length) & (widths < width))


@given(
  LENGTHS,
  st.integers(1, 4),
  st.integers(1, 300),
  st.sampled_from([1, 2, 8]),
)
def test_every_row_is_embedded_once(lengths, buckets, batch_tokens, multiple):
  lengths = np.array(lengths, np.int64)
  widths = bucket_widths(lengths, 64, buckets)
  batches = list(encode_batches(lengths, widths, batch_tokens, multiple))
  rows = [row for batch in batches for row in batch.rows]
  assert sorted(rows) == list(range(len(lengths)))
  for batch in batches:
    assert 1 <= len(batch.rows) <= batch.size
    assert batch.size % multiple == 0
    assert batch.width >= lengths[batch.rows].max()
    share = batch.size // multiple
    assert share == 1 or share * batch.width <= batch_tokens
  assert len({(b.size, b.width) for b in batches}) <= len(widths)
  assert [b.width for b in batches] == sorted(
    (b.width for b in batches), reverse=True
  )


def test_a_few_rows_are_not_padded_to_a_full_batch():
  (batch,) = encode_batches(np.full(5, 10), np.array([16]), 16 * 1000, 1)
  assert batch.size == 8


@given(LENGTHS, st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_an_epoch_is_part_of_a_permutation(lengths, batch_size, window, seed):
  lengths = np.array(lengths, np.int64)
  order = epoch_order(lengths, batch_size, np.random.default_rng(seed), window)
  again = epoch_order(lengths, batch_size, np.random.default_rng(seed), window)
  assert order.shape == (len(lengths) // batch_size, batch_size)
  assert len(np.unique(order)) == order.size
  assert np.all((order >= 0) & (order < max(1, len(lengths))))
  np.testing.assert_array_equal(order, again)


def test_a_window_over_all_sorts_by_length_and_shuffles_batches():
  lengths = np.random.RandomState(0).permutation(400)
  order = epoch_order(lengths, 20, np.random.default_rng(0), 20)
  spread = np.ptp(lengths[order], axis=1)
  assert np.all(spread == 19)  # each batch holds neighbours
  first = lengths[order].min(axis=1)
  assert not np.all(np.diff(first) > 0)


def test_a_window_of_one_batch_is_a_plain_shuffle_and_seeds_differ():
  lengths = np.arange(400)
  orders = [
    epoch_order(lengths, 20, np.random.default_rng(seed), 1) for seed in (0, 1)
  ]
  assert np.all(np.ptp(orders[0], axis=1) > 100)
  assert np.any(orders[0] != orders[1])
