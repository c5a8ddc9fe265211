"""The label that shares a document's words."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from label_fixtures import FakeSource
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lmtx_jax import hashed_words, word_search
from lmtx_jax.baselines.tfidf_pairs import tfidf_top, unite
from lmtx_jax.data.corpus import Corpus, Texts
from lmtx_jax.types import Ragged, Shortlist


def made(texts):
  rows = [{'uid': '', 'title': text, 'content': ''} for text in texts]
  none = Ragged.from_rows([[]] * len(rows))
  corpus = Corpus(
    'made', 'x', FakeSource(rows), np.arange(len(rows)), none, none
  )
  return Texts(corpus, lambda record: record.title)


def top(documents, labels, filters=None, k=1):
  filters = Ragged.from_rows(filters or [[]] * len(documents))
  found, scores = tfidf_top(made(documents), made(labels), filters, k)
  assert found.dtype == np.int32 and scores.dtype == np.float32
  assert found.shape == scores.shape == (len(documents), k)
  assert np.array_equal(found < 0, np.isneginf(scores))
  return found, scores


def exact(documents, labels):
  """`[num_docs, num_labels]` cosines over the words that labels have."""
  vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_df=0.98)
  vectorizer.fit([*labels, *documents])
  of_docs, of_labels = map(vectorizer.transform, (documents, labels))
  full = (of_docs @ of_labels.T).toarray()
  of_docs = of_docs.toarray() * (of_labels.sum(axis=0).A1 > 0)
  norms = np.linalg.norm(of_docs, axis=1, keepdims=True)
  return full, of_docs / np.maximum(norms, 1e-9) @ of_labels.T.toarray()


LABELS = ['fishing quota', 'fishing', 'milk', 'of the', 'quota of milk', 'I 5']


def test_right_labels_by_construction():
  documents = [
    'a quota of milk in one year',
    'Fishing, in the north sea',
    'a fishing quota',
    'nothing known here',
    '',
    'quota fishing',  # in the other order
    '5 I',  # words of one letter are none
  ]
  assert top(documents, LABELS)[0][:, 0].tolist() == [4, 1, 0, -1, -1, 0, -1]


def test_filters_are_never_given():
  documents = ['a fishing quota', 'milk', 'milk', 'the quota of milk']
  filters = [[0, 2], [2, 4], [], [0, 1, 2, 3, 4, 5]]
  found, _ = top(documents, LABELS, filters, k=2)
  assert found.tolist() == [[1, 4], [-1, -1], [2, 4], [-1, -1]]


WORD = st.sampled_from(['aa', 'bb', 'cc', 'dd', 'ee', 'x', 'Ff'])
TEXTS = st.lists(st.lists(WORD, max_size=6).map(' '.join), max_size=8)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 4), st.integers(0, 9), st.integers(1, 40))
def test_as_scikit_learn_has_it(documents, labels, k, seed, most):
  documents, labels = ['aa qq', *documents], ['aa', 'zz zz', *labels]
  full, cosine = exact(documents, labels)
  banned = np.random.default_rng(seed).random(full.shape) < 0.2
  filters = [np.flatnonzero(row) for row in banned]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hashed_words, 'BLOCK', 3)
    patch.setattr(word_search, '_QUERY_BLOCK', 2)
    patch.setattr(word_search, '_GROUPS', most)
    patch.setattr(word_search, '_GROUP', 2)
    found, scores = top(documents, labels, filters, k)
  for row, mine, score, whole in zip(
    np.where(banned, 0, cosine), found, scores, full, strict=True
  ):
    real = mine >= 0
    assert len(set(mine[real].tolist())) == real.sum()
    assert real.sum() == min(k, np.count_nonzero(row > 1e-9))
    best = -np.sort(-row)[: real.sum()]
    np.testing.assert_allclose(row[mine[real]], best, atol=1e-5)
    np.testing.assert_allclose(score[real], best, atol=1e-5)
    # What labels do not have changes the scores of a document by one factor.
    assert np.all(np.diff(whole[mine[real]]) < 1e-5)


def test_of_equal_labels_the_first():
  labels = ['other', 'milk', 'milk', 'milk']
  assert top(['milk'] * 2, labels, [[], [1]], 2)[0].tolist() == [[1, 2], [2, 3]]


def test_words_that_all_texts_have_do_not_count():
  labels = [f'all name{i}' for i in range(60)]
  documents = ['all', 'all name7', 'all name9 all']
  assert top(documents, labels)[0][:, 0].tolist() == [-1, 7, 9]


@pytest.mark.parametrize('labels', [['', 'x', '?'], ['']])
def test_labels_without_words(labels):
  assert top(['some words', ''], labels)[0].tolist() == [[-1], [-1]]


def test_no_documents():
  assert top([], LABELS)[0].shape == (0, 1)


def test_scores_are_never_all_in_memory():
  """A common word, which would make each document near to each label."""
  rng = np.random.default_rng(0)
  labels = [f'common name{i}' for i in range(20_000)]
  owns = rng.integers(0, 20_000, 2000)
  documents = [f'common words of name{i}' for i in owns]
  documents += ['uncommon'] * 2000  # so that it is not in all texts
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(word_search, '_QUERY_BLOCK', 64)
    patch.setattr(word_search, '_GROUPS', 64)
    tracemalloc.start()
    try:
      found, _ = top(documents, labels)
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
  assert found[:2000, 0].tolist() == owns.tolist()
  assert peak < 2000 * 20_000  # a byte a pair; a sparse one has eight


def test_both_labels_of_a_document():
  by_words = np.array([[3, 9], [3, 9], [3, 9], [-1, -1], [-1, -1], [5, -1]])
  labels = np.array(
    [[1, 8], [3, 8], [1, 8], [1, 8], [-1, -1], [7, 8]], np.int32
  )
  scores = np.array([0.9, 0.9, 0.5, 0.6, -np.inf, 0.8], np.float32)
  shortlist = Shortlist(labels, np.stack([scores, scores - 0.1], axis=1))
  found = unite(by_words, shortlist, 0.5)
  assert [row.tolist() for row in found] == [[1, 3], [3], [3], [1], [], [5, 7]]
  assert found.values.dtype == np.int32
  assert [r.tolist() for r in unite(by_words, shortlist, 1.0)] == [
    [3], [3], [3], [], [], [5]
  ]  # fmt: skip
