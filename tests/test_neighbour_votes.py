"""Votes of near documents, against the obvious loops."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp
from word_fixtures import in_memory

from lmtx_jax import fused_files, fused_run, neighbour_votes, scann_index
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.lexical_index import LexicalIndex
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
@pytest.mark.parametrize('below', [scann_index.BRUTE_FORCE_BELOW, NUM_VOTERS])
def test_with_and_without_scann(monkeypatch, below):
  """Brute force, and hashing whose best are all compared."""
  monkeypatch.setattr(scann_index, 'BRUTE_FORCE_BELOW', below)
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


class FakeIndex:
  """Reaches the first voter alone, and then no more."""

  def search(self, queries, k):
    labels = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    labels[:, 0], scores[:, 0] = 0, 0.5
    return labels, scores


def test_fewer_neighbours_than_wanted():
  votes = made(np.random.default_rng(5))
  votes.__dict__['_index'] = FakeIndex()
  found = votes.of(votes.embeddings[:3], Ragged.empty(3)).toarray()
  own = 0.5 * votes.labels[0].toarray()[0]
  assert own.any()
  np.testing.assert_allclose(found, [own] * 3)


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize('many', [False, True])
def test_a_bundle_keeps_them(monkeypatch, tmp_path, dtype, many):
  if many:
    if not is_installed():
      pytest.skip('no ScaNN here')
    for module in (scann_index, fused_files):
      monkeypatch.setattr(module, 'BRUTE_FORCE_BELOW', NUM_VOTERS)
  draw = np.random.default_rng(6)
  votes = made(draw)
  votes = dataclasses.replace(votes, embeddings=votes.embeddings.astype(dtype))
  names = [f'word{i}' for i in range(NUM_LABELS)]
  index = LexicalIndex.build(in_memory(names), in_memory([]))
  fused = FusedSearch(index, 0.7, votes=votes)
  fused_files.write_fused(str(tmp_path), fused)
  fused_files.write_documents(str(tmp_path), fused)
  assert (tmp_path / 'neighbours_scann').is_dir() == many
  about = {'num_labels': NUM_LABELS, 'dim': DIM, **fused_files.facts_of(fused)}
  opened = fused_files.open_fused(str(tmp_path), str(tmp_path), about).votes
  assert opened.embeddings.dtype == dtype and bool(opened.scann) == many
  queries = unit(draw.standard_normal((5, DIM)))
  np.testing.assert_allclose(
    opened.of(queries, Ragged.empty(5)).toarray(),
    votes.of(queries, Ragged.empty(5)).toarray(),
    atol=1e-5,
  )
  exact = dataclasses.replace(votes, embeddings=np.float32(votes.embeddings))
  np.testing.assert_allclose(
    opened.of(queries, Ragged.empty(5)).toarray(),
    exact.of(queries, Ragged.empty(5)).toarray(),
    atol=2e-3,
  )


def test_labels_of_one_text():
  """A document that had one of them has it once, and votes for both."""
  accepted = Ragged.from_rows([[0, 2], [3], []])
  by_text = fused_run._by_text(accepted, np.array([0, 1, 0, 3]))
  assert by_text.toarray().tolist() == [
    [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]
  ]  # fmt: skip
  of_labels = by_text[:, np.array([0, 1, 0, 3])]
  assert of_labels.toarray().tolist()[0] == [1, 0, 1, 0]


def test_weights_of_rows_without_neighbours():
  near = Shortlist(
    np.array([[2, 0], [-1, -1], [1, -1]], np.int32),
    np.array([[0.9, 0.8], [-np.inf] * 2, [-0.5, -np.inf]], np.float32),
  )
  weights = neighbour_weights(near, 4).toarray()
  share = 1 / (1 + np.exp(-1))
  expected = [[1 - share, 0, share, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
  np.testing.assert_allclose(weights, expected, atol=1e-6)
