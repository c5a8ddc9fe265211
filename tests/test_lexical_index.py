"""Labels found by words, against scikit-learn."""

import json
import os
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from label_fixtures import label_corpus
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lmtx_jax import hashed_words, lexical_index, word_search
from lmtx_jax.data.corpus import Texts
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.types import Ragged, UserError


def made(texts):
  return Texts(label_corpus([('', text) for text in texts]), lambda r: r.title)


def build(labels, documents):
  return LexicalIndex.build(made(labels), made(documents))


def search(index, documents, filters=None, k=2):
  filters = Ragged.from_rows(filters or [[]] * len(documents))
  found = index.search(made(documents), filters, k)
  assert found.labels.dtype == np.int32 and found.scores.dtype == np.float32
  assert found.labels.shape == found.scores.shape == (len(documents), k)
  assert np.array_equal(found.labels < 0, np.isneginf(found.scores))
  return found


def exact(labels, documents, counted=None):
  """`[num_docs, num_labels]` cosines over the words that labels have."""
  vectorizer = TfidfVectorizer(sublinear_tf=True)
  vectorizer.fit(counted or [*labels, *documents])
  of_labels = vectorizer.transform(labels).toarray()
  of_docs = vectorizer.transform(documents).toarray()
  of_docs *= of_labels.any(axis=0)
  norms = np.linalg.norm(of_docs, axis=1, keepdims=True)
  return of_docs / np.maximum(norms, 1e-9) @ of_labels.T


def same(a, b):
  """Whether two indices hold the same, bit by bit."""
  return (
    np.array_equal(a.words, b.words)
    and np.array_equal(a.counts.hashes, b.counts.hashes)
    and np.array_equal(a.counts.num_with, b.counts.num_with)
    and a.counts.num_texts == b.counts.num_texts
    and a.labels.shape == b.labels.shape
    and np.array_equal(a.labels.indptr, b.labels.indptr)
    and np.array_equal(a.labels.indices, b.labels.indices)
    and np.array_equal(a.labels.data, b.labels.data)
  )


LABELS = ['fishing quota', 'milk', 'quota of milk', 'I 5', 'milk']
WORD = st.sampled_from(['aa', 'bb', 'cc', 'dd', 'ee', 'x', 'Bb', 'été'])
TEXTS = st.lists(st.lists(WORD, max_size=7).map(' '.join), max_size=8)


def small_blocks(patch):
  patch.setattr(hashed_words, 'BLOCK', 2)
  patch.setattr(hashed_words, '_MAX_PENDING', 3)
  patch.setattr(lexical_index, 'BLOCK', 3)
  patch.setattr(lexical_index, '_MAX_ENTRIES', 2)
  patch.setattr(word_search, '_QUERY_BLOCK', 2)
  patch.setattr(word_search, '_GROUPS', 2)
  patch.setattr(word_search, '_GROUP', 2)


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 12), st.integers(0, 9), st.booleans())
def test_as_scikit_learn_has_it(labels, documents, k, seed, small):
  labels, documents = ['aa', 'zz aa aa', *labels], ['aa qq', *documents]
  cosine = exact(labels, documents)
  banned = np.random.default_rng(seed).random(cosine.shape) < 0.2
  filters = [np.flatnonzero(row) for row in banned]
  with pytest.MonkeyPatch.context() as patch:
    if small:
      small_blocks(patch)
    index = build(labels, documents)
    found = search(index, documents, filters, k)
    doc, label = np.indices(cosine.shape).reshape(2, -1)
    scores = index.scores(index.vectors(documents), doc, label)
  np.testing.assert_allclose(scores, cosine.ravel(), atol=1e-6)
  for row, mine, score in zip(
    np.where(banned, 0, cosine), found.labels, found.scores, strict=True
  ):
    real = mine >= 0
    assert len(set(mine[real].tolist())) == real.sum()
    assert real.sum() == min(k, np.count_nonzero(row > 1e-9))
    best = -np.sort(-row)[: real.sum()]
    np.testing.assert_allclose(row[mine[real]], best, atol=1e-6)
    np.testing.assert_allclose(score[real], best, atol=1e-6)


