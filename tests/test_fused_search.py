"""Labels found both ways, against a table of all scores."""

import numpy as np
import pytest
from word_fixtures import SlowWords, in_memory

from lmtx_jax import fused_search
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.mips import ExactIndex
from lmtx_jax.types import Ragged

WORDS = ['aa', 'bb', 'cc', 'dd', 'ee', 'ff', 'gg']
DIM, NUM_DOCS, NUM_LABELS = 4, 11, 30


def sentences(draw, count):
  return [
    ' '.join(draw.choice(WORDS, draw.integers(0, 5)).tolist())
    for _ in range(count)
  ]


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(
  ('depth', 'most'), [(100, 2**20), (NUM_LABELS, 2 * NUM_LABELS), (100, 1)]
)
def test_the_best_of_all_that_are_not_filtered(monkeypatch, seed, depth, most):
  monkeypatch.setattr(fused_search, '_DEPTH', depth)
  monkeypatch.setattr(fused_search, '_MAX_FOUND', most)
  draw = np.random.default_rng(seed)
  labels, docs = sentences(draw, NUM_LABELS), sentences(draw, NUM_DOCS)
  embeddings = draw.standard_normal((NUM_DOCS, DIM)).astype(np.float32)
  of_labels = draw.standard_normal((NUM_LABELS, DIM)).astype(np.float32)
  banned = [draw.choice(NUM_LABELS, i % 4, replace=False) for i in range(11)]
  fused = FusedSearch(
    LexicalIndex.build(in_memory(labels), in_memory(docs)), 0.7
  )
  found = fused.search(
    ExactIndex(of_labels),
    of_labels,
    embeddings,
    fused.words(docs),
    Ragged.from_rows(banned),
    28,
  )
  cosines = SlowWords(labels + docs).cosines(docs, labels)
  table = embeddings @ of_labels.T + 0.7 * cosines
  for doc in range(NUM_DOCS):
    table[doc, banned[doc]] = -np.inf
    kept = found.labels[doc][found.labels[doc] >= 0]
    assert len(kept) == min(28, NUM_LABELS - len(banned[doc]))
    best = np.sort(table[doc])[::-1][: len(kept)]
    np.testing.assert_allclose(table[doc, kept], best, atol=1e-5)
    np.testing.assert_allclose(found.scores[doc, : len(kept)], best, atol=1e-5)


def test_only_the_first_of_each_ranking_are_ranked_again(monkeypatch):
  monkeypatch.setattr(fused_search, '_DEPTH', 2)
  labels = ['xx', 'xx', 'xx', 'aa', 'aa bb', 'aa bb cc']
  of_labels = np.array([[5], [4], [3], [2], [1], [0]], np.float32)
  fused = FusedSearch(LexicalIndex.build(in_memory(labels), in_memory([])), 9.0)
  found = fused.search(
    ExactIndex(of_labels),
    of_labels,
    np.ones((1, 1), np.float32),
    fused.words(['aa']),
    Ragged.from_rows([[]]),
    2,
  )
  assert found.labels.tolist() == [[3, 4]]
  assert found.scores[0, 0] == pytest.approx(11)


def test_no_documents():
  fused = FusedSearch(LexicalIndex.build(in_memory(['aa']), in_memory([])), 1.0)
  of_labels = np.ones((1, DIM), np.float32)
  found = fused.search(
    ExactIndex(of_labels),
    of_labels,
    of_labels[:0],
    fused.words([]),
    Ragged.from_rows([]),
    3,
  )
  assert found.labels.shape == found.scores.shape == (0, 3)
