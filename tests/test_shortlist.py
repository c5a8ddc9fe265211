"""Shortlists: filtered labels go before the cut."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax import shortlist as shortlist_lib
from lmtx_jax.shortlist import make_shortlist, tag_documents
from lmtx_jax.types import Ragged


class SortedIndex:
  """A MipsIndex by plain sorting; remembers how deep it was asked."""

  def __init__(self, embeddings):
    self.embeddings, self.depths = embeddings, []

  def search(self, queries, k):
    self.depths.append(k)
    score = queries @ self.embeddings.T
    labels = np.argsort(-score, axis=1, kind='stable')[:, :k]
    return labels.astype(np.int32), np.take_along_axis(score, labels, axis=1)


def draw(num_docs, num_labels, seed=0):
  state = np.random.RandomState(seed)
  # Whole numbers, so that products and their order are exact.
  return (
    state.randint(-50, 50, (num_docs, 3)).astype(np.float32),
    state.randint(-50, 50, (num_labels, 3)).astype(np.float32),
  )


def brute_force(docs, labels, filters, k):
  """`[num_docs][at most k]` (label, score)."""
  out = []
  for doc, banned in zip(docs, filters, strict=True):
    score = labels @ doc
    order = np.argsort(-score, kind='stable')
    kept = [n for n in order.tolist() if n not in set(banned)]
    out.append([(n, float(score[n])) for n in kept[:k]])
  return out


@st.composite
def problems(data):
  num_docs, num_labels = data(st.integers(1, 9)), data(st.integers(1, 12))
  row = st.lists(st.integers(0, num_labels - 1), unique=True)
  filters = data(st.lists(row, min_size=num_docs, max_size=num_docs))
  return num_docs, num_labels, filters, data(st.integers(1, 15))


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 99), st.sampled_from([1, 3, 100]))
def test_the_best_labels_that_are_not_filtered(problem, seed, block):
  num_docs, num_labels, filters, k = problem
  docs, labels = draw(num_docs, num_labels, seed)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shortlist_lib, '_BLOCK', block)
    found = make_shortlist(
      SortedIndex(labels), docs, Ragged.from_rows(filters), k
    )
  assert found.labels.shape == found.scores.shape == (num_docs, k)
  assert found.labels.dtype == np.int32
  assert found.scores.dtype == np.float32
  for d, expected in enumerate(brute_force(docs, labels, filters, k)):
    real = len(expected)
    pairs = zip(
      found.labels[d, :real].tolist(), found.scores[d].tolist(), strict=False
    )
    assert list(pairs) == expected
    assert np.all(found.labels[d, real:] == -1)
    assert np.all(found.scores[d, real:] == -np.inf)


def test_all_labels_filtered_leaves_none():
  docs, labels = draw(2, 4)
  filters = Ragged.from_rows([[0, 1, 2, 3], []])
  found = make_shortlist(SortedIndex(labels), docs, filters, 3)
  assert np.all(found.labels[0] == -1)
  assert np.all(found.scores[0] == -np.inf)
  assert np.all(found.labels[1] >= 0)


def test_only_a_block_with_filters_is_searched_deeper(monkeypatch):
  monkeypatch.setattr(shortlist_lib, '_BLOCK', 2)
  docs, labels = draw(6, 20)
  index = SortedIndex(labels)
  filters = Ragged.from_rows([[], [], [], [4, 5, 6], [], []])
  make_shortlist(index, docs, filters, 5)
  # Three more, rounded up: depths are few, as each is compiled.
  assert index.depths == [5, 5 + 4, 5]


@pytest.mark.parametrize('num_docs', [0, 1, 7])
def test_tagging_in_blocks_is_as_tagging_at_once(monkeypatch, num_docs):
  docs, labels = draw(num_docs, 9)
  filters = Ragged.from_rows([[d % 9] for d in range(num_docs)])

  class FakeEncoder:
    dim = docs.shape[1]

    def batches(self, inputs, widths, desc=None):
      del widths, desc
      order = np.random.default_rng(0).permutation(len(inputs))
      for start in range(0, len(order), 2):
        rows = order[start : start + 2]
        yield rows, np.asarray(inputs)[rows]

  whole = make_shortlist(SortedIndex(labels), docs, filters, 4)
  monkeypatch.setattr(shortlist_lib, '_BLOCK', 3)
  found = tag_documents(
    FakeEncoder(),
    SortedIndex(labels),
    docs,
    np.array([8]),
    filters,
    4,
  )
  np.testing.assert_array_equal(found.labels, whole.labels)
  np.testing.assert_array_equal(found.scores, whole.scores)