def test_right_labels_by_construction():
  documents = ['A quota of milk, in one year', 'fishing', '', '5 I', 'unknown']
  found = search(build(LABELS, documents), documents, k=5)
  assert found.labels.tolist() == [
    [2, 1, 4, 0, -1],
    [0, -1, -1, -1, -1],
    [-1] * 5,
    [-1] * 5,
    [-1] * 5,
  ]


def test_filters_are_never_given():
  documents = ['milk', 'milk', 'milk']
  filters = [[1], [0, 1, 2, 3, 4], []]
  found = search(build(LABELS, documents), documents, filters, 2)
  assert found.labels.tolist() == [[4, 2], [-1, -1], [1, 4]]


@pytest.mark.parametrize('small', [False, True])
def test_of_equal_scores_the_smaller_label(small):
  labels = ['other', *['milk cow', 'milk'] * 150]
  with pytest.MonkeyPatch.context() as patch:
    if small:
      small_blocks(patch)
    index = build(labels, ['milk'])
    found = search(index, ['milk', 'other', 'milk'], [[2], [], []], 160)
  milk = list(range(2, 301, 2))
  cow = list(range(1, 301, 2))
  assert found.labels[2].tolist() == [*milk, *cow[:10]]
  assert found.labels[0].tolist() == [*milk[1:], *cow[:11]]
  assert found.labels[1].tolist() == [0, *[-1] * 159]


def test_of_more_equal_groups_than_are_looked_at_the_first():
  labels = ['milk', *['none', 'none', 'milk cow', 'milk'] * 20, 'milk milk']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(word_search, '_GROUP', 2)
    found = search(build(labels, []), ['milk'], k=3)
    some = search(build(labels, []), ['milk', 'milk'], [[0], [0, 4, 8]], k=3)
  assert found.labels.tolist() == [[0, 4, 8]]
  assert some.labels.tolist() == [[4, 8, 12], [12, 16, 20]]


def test_words_that_no_text_had_weigh_most():
  index = build(LABELS, ['milk and fish'])
  hashed = lexical_index._HASHER.count(['new words of all the sorts are here'])
  new = np.setdiff1d(hashed.indices, index.counts.hashes)
  assert len(new) == 7  # `of` is known
  np.testing.assert_allclose(index.counts.idf(new), 1 + np.log(1 + 6))


def test_one_document_is_found_as_all_are():
  draw = np.random.default_rng(0)
  names = [f'w{i}' for i in range(40)]
  labels = [' '.join(draw.choice(names, 3)) for _ in range(1000)]
  documents = [' '.join(draw.choice(names, 9)) for _ in range(20)]
  index = build(labels, documents)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(word_search, '_QUERY_BLOCK', 8)
    patch.setattr(word_search, '_GROUPS', 2)
    found = search(index, documents, k=30)
  none = Ragged.from_rows([[]])
  for row, document in enumerate(documents):
    one = index.nearest(index.vectors([document]), none, 30)
    assert np.array_equal(one.labels[0], found.labels[row])
    assert np.array_equal(one.scores[0], found.scores[row])


@pytest.mark.parametrize('labels', [[], ['', 'x', '?']])
def test_labels_without_words(labels, tmp_path):
  index = build(labels, ['some words', ''])
  assert len(index) == len(labels)
  index.save(str(tmp_path))
  for each in (index, LexicalIndex.load(str(tmp_path))):
    assert search(each, ['some words', '']).labels.tolist() == [[-1, -1]] * 2
  assert search(index.with_labels([], ['words']), ['words']).labels[0, 0] == 0


