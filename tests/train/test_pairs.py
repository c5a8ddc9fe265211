"""Which pairs a step trains on."""

import collections
import itertools
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from train_fixtures import SPECIAL, make_task, view

from lmtx_jax.data.batches import bucket_widths
from lmtx_jax.data.tokens import Special, Tokens
from lmtx_jax.train.pair_shapes import pair_shapes, shape_of
from lmtx_jax.train.pair_source import MOST_WIDTHS
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.self_supervised_pairs import (
  SelfSupervisedPairs,
  word_starts,
)
from lmtx_jax.types import Ragged


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def rows_of(batch, side):
  """Token ids without the special ones, as tuples."""
  ids, lengths = batch[f'{side}_ids'], batch[f'{side}_lengths']
  return [
    tuple(row[1 : n - 1].tolist()) for row, n in zip(ids, lengths, strict=True)
  ]


def check_layout(batch, size):
  for side in ('query', 'passage'):
    ids, lengths = batch[f'{side}_ids'], batch[f'{side}_lengths']
    assert ids.dtype == lengths.dtype == np.int32
    assert len(ids) == len(lengths) == size
    assert np.all(lengths <= ids.shape[1])
  assert batch['passage_key'].shape == (size,)
  assert batch['passage_key'].dtype == batch['accepted'].dtype == np.int32
  # The passage of a query is never a negative of it.
  assert np.all(
    (batch['accepted'] == batch['passage_key'][:, None]).any(axis=1)
  )


# --- pseudo labels -----------------------------------------------------------

TASK = make_task(23)
LABEL_OF = {  # by its words; of labels of equal text, the key
  tuple(TASK.labels.values[start : start + 2].tolist()): int(key)
  for key, start in zip(TASK.label_key, TASK.labels.starts, strict=True)
}


def pseudo_pairs(accepted=TASK.accepted, batch_size=4, epochs=6, seed=(0, 3)):
  return PseudoLabelPairs(
    TASK.documents,
    TASK.labels,
    accepted,
    TASK.label_key,
    batch_size=batch_size,
    epochs=epochs,
    seed=seed,
  )


def document_of(words):
  (found,) = [
    d
    for d, start in enumerate(TASK.documents.starts)
    if tuple(TASK.documents.values[start : start + len(words)]) == words
    and TASK.documents.sizes[d] == len(words)
  ]
  return found


