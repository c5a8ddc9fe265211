"""The same text twice."""

from baseline_fixtures import (
  FakeTokenizer,
  check_pure,
  lengthy,
  shapes_of,
  view,
  words_of,
)
import numpy as np
import pytest

from lmtx_jax.baselines.simcse import SimCsePairs
from lmtx_jax.types import UserError

TOKENIZER = FakeTokenizer()
TEXTS = [f'text {"of " * (i % 4)}{i}' for i in range(13)]


def make(texts=TEXTS, batch_size=3, epochs=2, seed=(0, 4)):
  return SimCsePairs(
    view(TOKENIZER, texts), batch_size=batch_size, epochs=epochs, seed=seed
  )


def test_each_text_once_an_epoch_with_itself():
  pairs = make()
  assert pairs.num_pairs == 13
  assert pairs.num_steps == 2 * 4
  for epoch in range(2):
    seen = []
    for step in range(epoch * 4, epoch * 4 + 4):
      batch = pairs.batch(step)
      assert np.array_equal(batch['query_ids'], batch['passage_ids'])
      assert np.array_equal(batch['query_lengths'], batch['passage_lengths'])
      assert len(set(batch['passage_key'].tolist())) == 3
      assert (
        batch['accepted'].tolist() == batch['passage_key'][:, None].tolist()
      )
      seen += words_of(TOKENIZER, batch, 'query')
    assert len(seen) == len(set(seen)) == 12
    assert set(seen) <= set(TEXTS)


def test_it_is_pure():
  check_pure(make)


def test_empty_texts_are_left_out():
  pairs = make(['', 'one', '', 'two', ''], batch_size=2, epochs=3)
  assert pairs.num_pairs == 2
  for step in range(3):
    words = words_of(TOKENIZER, pairs.batch(step), 'query')
    assert sorted(words) == ['one', 'two']


@pytest.mark.parametrize('texts', [[], [''] * 5, ['', 'one', '']])
def test_one_text_has_no_negatives(texts):
  with pytest.raises(UserError) as e:
    make(texts)
  full = sum(map(bool, texts))
  assert f'{full} of {len(texts)} training documents' in str(e.value)


def test_few_shapes():
  inputs = lengthy(TOKENIZER, 600).view(200)
  pairs = SimCsePairs(inputs, batch_size=16, epochs=30, seed=(0,))
  assert 2 < len(shapes_of(pairs)) <= 48
  once = SimCsePairs(inputs, batch_size=16, epochs=1, seed=(0,))
  assert len(shapes_of(once)) < len(shapes_of(pairs))


def test_fewer_texts_than_a_batch_are_no_step():
  assert make(batch_size=14).num_steps == 0