def test_nothing_is_asked():
  index = build(LABELS, [])
  assert search(index, []).labels.shape == (0, 2)
  none = np.zeros(0, np.int64)
  assert index.scores(index.vectors([]), none, none).shape == (0,)
  assert index.vectors([]).shape == (0, len(index.words))


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.randoms(use_true_random=False))
def test_other_labels_are_as_if_built_with_the_same_counts(
  labels, documents, added, random
):
  labels = ['aa', *labels]
  index = build(labels, documents)
  kept = random.sample(range(len(labels)), random.randint(0, len(labels)))
  changed = index.with_labels(np.array(kept, np.int64), added)
  now = [labels[i] for i in kept] + added
  words, hashed = lexical_index._HASHER.count_all(made(now))
  weights = lexical_index._weigh(hashed, index.counts.idf(words))
  assert same(changed, LexicalIndex(index.counts, words, weights))
  assert len(index) == len(labels)  # the first is as it was


def test_a_new_label_has_the_weights_that_a_fit_would_give_it():
  """Words of documents are counted, though no label had them."""
  labels, documents = ['aa bb', 'cc'], ['dd ee', 'dd aa', 'dd', 'bb']
  index = build(labels, documents).with_labels([1], ['dd ee'])
  expected = exact(['cc', 'dd ee'], documents, [*labels, *documents])
  got = (index.vectors(documents) @ index.labels.T).toarray()
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_what_is_saved_is_loaded(tmp_path):
  index = build(LABELS, ['milk and fish', 'quota'])
  folder = str(tmp_path / 'lexical')
  index.save(folder)
  loaded = LexicalIndex.load(folder)
  assert same(loaded, index)
  documents = ['a quota of milk', 'fishing']
  a, b = (search(each, documents) for each in (index, loaded))
  assert np.array_equal(a.labels, b.labels)
  assert np.array_equal(a.scores, b.scores)
  changed = [i.with_labels([0, 2], ['fish']) for i in (index, loaded)]
  assert same(*changed)
  for file in os.listdir(folder):
    if file.endswith('.npy'):
      assert not np.load(f'{folder}/{file}', allow_pickle=False).dtype.hasobject


def cut(path):
  path.write_bytes(path.read_bytes()[:-3])


def other_type(path):
  np.save(path, np.load(path).astype(np.int64))


def too_short(path):
  np.save(path, np.load(path)[:-1])


def out_of_range(path):
  np.save(path, np.load(path) + np.int32(1000))


@pytest.mark.parametrize(
  ('file', 'spoil', 'match'),
  [
    ('words.npy', cut, 'words.npy is not a whole array'),
    ('label_offsets.npy', os.remove, 'label_offsets.npy is not a whole array'),
    ('label_words.npy', other_type, 'label_words.npy has shape'),
    ('label_weights.npy', too_short, 'do not agree'),
    ('texts_with_word.npy', too_short, 'do not agree'),
    ('label_words.npy', out_of_range, 'do not agree'),
    ('lexical.json', cut, 'lexical.json is not a whole lexical index'),
    ('lexical.json', os.remove, 'lexical.json is not a whole lexical index'),
  ],
)
def test_a_spoilt_folder_is_told(tmp_path, file, spoil, match):
  build(LABELS, ['milk']).save(str(tmp_path))
  spoil(tmp_path / file)
  with pytest.raises(UserError, match=match) as told:
    LexicalIndex.load(str(tmp_path))
  assert '\n' not in str(told.value)


def test_a_later_format_is_told(tmp_path):
  build(LABELS, ['milk']).save(str(tmp_path))
  path = tmp_path / 'lexical.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'format': 2}))
  with pytest.raises(UserError, match='has format 2'):
    LexicalIndex.load(str(tmp_path))


def test_a_common_word_needs_no_memory():
  draw = np.random.default_rng(0)
  labels = [f'common name{i}' for i in range(20_000)]
  owns = draw.integers(0, 20_000, 1000)
  documents = [f'common words of name{i}' for i in owns]
  index = build(labels, documents)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(word_search, '_QUERY_BLOCK', 64)
    patch.setattr(word_search, '_GROUPS', 64)
    tracemalloc.start()
    try:
      found = search(index, documents)
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
  assert found.labels[:, 0].tolist() == owns.tolist()
  assert peak < 1000 * 20_000 / 2  # half a byte a pair; a sparse one has eight
