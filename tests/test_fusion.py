"""Two rankings made into one, against slow obvious references."""

from hypothesis import given, settings
from hypothesis import strategies as st
from label_fixtures import label_corpus
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp

from lmtx_jax import embeddings as embeddings_lib
from lmtx_jax import fusion
from lmtx_jax.data.corpus import Texts
from lmtx_jax.fusion import (
  Candidates,
  candidates,
  mix,
  rank,
  reciprocal_ranks,
)
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.types import Ragged, Shortlist

WORDS = ['aa', 'bb', 'cc', 'dd', 'ee', 'ff']
DIM = 3


def texts(names):
  return Texts(label_corpus([('', name) for name in names]), lambda r: r.title)


def names(draw, n):
  return [
    ' '.join(draw.choice(WORDS, draw.integers(0, 4)).tolist()) for _ in range(n)
  ]


def shortlist(table, k):
  """The k largest finite scores of each row, of equal ones the first."""
  order = np.argsort(-table, axis=1, kind='stable')[:, :k]
  scores = np.take_along_axis(table, order, axis=1).astype(np.float32)
  return Shortlist(
    np.where(np.isneginf(scores), -1, order).astype(np.int32), scores
  )


class Case:
  """Random documents and labels, ranked both ways."""

  def __init__(self, seed, num_docs=5, num_labels=9, dtype=np.float32):
    draw = np.random.default_rng(seed)
    self.documents = names(draw, num_docs)
    labels = names(draw, num_labels)
    self.index = LexicalIndex.build(texts(labels), texts(self.documents))
    self.vectors = self.index.vectors(self.documents)
    # Few different values, so that there are equal scores.
    self.embeddings = draw.integers(-2, 3, (num_docs, DIM)).astype(dtype)
    self.label_embeddings = draw.integers(-2, 3, (num_labels, DIM)).astype(
      dtype
    )
    self.products = self.embeddings.astype(
      np.float32
    ) @ self.label_embeddings.T.astype(np.float32)
    self.cosines = (self.vectors @ self.index.labels.T).toarray()
    none = Ragged.from_rows([[]] * num_docs)
    self.dense = shortlist(self.products, draw.integers(1, num_labels + 1))
    self.lexical = self.index.nearest(self.vectors, none, draw.integers(1, 5))

  @property
  def arguments(self):
    return (
      self.dense,
      self.lexical,
      self.embeddings,
      self.label_embeddings,
      self.index,
      self.vectors,
    )


def slow_mix(case, weight, k):
  """Every document and label by itself."""
  labels, scores = [], []
  for doc in range(len(case.documents)):
    either = {*case.dense.labels[doc], *case.lexical.labels[doc]} - {-1}
    total = {
      label: np.float32(
        case.products[doc, label]
        + np.float32(weight) * case.cosines[doc, label]
      )
      for label in either
    }
    best = sorted(total, key=lambda label: (-total[label], label))[:k]
    rest = k - len(best)
    labels.append([*best, *[-1] * rest])
    scores.append([*[total[label] for label in best], *[-np.inf] * rest])
  return np.array(labels), np.array(scores)


@settings(max_examples=80, deadline=None)
@given(
  st.integers(0, 10**6),
  st.sampled_from([0.0, 0.3, 1.0]),
  st.integers(1, 12),
  st.sampled_from([np.float32, ml_dtypes.bfloat16]),
)
def test_mix_is_the_obvious_one(seed, weight, k, dtype):
  case = Case(seed, dtype=dtype)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fusion, '_BLOCK', 2)
    patch.setattr(embeddings_lib, '_BLOCK_BYTES', 8 * DIM)
    found = mix(*case.arguments, weight, k)
  labels, scores = slow_mix(case, weight, k)
  assert found.labels.dtype == np.int32 and found.scores.dtype == np.float32
  np.testing.assert_allclose(found.scores, scores, atol=1e-5)
  # Labels as good as equal may change places; each has its own score.
  row, column = np.nonzero(found.labels >= 0)
  label = found.labels[row, column]
  assert len(set(zip(row.tolist(), label.tolist(), strict=True))) == len(row)
  own = case.products[row, label] + weight * case.cosines[row, label]
  np.testing.assert_allclose(found.scores[row, column], own, atol=1e-5)
  assert np.array_equal(found.labels < 0, labels < 0)


