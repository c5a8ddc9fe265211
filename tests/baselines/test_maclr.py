"""Titles, contents without them, clusters, and what the regulariser reads."""

import collections

from baseline_fixtures import (
  FakeTokenizer,
  check_pure,
  documents,
  equal,
  lengthy,
  shapes_of,
  view,
  words_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax.baselines.maclr import MaclrPairs, clusters_at
from lmtx_jax.types import UserError


class Made:
  """Documents that name their titles, and labels."""

  def __init__(self, texts, num_labels=9):
    self.tokenizer = FakeTokenizer()
    self.texts = texts
    self.tokens = documents(self.tokenizer, texts)
    self.label_texts = [
      f'label {i}' + ' of' * (i % 3) for i in range(num_labels)
    ]
    self.labels = view(self.tokenizer, self.label_texts)

  def pairs(
    self,
    rate=0.9,
    batch_size=1,
    epochs=1,
    seed=(0, 4),
    caps=(99, 99),
    num_labels=4,
  ):
    return MaclrPairs(
      self.tokens,
      self.labels,
      self.tokenizer,
      max_title_tokens=caps[0],
      max_content_tokens=caps[1],
      removal_rate=rate,
      num_labels=num_labels,
      batch_size=batch_size,
      epochs=epochs,
      seed=seed,
    )

  def words(self, batch):
    return [
      words_of(self.tokenizer, batch, side)
      for side in ('query', 'passage', 'extra')
    ]


def named(doc, count):
  """A title, and sentences that name it."""
  title = ' '.join(f'd{doc}t{i}' for i in range(1 + doc % 3))
  parts = [f'd{doc}s{i} {title} is {title} .' for i in range(count)]
  return title, ' '.join(parts)


def without(title, sentence):
  return ' '.join(sentence.replace(title, '').split())


@settings(max_examples=60, deadline=None)
@given(
  st.lists(st.integers(2, 5), min_size=2, max_size=8),
  st.sampled_from([0.0, 0.5, 1.0]),
  st.integers(0, 9),
)
def test_each_sentence_loses_the_title_or_not(counts, rate, seed):
  texts = [named(i, count) for i, count in enumerate(counts)]
  made = Made(texts)
  pairs = made.pairs(rate, epochs=2, seed=(seed,))
  titles = []
  for step in range(pairs.num_steps):
    (title,), (content,), _ = made.words(pairs.batch(step))
    titles.append(title)
    whole = dict(texts)[title]
    of_sentence = [
      f'{part.strip()} .' for part in whole.split(' .') if part.strip()
    ]
    parts = [f'{p.strip()} .' for p in content.split(' .') if p.strip()]
    for part, sentence in zip(parts, of_sentence, strict=True):
      bare = without(title, sentence)
      assert part in {0.0: (sentence,), 1.0: (bare,)}.get(
        rate, (sentence, bare)
      )
  each = sorted(title for title, _ in texts)
  assert sorted(titles[: len(texts)]) == sorted(titles[len(texts) :]) == each


def test_sentences_lose_the_title_at_the_rate_each_for_itself():
  made = Made([named(i, 4) for i in range(40)])
  seen = collections.Counter()
  pairs = made.pairs(0.7, batch_size=8, epochs=40)
  for step in range(pairs.num_steps):
    titles, contents, _ = made.words(pairs.batch(step))
    for title, content in zip(titles, contents, strict=True):
      kept = [title in part for part in content.split(' .')[:4]]
      seen[tuple(kept)] += 1
  total = seen.total()
  for place in range(4):
    kept = sum(n for marks, n in seen.items() if marks[place])
    assert 0.27 < kept / total < 0.33
  assert abs(seen[True, True, False, False] / total - 0.3**2 * 0.7**2) < 0.02


@pytest.mark.parametrize(
  ('title', 'content', 'left'),
  [
    ('cat', 'the cat ##s ran . cat', 'the cat ##s ran .'),  # whole words
    ('u . s', 'in u . s law . so u . s', 'in law . so'),  # dots in the title
    ('why ? so', 'he asked why ? so we went', 'he asked we went'),  # over ends
    ('so so', 'but so so so . or', 'but . or'),  # overlapping
    ('one .', 'one . one .', 'one . one .'),  # nothing else is in it
    ('cat', 'one . two', 'one . two'),
  ],
)
def test_what_is_taken_out(title, content, left):
  made = Made([(title, content), ('other', 'one . two')])
  pairs = made.pairs(1.0, batch_size=2)
  titles, contents, _ = made.words(pairs.batch(0))
  assert dict(zip(titles, contents, strict=True)) == {
    title: left, 'other': 'one . two'
  }  # fmt: skip


def test_it_is_pure():
  made = Made([named(i, 3) for i in range(13)])
  check_pure(
    lambda seed=(0, 4): made.pairs(0.5, batch_size=3, epochs=2, seed=seed)
  )


def test_long_texts_are_cut():
  """After the title is taken out, so that more of the rest fits."""
  long = ' '.join(f't{i}' for i in range(30))
  texts = [(long, f'aa {long} bb cc . dd'), ('short', 'short short ee . ff')]
  made = Made(texts)
  pairs = made.pairs(1.0, batch_size=2, caps=(5, 6))
  titles, contents, extra = made.words(pairs.batch(0))
  assert dict(zip(titles, contents, strict=True)) == {
    't0 t1 t2': 'aa bb cc .', 'short': 'ee . ff'
  }  # fmt: skip
  assert extra[:2] == titles
  assert all(len(label.split()) <= 3 for label in extra[2:])


def test_extra_passages_are_the_titles_and_random_labels():
  made = Made([named(i, 2) for i in range(12)])
  pairs = made.pairs(batch_size=4, epochs=40)
  pairs = pairs.with_clusters(np.arange(12, dtype=np.int32) // 3)
  drawn = collections.Counter()
  for step in range(pairs.num_steps):
    batch = pairs.batch(step)
    titles, _, extra = made.words(batch)
    assert extra[:4] == titles
    assert len(set(extra[4:])) == len(extra[4:]) == 4
    assert set(extra[4:]) <= set(made.label_texts)
    drawn.update(extra[4:])
    keys = batch['extra_key'].tolist()
    assert len(set(keys)) == 8
    assert min(keys) >= 12  # no document's
  assert len(drawn) == 9
  assert min(drawn.values()) > 120 * 4 / 9 / 2


@pytest.mark.parametrize(('have', 'want'), [(2, 4), (9, 0), (1, 1)])
def test_fewer_labels_than_are_wanted(have, want):
  made = Made([named(i, 2) for i in range(6)], num_labels=have)
  batch = made.pairs(batch_size=2, num_labels=want).batch(0)
  extra = made.words(batch)[2]
  assert len(extra) == len(batch['extra_key']) == 2 + want
  assert set(extra[2:]) <= set(made.label_texts)


def test_positives_are_of_one_cluster():
  texts = [named(i, 2) for i in range(12)]
  made = Made(texts)
  number = {title: i for i, (title, _) in enumerate(texts)}
  clusters = np.array([5, 5, 5, 2, 2, 2, 7, 7, 0, 0, 0, 0], np.int32)
  alone = made.pairs(batch_size=6, epochs=4)
  together = alone.with_clusters(clusters)
  assert together.num_steps == alone.num_steps == 8
  for step in range(8):
    for pairs, key_of in ((alone, np.arange(12)), (together, clusters)):
      batch = pairs.batch(step)
      docs = [number[title] for title in made.words(batch)[0]]
      keys = batch['passage_key']
      assert keys.dtype == batch['accepted'].dtype == np.int32
      assert keys.tolist() == key_of[docs].tolist()
      assert batch['accepted'].tolist() == [[k, -1] for k in keys.tolist()]
    # Nothing else changes, so nothing is compiled anew.
    same = alone.batch(step) | {
      name: batch[name] for name in ('passage_key', 'accepted')
    }
    assert equal(same, together.batch(step))


def test_untitled_documents_and_single_sentences_are_left_out(caplog):
  texts = [named(i, 1 + i % 3) for i in range(9)]
  texts += [('', 'aa . bb . cc'), ('', ''), ('empty', '')]
  with caplog.at_level('INFO', 'absl'):
    pairs = Made(texts).pairs(epochs=2)
  assert pairs.num_pairs == 6
  assert 'of 12 documents 2 have no title, and 4 others' in caplog.text
  made = Made(texts)
  clusters = np.zeros(12, np.int32)
  for step in range(pairs.num_steps):
    (title,), _, _ = made.words(pairs.with_clusters(clusters).batch(step))
    assert int(title[1]) % 3


@pytest.mark.parametrize(
  ('texts', 'untitled', 'few'),
  [
    ([('', 'aa . bb')] * 5, 5, 0),
    ([('a', 'bb'), ('', 'cc . dd'), ('a', 'ee . ff'), ('a', '')], 1, 2),
    ([], 0, 0),
  ],
)
def test_too_few_are_left(texts, untitled, few):
  with pytest.raises(UserError) as e:
    Made(texts).pairs()
  message = str(e.value)
  assert f'of {len(texts)} training documents {untitled} have no' in message
  assert f'and {few} others fewer than two sentences' in message
  assert '--method=ict' in message and '--method=simcse' in message
  assert '\n' not in message


def test_few_shapes():
  tokenizer = FakeTokenizer()
  tokens = lengthy(tokenizer, 600)
  labels = view(tokenizer, ['l' + ' of' * (i % 30) for i in range(200)])

  def make(epochs):
    return MaclrPairs(
      tokens,
      labels,
      tokenizer,
      max_title_tokens=24,
      max_content_tokens=160,
      removal_rate=0.9,
      num_labels=4,
      batch_size=16,
      epochs=epochs,
      seed=(0,),
    )

  once, often = make(1), make(30)
  assert len(shapes_of(once)) < len(shapes_of(often)) <= 24
  slots, used = 0, 0
  for step in range(37):
    batch = often.batch(step)
    slots += batch['passage_ids'].size
    used += int(batch['passage_lengths'].sum())
    # The longest label may be wider than any title is.
    assert batch['extra_ids'].shape[1] == batch['query_ids'].shape[1] <= 24
  assert used / slots > 0.8


@pytest.mark.parametrize(
  ('step', 'count'),
  [(0, 25), (9, 25), (10, 50), (29, 100), (30, None), (999, None)],
)
def test_the_schedule_of_clusters(step, count):
  assert clusters_at(step, (25, 50, 100), 10) == count