def test_a_step_has_one_batch_in_whatever_order_it_is_asked_for():
  pairs = pseudo_pairs()
  in_order = [pairs.batch(step) for step in range(pairs.num_steps)]
  for step in np.random.RandomState(0).permutation(pairs.num_steps):
    assert equal(pseudo_pairs().batch(step), in_order[step])
    assert equal(pairs.batch(step), in_order[step])
  other = pseudo_pairs(seed=(1, 3))
  assert not equal(other.batch(0), in_order[0])
  assert not equal(in_order[0], in_order[pairs.num_steps // 6])


def test_each_document_once_an_epoch_with_an_accepted_label():
  pairs = pseudo_pairs()
  assert pairs.num_steps == 6 * (23 // 4)
  for epoch in range(6):
    seen = []
    for step in range(epoch * 5, epoch * 5 + 5):
      batch = pairs.batch(step)
      check_layout(batch, 4)
      docs = [document_of(words) for words in rows_of(batch, 'query')]
      seen += docs
      labels = [LABEL_OF[words] for words in rows_of(batch, 'passage')]
      for place, (doc, label) in enumerate(zip(docs, labels, strict=True)):
        keys = set(TASK.label_key[TASK.accepted[doc]].tolist())
        assert label in keys
        assert batch['passage_key'][place] == label
        assert set(batch['accepted'][place].tolist()) == keys | {-1}
    assert len(seen) == len(set(seen)) == 20


def test_every_accepted_label_is_drawn_about_equally_often():
  accepted = Ragged.from_rows([[3, 5, 7]] + [[2]] * 3 + [[]] * 19)
  pairs = pseudo_pairs(accepted, epochs=600)
  drawn = collections.Counter()
  for step in range(pairs.num_steps):
    batch = pairs.batch(step)
    for query, key in zip(
      rows_of(batch, 'query'), batch['passage_key'].tolist(), strict=True
    ):
      drawn[document_of(query), key] += 1
  assert sum(drawn[d, 2] for d in (1, 2, 3)) == 1800
  assert all(150 < drawn[0, label] < 250 for label in (3, 5, 7))


def test_labels_of_equal_text_have_equal_keys():
  """Label 1 has the text of label 0, so neither is the other's negative."""
  accepted = Ragged.from_rows([[0], [1], [0, 1], [4]] + [[]] * 19)
  batch = pseudo_pairs(accepted, epochs=1).batch(0)
  docs = [document_of(words) for words in rows_of(batch, 'query')]
  masked = (batch['accepted'][:, :, None] == batch['passage_key']).any(axis=1)
  for a, b in itertools.product(range(4), repeat=2):
    assert masked[a, b] == ((docs[a] == 3) == (docs[b] == 3))


def test_documents_without_a_yes_never_appear():
  accepted = Ragged.from_rows([[d] if d % 3 else [] for d in range(23)])
  pairs = pseudo_pairs(accepted, batch_size=5, epochs=2)
  assert pairs.num_steps == 2 * 3
  for step in range(pairs.num_steps):
    docs = [document_of(w) for w in rows_of(pairs.batch(step), 'query')]
    assert all(doc % 3 for doc in docs)


@pytest.mark.parametrize('yeses', [0, 1, 3])
def test_fewer_documents_than_a_batch_are_no_step(yeses):
  accepted = Ragged.from_rows([[1]] * yeses + [[]] * (23 - yeses))
  assert pseudo_pairs(accepted).num_steps == 0


def test_shapes_do_not_depend_on_the_cycle():
  def shapes(accepted):
    pairs = pseudo_pairs(accepted, batch_size=2)
    return {
      tuple(x.shape for x in pairs.batch(step).values())
      for step in range(pairs.num_steps)
    }

  few = Ragged.from_rows([[1], [2], [3]] + [[]] * 20)
  assert shapes(few) <= shapes(TASK.accepted)
  assert len(shapes(TASK.accepted)) <= 2


def many_documents(num_docs=20_000, words_a_token=0.7, seed=0):
  """Titles and contents of lengths as they are found, of random tokens."""
  rng = np.random.default_rng(seed)
  titles = rng.integers(3, 15, num_docs)
  contents = np.clip(rng.lognormal(4.6, 0.8, num_docs), 0, 400).astype(int)
  offsets = np.concatenate([[0], np.cumsum(titles + contents)])
  values = rng.integers(3, 1000, offsets[-1]).astype(np.uint16)
  starts_word = rng.random(1000) < words_a_token
  return Tokens(Ragged(values, offsets), titles, SPECIAL), starts_word


def waste_and_shapes(pairs):
  """Share of the token slots of an epoch that hold no token; what is compiled.

  That is a program for each shape of queries, and for each of passages.
  """
  tokens, slots, shapes = 0, 0, set()
  for step in range(min(pairs.num_steps, pairs.num_pairs // pairs.batch_size)):
    batch = pairs.batch(step)
    sides = [x for name, x in batch.items() if name.endswith('_ids')]
    slots += sum(ids.size for ids in sides)
    for name, lengths in batch.items():
      tokens += int(lengths.sum()) if name.endswith('_lengths') else 0
    shapes.add(('query', batch['query_ids'].shape))
    shapes |= {
      ('passage', ids.shape) for ids in sides if ids is not batch['query_ids']
    }
  return 1 - tokens / slots, shapes


def test_the_longer_a_training_the_less_padding():
  tokens, _ = many_documents(8000)
  labels = view([[1] * 8] * 50)
  accepted = Ragged.from_rows([[d % 50] for d in range(8000)])

  def measure(epochs):
    return waste_and_shapes(
      PseudoLabelPairs(
        tokens.view(430),
        labels,
        accepted,
        np.arange(50, dtype=np.int32),
        batch_size=64,
        epochs=epochs,
        seed=(0, 3),
      )
    )

  once, often = measure(1), measure(50)
  assert often[0] < 0.05
  assert len(often[1]) <= 48
  assert often[0] < once[0] < 0.15
  assert len(once[1]) < len(often[1])


def label_lengths(num_labels=2000):
  """Of titles as they are found: most are short."""
  draw = np.random.default_rng(1).lognormal(1.2, 0.5, num_labels)
  return np.clip(draw.astype(int), 1, 14)


@pytest.mark.parametrize(
  ('log_mean', 'cut', 'batch_size', 'num_docs', 'most'),
  [
    (6.0, 128, 64, 2000, 0.05),  # most are cut
    (6.9, 450, 128, 4000, 0.05),
    (4.6, 430, 128, 20_000, 0.09),  # few are
  ],
)
def test_cycles_of_one_epoch_have_little_padding(
  log_mean, cut, batch_size, num_docs, most
):
  """Three cycles share the shapes, whatever documents have a label."""
  lengths = np.random.default_rng(0).lognormal(log_mean, 0.8, num_docs)
  lengths = np.clip(lengths.astype(int), 1, cut - 2)
  documents = view([np.ones(n, np.int64) for n in lengths])
  labels, shapes = view([[1] * n for n in label_lengths()]), set()
  for cycle in range(3):
    draw = np.random.default_rng(cycle)
    accepted = Ragged.from_rows(
      [[draw.integers(2000)] * (draw.random() < 0.85) for _ in range(num_docs)]
    )
    pairs = PseudoLabelPairs(
      documents,
      labels,
      accepted,
      np.arange(2000, dtype=np.int32),
      batch_size=batch_size,
      epochs=1,
      seed=(0, 3, cycle),
      trainings=3,
    )
    waste, found = waste_and_shapes(pairs)
    assert waste < most
    shapes |= found
  of_documents = {shape for shape in shapes if shape[0] == 'query'}
  assert len(of_documents) <= MOST_WIDTHS
  assert len(shapes - of_documents) <= 16


# --- self-supervised ---------------------------------------------------------

# A document: tokens of the title, and of each word of the content; 0 is one
# punctuation mark, which begins no word.
DOC = st.tuples(
  st.integers(0, 3), st.lists(st.sampled_from([1, 1, 1, 2, 3, 0]), max_size=40)
)
DOCS = st.lists(DOC, min_size=1, max_size=6)
WORDS = st.sampled_from([(2, 2), (2, 5), (3, 4), (5, 9), (4, 16)])


class Made:
  """Documents in which every token is another one, and how they were made."""

  def __init__(self, docs, num_labels=2):
    self.starts_word = np.zeros(4096, bool)
    self._next = 3
    self.titles = [self._words([1] * title) for title, _ in docs]
    self.contents = [self._words(words) for _, words in docs]
    self.labels = [self._words([1, 1]) for _ in range(num_labels)]
    rows = [a + b for a, b in zip(self.titles, self.contents, strict=True)]
    sizes = np.array([len(title) for title in self.titles])
    self.tokens = Tokens(Ragged.from_rows(rows), sizes, SPECIAL)

  def _words(self, sizes):
    out = ()
    for size in sizes:
      word = tuple(range(self._next, self._next + max(1, size)))
      self._next += len(word)
      self.starts_word[word[0]] = size > 0
      out += word
    return out

  def pairs(
    self,
    words=(2, 4),
    batch_size=1,
    epochs=1,
    max_tokens=400,
    seed=0,
    with_contents=True,
  ):
    return SelfSupervisedPairs(
      self.tokens,
      view(self.labels),
      self.starts_word,
      max_tokens=max_tokens,
      min_words=words[0],
      max_words=words[1],
      batch_size=batch_size,
      epochs=epochs,
      seed=(seed, 2),
      with_contents=with_contents,
    )

  def count_words(self, tokens):
    return int(self.starts_word[list(tokens)].sum())

  def from_first_word(self, tokens):
    """Without the punctuation before the first word."""
    words = [i for i, token in enumerate(tokens) if self.starts_word[token]]
    return tokens[words[0] :] if words else ()


def drawn(pairs):
  """All (query, passage) of the steps."""
  out = []
  for step in range(pairs.num_steps):
    batch = pairs.batch(step)
    check_layout(batch, pairs.batch_size)
    out += zip(rows_of(batch, 'query'), rows_of(batch, 'passage'), strict=True)
  return out


def check_windows(made, content, windows, low, high):
  """Windows of one document lie side by side, each long enough."""
  windows = sorted(windows)
  assert sum(windows, ()) == made.from_first_word(content)
  assert all(made.starts_word[window[0]] for window in windows)
  counts = [made.count_words(window) for window in windows]
  assert all(low <= count <= high for count in counts[:-1])
  if len(counts) > 1:
    assert low / 2 <= counts[-1] < high + low / 2
  elif counts:
    assert counts[0] < high + low / 2


@settings(max_examples=20, deadline=None)
@given(DOCS, WORDS)
def test_without_contents_all_other_pairs_stay(docs, words):
  made = Made(docs)
  found = collections.Counter(drawn(made.pairs(words)))
  found -= collections.Counter(drawn(made.pairs(words, with_contents=False)))
  assert found == collections.Counter(
    (title, content)
    for title, content in zip(made.titles, made.contents, strict=True)
    if title and content
  )


@settings(max_examples=80, deadline=None)
@given(DOCS, WORDS, st.integers(0, 99))
def test_pairs_of_every_kind(docs, words, seed):
  made = Made(docs)
  found = collections.Counter(drawn(made.pairs(words, seed=seed)))
  for label in made.labels:
    assert found.pop((label, label)) == 1
  for title, content in zip(made.titles, made.contents, strict=True):
    between = collections.Counter()
    for query, passage in list(found):
      if set(query) <= set(content) and content:
        between[query, passage] = found.pop((query, passage))
    if title:
      mine = collections.Counter()
      for query, passage in list(found):
        if query == title:
          mine[passage] = found.pop((query, passage))
      mine[title] -= 1
      if content:
        mine[content] -= 1
      windows = list(mine.elements())
      assert min(mine.values()) >= 0
      assert len(windows) == len(set(windows))
      check_windows(made, content, windows, *words)
      check_between(between, windows)
    elif between:
      windows = {window for pair in between for window in pair}
      check_windows(made, content, windows, *words)
      check_between(between, list(windows))
  assert not found


def check_between(between, windows):
  """Each segment once; one that is left over, with segment 0."""
  assert between.total() == (-(-len(windows) // 2) if len(windows) > 1 else 0)
  if not between:
    return
  left_over = []
  if len(windows) % 2:
    left_over = [min(windows)]
    assert any(passage == min(windows) for _, passage in between)
  flat = [window for pair in between.elements() for window in pair]
  assert sorted(flat) == sorted(windows + left_over)


def test_windows_are_drawn_anew_each_epoch_and_purely():
  made = Made([(2, [1] * 40)] * 8)
  pairs = made.pairs(batch_size=4, epochs=3)
  per_epoch = pairs.num_steps // 3
  batches = [pairs.batch(step) for step in range(pairs.num_steps)]
  for step in np.random.RandomState(0).permutation(pairs.num_steps):
    fresh = made.pairs(batch_size=4, epochs=3)
    assert equal(fresh.batch(step), batches[step])
    assert equal(pairs.batch(step), batches[step])

  def windows(epoch):
    part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
    return {row for batch in part for row in rows_of(batch, 'passage')}

  assert windows(0) != windows(1) != windows(2)


@pytest.mark.parametrize('seed', range(8))
def test_an_epoch_short_of_pairs_is_filled_up_with_pairs_of_its_own(seed):
  """Each epoch has as many steps as the first, whatever its windows are."""
  made = Made([(1, [1] * 30)], num_labels=1)
  first = made.pairs((2, 9), seed=seed)
  batch_size = first.num_steps  # the first epoch is exactly one batch
  pairs = made.pairs((2, 9), batch_size, epochs=6, seed=seed)
  assert pairs.num_steps == 6
  (title,), (label,) = made.titles, made.labels
  for step in range(6):
    batch = pairs.batch(step)
    check_layout(batch, batch_size)
    sides = rows_of(batch, 'query'), rows_of(batch, 'passage')
    found = set(zip(*sides, strict=True))
    assert {(title, title), (label, label)} & found
    assert len(found) > batch_size // 3


@pytest.mark.parametrize(
  ('docs', 'kinds'),
  [
    ([(0, [])] * 3, 0),  # all empty: labels alone
    ([(2, [])] * 3, 3),  # title, title
    ([(0, [1])] * 3, 0),  # one window has no other to go with
    ([(1, [1])] * 3, 9),  # title with title, content and window
    ([(1, [0, 0])] * 3, 6),  # no word in it, no window
  ],
)
def test_short_documents(docs, kinds):
  assert len(drawn(Made(docs).pairs())) == 2 + kinds


def test_nothing_to_pair_is_no_step():
  assert Made([(0, [])] * 3, num_labels=0).pairs(batch_size=2).num_steps == 0


def test_long_texts_are_cut():
  made = Made([(3, [3] * 40)])
  for query, passage in drawn(made.pairs((20, 30), max_tokens=12)):
    assert len(query) <= 10 and len(passage) <= 10
  assert (made.titles[0], made.contents[0][:10]) in drawn(
    made.pairs((20, 30), max_tokens=12)
  )


def test_what_begins_a_word():
  class Vocabulary:
    def get_vocab(self):
      return {'[PAD]': 0, 'cat': 1, '##s': 2, '-': 3, '7': 4, 'é': 5, '中': 7}

  assert word_starts(Vocabulary()).tolist() == [
    False, True, False, False, True, True, False, True
  ]  # fmt: skip


def test_special_tokens_frame_both_sides():
  special = Special(first=1, last=2, pad=0)
  batch = Made([(2, [1, 1])]).pairs(batch_size=2).batch(0)
  for side in ('query', 'passage'):
    ids, lengths = batch[f'{side}_ids'], batch[f'{side}_lengths']
    assert np.all(ids[:, 0] == special.first)
    assert np.all(ids[np.arange(2), lengths - 1] == special.last)


def warm_up(tokens, starts_word, epochs=1):
  return SelfSupervisedPairs(
    tokens,
    view([[1] * 8] * 50),
    starts_word,
    max_tokens=128,
    min_words=80,
    max_words=160,
    batch_size=64,
    epochs=epochs,
    seed=(0, 2),
  )


def test_pairs_are_padded_by_both_sides():
  tokens, starts_word = many_documents(4000)
  waste, shapes = waste_and_shapes(warm_up(tokens, starts_word, epochs=20))
  assert waste < 0.1
  assert len(shapes) <= 48
  _, few = waste_and_shapes(warm_up(tokens, starts_word))
  assert len(few) < len(shapes)


def test_no_token_is_held_in_memory():
  tokens, starts_word = many_documents()
  tracemalloc.start()
  try:
    pairs = warm_up(tokens, starts_word)
    held, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  size = tokens.ids.values.nbytes
  assert pairs.num_steps > 100
  assert held < size / 100
  assert peak < 6 * size  # of a block, and of the spans


LENGTHS = st.lists(
  st.tuples(st.integers(2, 64), st.integers(2, 64)), min_size=1, max_size=30
)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_shapes_are_made_of_the_widths_of_each_side(lengths, max_shapes):
  query, passage = np.array(lengths).T
  make = lambda count: pair_shapes(  # noqa: E731
    query, passage, 64, count, waste=0.0, min_saved=0.0
  )
  shapes, one = make(max_shapes), make(1)
  assert one.tolist() == [[64, 64]]
  for used, side in zip(shapes.T, (query, passage), strict=True):
    widths = bucket_widths(side, 64, max_shapes, waste=0.0, min_saved=0.0)
    assert set(used) <= set(widths)
  cost = lambda found: found[shape_of(query, passage, found)].sum()  # noqa: E731
  assert cost(shapes) <= cost(one)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_a_pair_gets_the_cheapest_shape_that_holds_it(lengths, max_shapes):
  query, passage = np.array(lengths).T
  shapes = pair_shapes(query, passage, 64, max_shapes, waste=0.0, min_saved=0.0)
  assert [64, 64] in shapes.tolist()
  assert len(shapes) <= max_shapes
  for q, p in [*lengths, (64, 2), (64, 64)]:
    fitting = [sum(s) for s in shapes.tolist() if q <= s[0] and p <= s[1]]
    assert shapes[shape_of(q, p, shapes)].sum() == min(fitting)
  few = pair_shapes(query, passage, 64, 5, waste=0.0, min_saved=1e9)
  assert few.tolist() == [[64, 64]]
