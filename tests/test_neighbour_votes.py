"""Votes of near documents, against the obvious loops."""

import numpy as np
import pytest
import scipy.sparse as sp

from lmtx_jax import neighbour_votes
from lmtx_jax.mips import ExactIndex, ScannIndex
from lmtx_jax.neighbour_votes import NeighbourVotes, neighbour_weights
from lmtx_jax.scann_index import is_installed
from lmtx_jax.types import Ragged, Shortlist

NUM_VOTERS, NUM_LABELS, DIM = 40, 15, 6


def unit(rows):
  return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made(draw, weight=0.5, num_neighbours=4):
  owned = draw.random((NUM_VOTERS, NUM_LABELS)) < 0.2
  return NeighbourVotes(
    unit(draw.standard_normal((NUM_VOTERS, DIM))),
    sp.csr_matrix(owned.astype(np.float32)),
    weight,
    num_neighbours,
  )


def slow(votes, embeddings, banned):
  table = np.zeros((len(embeddings), NUM_LABELS))
  for doc, embedding in enumerate(embeddings):
    alike = votes.embeddings @ embedding
    near = np.argsort(-alike)[: votes.num_neighbours]
    shares = np.exp(alike[near] / 0.1)
    for other, share in zip(near, shares / shares.sum(), strict=True):
      table[doc] += votes.weight * share * votes.labels[other].toarray()[0]
    table[doc, banned[doc]] = 0
  return table


@pytest.mark.parametrize('num_neighbours', [1, 4, NUM_VOTERS + 5])
def test_votes_are_the_obvious_ones(num_neighbours):
  draw = np.random.default_rng(num_neighbours)
  votes = made(draw, num_neighbours=num_neighbours)
  embeddings = unit(draw.standard_normal((9, DIM)))
  banned = [draw.choice(NUM_LABELS, i % 4, replace=False) for i in range(9)]
  found = votes.of(embeddings, Ragged.from_rows(banned))
  expected = slow(votes, embeddings, banned)
  assert found.dtype == np.float32 and (found.data > 0).all()
  np.testing.assert_allclose(found.toarray(), expected, atol=1e-6)
  assert found.toarray().max() <= votes.weight + 1e-6


def test_what_is_in_a_batch_does_not_change_votes():
  draw = np.random.default_rng(1)
  votes = made(draw)
  embeddings = unit(draw.standard_normal((7, DIM)))
  whole = votes.of(embeddings, Ragged.empty(7)).toarray()
  alone = [votes.of(e[None], Ragged.empty(1)).toarray()[0] for e in embeddings]
  np.testing.assert_allclose(whole, alone, atol=1e-6)
  assert votes.of(embeddings[:0], Ragged.empty(0)).shape == (0, NUM_LABELS)


def test_other_labels():
  draw = np.random.default_rng(2)
  votes = made(draw)
  kept = np.array([0, 3, 4, 9, 14])
  other = votes.with_labels(kept, 2)
  embeddings = unit(draw.standard_normal((5, DIM)))
  before = votes.of(embeddings, Ragged.empty(5)).toarray()
  after = other.of(embeddings, Ragged.empty(5)).toarray()
  assert after.shape == (5, 7)
  np.testing.assert_array_equal(after[:, :5], before[:, kept])
  assert not after[:, 5:].any()


@pytest.mark.skipif(not is_installed(), reason='no ScaNN here')
def test_with_and_without_scann(monkeypatch):
  draw = np.random.default_rng(3)
  votes = made(draw)
  assert isinstance(votes._index, ScannIndex)
  embeddings = unit(draw.standard_normal((5, DIM)))
  found = votes.of(embeddings, Ragged.empty(5)).toarray()
  monkeypatch.setattr(neighbour_votes, 'is_installed', lambda: False)
  other = NeighbourVotes(votes.embeddings, votes.labels, 0.5, 4)
  assert isinstance(other._index, ExactIndex)
  expected = other.of(embeddings, Ragged.empty(5)).toarray()
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_of_rows_without_neighbours():
  near = Shortlist(
    np.array([[2, 0], [-1, -1], [1, -1]], np.int32),
    np.array([[0.9, 0.8], [-np.inf] * 2, [-0.5, -np.inf]], np.float32),
  )
  weights = neighbour_weights(near, 4).toarray()
  share = 1 / (1 + np.exp(-1))
  expected = [[1 - share, 0, share, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
  np.testing.assert_allclose(weights, expected, atol=1e-6)
