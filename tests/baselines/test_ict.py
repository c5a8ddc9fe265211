"""A sentence and the rest of its document."""

import collections
import tracemalloc

from baseline_fixtures import (
  FakeTokenizer,
  check_pure,
  documents,
  lengthy,
  shapes_of,
  words_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from lmtx_jax.baselines.ict import IctPairs
from lmtx_jax.types import UserError


def sentences(doc, count):
  """Sentences that occur nowhere else, the last without its dot."""
  return [
    ' '.join([f'd{doc}s{i}w{j}' for j in range(1 + (doc + i) % 4)] + ['.'])
    for i in range(count - 1)
  ] + [f'd{doc}end']


class Made:
  """Documents of some titles and numbers of sentences."""

  def __init__(self, docs):
    self.tokenizer = FakeTokenizer()
    self.titles = [
      ' '.join(f'd{i}t{j}' for j in range(size))
      for i, (size, _) in enumerate(docs)
    ]
    self.sentences = [
      sentences(i, count) if count else [] for i, (_, count) in enumerate(docs)
    ]
    self.texts = [
      (title, ' '.join(parts))
      for title, parts in zip(self.titles, self.sentences, strict=True)
    ]
    self.tokens = documents(self.tokenizer, self.texts)
    self.owner = {s: i for i, own in enumerate(self.sentences) for s in own}

  def pairs(self, rate=0.9, batch_size=1, epochs=1, seed=(0, 4), caps=(99, 99)):
    return IctPairs(
      self.tokens,
      self.tokenizer,
      max_query_tokens=caps[0],
      max_block_tokens=caps[1],
      removal_rate=rate,
      batch_size=batch_size,
      epochs=epochs,
      seed=seed,
    )

  def drawn(self, pairs):
    """(document, sentence, whether it was removed) of each pair of a step."""
    for step in range(pairs.num_steps):
      batch = pairs.batch(step)
      keys = batch['passage_key'].tolist()
      assert len(set(keys)) == pairs.batch_size
      assert batch['accepted'][:, 0].tolist() == keys
      found = []
      for query, passage in zip(
        words_of(self.tokenizer, batch, 'query'),
        words_of(self.tokenizer, batch, 'passage'),
        strict=True,
      ):
        doc = self.owner[query]
        title, parts = self.titles[doc], self.sentences[doc]
        whole = ' '.join([title, *parts]).strip()
        rest = ' '.join([title, *(s for s in parts if s != query)]).strip()
        assert passage in (whole, rest)
        found.append((doc, query, passage == rest))
      yield found


DOCS = st.lists(
  st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=9
)


@settings(max_examples=60, deadline=None)
@given(DOCS, st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 9))
def test_a_sentence_and_its_document(docs, rate, seed):
  made = Made(docs)
  able = [i for i, (_, count) in enumerate(docs) if count >= 2]
  if len(able) < 2:
    with pytest.raises(UserError):
      made.pairs(rate)
    return
  pairs = made.pairs(rate, epochs=2, seed=(seed,))
  assert pairs.num_pairs == len(able)
  found = list(made.drawn(pairs))
  for epoch in (found[: len(able)], found[len(able) :]):
    assert sorted(doc for ((doc, *_),) in epoch) == able
  removed = {was for ((*_, was),) in found}
  assert removed == {0.0: {False}, 1.0: {True}}.get(rate, removed)


def test_rates_and_sentences_are_drawn_evenly():
  made = Made([(1, 4)] * 50)
  count = collections.Counter()
  for ((_, query, was),) in made.drawn(made.pairs(0.7, epochs=40)):
    count['removed'] += was
    count['last'] += query.endswith('end')
    count['first'] += 's0w0' in query
  assert 0.66 < count['removed'] / 2000 < 0.74
  assert 0.21 < count['last'] / 2000 < 0.29
  assert 0.21 < count['first'] / 2000 < 0.29


def test_it_is_pure():
  made = Made([(1, 2 + i % 4) for i in range(13)])
  check_pure(
    lambda seed=(0, 4): made.pairs(0.5, batch_size=3, epochs=2, seed=seed)
  )


def test_long_texts_are_cut():
  """Where the sentence is taken out of the block, more of the rest fits."""
  made = Made([(2, 9), (2, 9)])
  pairs = made.pairs(1.0, batch_size=2, epochs=20, caps=(4, 12))
  for step in range(pairs.num_steps):
    batch = pairs.batch(step)
    for query, passage in zip(
      words_of(made.tokenizer, batch, 'query'),
      words_of(made.tokenizer, batch, 'passage'),
      strict=True,
    ):
      (doc,) = {made.owner[s] for s in made.owner if s.startswith(query)}
      (own,) = [s for s in made.sentences[doc] if s.startswith(query)]
      rest = [s for s in made.sentences[doc] if s != own]
      words = ' '.join([made.titles[doc], *rest]).split()
      assert query == ' '.join(own.split()[:2])
      assert passage == ' '.join(words[:10])


@pytest.mark.parametrize(
  ('docs', 'few'),
  [([(1, 1)] * 5, 5), ([(1, 0), (1, 3), (0, 1)], 2), ([], 0)],
)
def test_documents_of_one_sentence_do_not_do(docs, few):
  with pytest.raises(UserError) as e:
    Made(docs).pairs()
  message = str(e.value)
  assert f'{few} of {len(docs)} training documents' in message
  assert '--method=simcse' in message and '--method=rts' in message
  assert '\n' not in message


def test_what_is_left_out_is_said(caplog):
  with caplog.at_level('INFO', 'absl'):
    Made([(1, 3), (0, 2), (1, 1), (1, 0)]).pairs()
  assert '2 of 4 documents' in caplog.text


def many_pairs(epochs, batch_size=16):
  return IctPairs(
    TOKENS,
    TOKENIZER,
    max_query_tokens=24,
    max_block_tokens=160,
    removal_rate=0.9,
    batch_size=batch_size,
    epochs=epochs,
    seed=(0,),
  )


def measure(epochs):
  pairs = many_pairs(epochs)
  slots, tokens = 0, 0
  for step in range(pairs.num_pairs // pairs.batch_size):
    batch = pairs.batch(step)
    for side in ('query', 'passage'):
      slots += batch[f'{side}_ids'].size
      tokens += int(batch[f'{side}_lengths'].sum())
  return 1 - tokens / slots, shapes_of(pairs)


TOKENIZER = FakeTokenizer()
TOKENS = lengthy(TOKENIZER, 600)


def test_few_shapes_that_waste_little():
  once, often = measure(1), measure(30)
  assert len(once[1]) < len(often[1]) <= 48
  assert often[0] < once[0] < 0.5
  assert often[0] < 0.2


def test_the_shape_that_holds_all_is_no_wider_than_it_must_be():
  batch = many_pairs(1, batch_size=600).batch(0)
  assert batch['query_ids'].shape[1] <= 24
  assert batch['passage_ids'].shape[1] == 160


def test_no_token_is_held_in_memory():
  tokenizer = FakeTokenizer()
  tokens = lengthy(tokenizer, 4000)
  tracemalloc.start()
  try:
    pairs = IctPairs(
      tokens,
      tokenizer,
      max_query_tokens=64,
      max_block_tokens=288,
      removal_rate=0.9,
      batch_size=16,
      epochs=1,
      seed=(0,),
    )
    held, _ = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert pairs.num_steps == 250
  assert held < tokens.ids.values.nbytes / 4
