"""Bucket widths, batches to embed, and the order of an epoch."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from lmtx_jax.data.batches import (
  allowed_widths,
  bucket_widths,
  encode_batches,
  epoch_order,
  width_of,
)

LENGTHS = st.lists(st.integers(2, 64), max_size=30)


def padded_tokens(lengths, widths):
  return sum(width_of(length, np.asarray(widths)) for length in lengths)


def waste(lengths, slots):
  """Share of the token slots that hold no token."""
  return 1 - np.sum(lengths) / slots


def documents(num_docs):
  """Lengths of documents as they are found: skewed, the longest cut."""
  draw = np.random.default_rng(0).lognormal(4.6, 0.8, num_docs)
  return np.clip(draw.astype(np.int64), 3, 430)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 72), max_size=30), st.integers(1, 3))
def test_widths_waste_no_more_than_the_best_choice(lengths, max_buckets):
  widths = bucket_widths(
    np.array(lengths, np.int64), 72, max_buckets, waste=0.0, min_saved=0.0
  )
  best = min(
    padded_tokens(lengths, [*some, 72])
    for count in range(max_buckets)
    for some in itertools.combinations(allowed_widths(72)[:-1], count)
  )
  assert padded_tokens(lengths, widths) == best


def test_widths_are_as_few_as_do():
  lengths = documents(20_000)
  for most in (0.2, 0.1, 0.05):
    widths = bucket_widths(lengths, 430, waste=most)
    assert waste(lengths, padded_tokens(lengths, widths)) <= most
    fewer = bucket_widths(lengths, 430, len(widths) - 1, waste=0.0)
    assert len(fewer) == len(widths) - 1
    assert waste(lengths, padded_tokens(lengths, fewer)) > most
  assert len(bucket_widths(lengths[:40], 430)) < 5  # too few to compile for
  np.testing.assert_array_equal(bucket_widths(np.full(9, 430), 430), [430])


def test_a_corpus_is_embedded_with_little_padding_in_few_shapes():
  lengths = documents(20_000)
  widths = bucket_widths(lengths, 430)
  batches = list(encode_batches(lengths, widths, 16384, 1))
  slots = sum(batch.size * batch.width for batch in batches)
  assert waste(lengths, slots) < 0.05
  assert len({(b.size, b.width) for b in batches}) <= len(widths) + 1
  # Rows alone are no padding to speak of.
  assert sum(batch.size for batch in batches) < 1.005 * len(lengths)


def test_an_epoch_is_trained_on_with_little_padding():
  lengths = documents(40_000)
  widths = bucket_widths(lengths, 430, 24, waste=0.01, min_saved=0.0)
  order = epoch_order(
    np.searchsorted(widths, lengths), 64, np.random.default_rng(0)
  )
  slots = sum(64 * width_of(lengths[rows].max(), widths) for rows in order)
  assert waste(lengths[order.ravel()], slots) < 0.05


@given(LENGTHS, st.integers(3, 64), st.integers(1, 8))
def test_widths_ascend_to_the_longest(lengths, max_tokens, max_buckets):
  lengths = np.minimum(np.array(lengths, np.int64), max_tokens)
  widths = bucket_widths(lengths, max_tokens, max_buckets)
  assert widths[-1] == max_tokens
  assert len(widths) <= max_buckets
  assert np.all(np.diff(widths) > 0)
  assert set(widths) <= set(allowed_widths(max_tokens))
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
  # Of each width one size, but for the last batch.
  shapes = {(b.size, b.width) for b in batches[:-1]}
  assert len(shapes) == len({width for _, width in shapes}) <= len(widths)
  assert all(len(batch.rows) == batch.size for batch in batches[:-1])
  assert [b.width for b in batches] == sorted(
    (b.width for b in batches), reverse=True
  )


def test_a_few_rows_are_not_padded_to_a_full_batch():
  (batch,) = encode_batches(np.full(5, 10), np.array([16]), 16 * 1000, 1)
  assert batch.size == 8


@given(LENGTHS, st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_an_epoch_is_part_of_a_permutation(shapes, batch_size, seed):
  shapes = np.array(shapes, np.int64)
  order = epoch_order(shapes, batch_size, np.random.default_rng(seed))
  again = epoch_order(shapes, batch_size, np.random.default_rng(seed))
  assert order.shape == (len(shapes) // batch_size, batch_size)
  assert len(np.unique(order)) == order.size
  assert np.all((order >= 0) & (order < max(1, len(shapes))))
  np.testing.assert_array_equal(order, again)


def test_batches_hold_one_shape_and_come_in_any_order():
  shapes = np.random.RandomState(0).randint(0, 4, 400)
  order = epoch_order(shapes, 10, np.random.default_rng(0))
  spread = np.ptp(shapes[order], axis=1)
  assert np.count_nonzero(spread) <= 3  # a batch between two shapes
  assert not np.all(np.diff(shapes[order].min(axis=1)) >= 0)


def test_who_meets_in_a_batch_is_drawn_anew():
  shapes = np.random.RandomState(0).randint(0, 4, 400)
  orders = [
    epoch_order(shapes, 10, np.random.default_rng(seed)) for seed in (0, 1)
  ]
  met = [
    {(a, b) for rows in order for a in rows for b in rows if a < b}
    for order in orders
  ]
  assert len(met[0] & met[1]) < 0.3 * len(met[0])