def test_of_equal_scores_the_smaller_label():
  found = Candidates(
    np.array([0, 0, 0, 1]),
    np.array([2, 5, 7, 1], np.int32),
    np.array([0.25, 0.5, 0.25, 0.125], np.float32),
    np.array([0.5, 0.0, 0.5, 0.0], np.float32),
    np.zeros(4, np.float32),
  )
  best = rank(found, 3, 0.5, 2)
  assert best.labels.tolist() == [[2, 5], [1, -1], [-1, -1]]
  assert best.scores.tolist() == [
    [0.5, 0.5], [0.125, -np.inf], [-np.inf, -np.inf]
  ]  # fmt: skip


def test_candidates_have_both_scores():
  case = Case(1, num_docs=7, num_labels=11)
  found = candidates(*case.arguments)
  pairs = list(
    zip(found.doc_index.tolist(), found.label_index.tolist(), strict=True)
  )
  assert pairs == sorted(set(pairs))
  assert set(pairs) == {
    (doc, label)
    for ranking in (case.dense, case.lexical)
    for doc, row in enumerate(ranking.labels.tolist())
    for label in row
    if label >= 0
  }
  at = found.doc_index, found.label_index
  np.testing.assert_allclose(found.dense, case.products[at], atol=1e-6)
  np.testing.assert_allclose(found.lexical, case.cosines[at], atol=1e-6)


def test_scores_that_are_known_are_not_computed():
  """An index may have approximate scores; they stay as they are."""
  case = Case(3)
  first = case.dense.labels[:, :1]
  case.dense = Shortlist(first, case.dense.scores[:, :1] + np.float32(100))
  found = candidates(*case.arguments)
  offset = found.dense - case.products[found.doc_index, found.label_index]
  known = found.label_index == first[found.doc_index, 0]
  assert known.any() and not known.all()
  assert np.array_equal(offset == 100, known)


def test_votes_are_added_and_find_labels():
  case = Case(5, num_docs=3, num_labels=9)
  case.dense = shortlist(case.products, 2)
  table = np.zeros((3, 9), np.float32)
  absent = np.setdiff1d(np.arange(9), [*case.dense.labels[1]])
  absent = np.setdiff1d(absent, case.lexical.labels[1])[0]
  table[1, absent], table[0, case.dense.labels[0, 1]] = 50, 3
  votes = sp.csr_matrix(table)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fusion, '_BLOCK', 2)
    found = mix(*case.arguments, 0.5, 9, votes=votes)
  without = mix(*case.arguments, 0.5, 9)
  assert found.labels[1, 0] == absent
  total = case.products + np.float32(0.5) * case.cosines + table
  row, column = np.nonzero(found.labels >= 0)
  np.testing.assert_allclose(
    found.scores[row, column], total[row, found.labels[row, column]], atol=1e-5
  )
  assert {*found.labels[0]} == {*without.labels[0]}
  np.testing.assert_array_equal(found.labels[2], without.labels[2])


def test_nothing_to_mix():
  case = Case(0, num_docs=1)
  nothing = Shortlist(np.full((1, 2), -1, np.int32), np.full((1, 2), -np.inf))
  case.dense = case.lexical = nothing
  assert mix(*case.arguments, 0.5, 3).labels.tolist() == [[-1, -1, -1]]
  assert mix(*Case(0, num_docs=0).arguments, 0.5, 3).labels.shape == (0, 3)


def slow_reciprocal(tables, k, constant):
  labels, scores = [], []
  for rows in zip(*tables, strict=True):
    total = {}
    for row in rows:
      for place, label in enumerate(row, 1):
        if label >= 0:
          total[label] = total.get(label, 0) + 1 / (constant + place)
    total = {label: np.float32(score) for label, score in total.items()}
    best = sorted(total, key=lambda label: (-total[label], label))[:k]
    rest = k - len(best)
    labels.append([*best, *[-1] * rest])
    scores.append([*[total[label] for label in best], *[-np.inf] * rest])
  return labels, np.array(scores, np.float32)


@settings(max_examples=80, deadline=None)
@given(
  st.integers(0, 10**6),
  st.integers(1, 3),
  st.integers(1, 9),
  st.sampled_from([0, 60]),
)
def test_reciprocal_ranks_are_the_obvious_ones(seed, lists, k, constant):
  draw = np.random.default_rng(seed)
  tables = []
  for _ in range(lists):
    width = draw.integers(1, 7)
    table = np.array([draw.permutation(7)[:width] for _ in range(5)], np.int32)
    last = draw.integers(0, width + 1, 5)
    tables.append(np.where(np.arange(width) < last[:, None], table, -1))
  shortlists = [Shortlist(t, np.zeros(t.shape, np.float32)) for t in tables]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fusion, '_BLOCK', 2)
    found = reciprocal_ranks(shortlists, k, constant)
  labels, scores = slow_reciprocal([t.tolist() for t in tables], k, constant)
  assert found.labels.tolist() == labels
  np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
