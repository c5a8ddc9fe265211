"""What is known of a pair before the teacher is asked about it."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lmtx_jax.embeddings import inner_products
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.planning.judged import READABLE, Judged
from lmtx_jax.types import YES, Ragged, Shortlist

_DOC_BLOCK = 512  # documents whose candidates are described at a time
_PRIOR = 2.0  # answers that a label's share of yeses starts with


class Words(NamedTuple):
  """Documents and labels by their words.

  Attributes:
    index: of the labels.
    vectors: `[num_docs, num_words]` sparse f32 of the documents.
    shortlist: the labels that share most with each document.
  """

  index: LexicalIndex
  vectors: sp.csr_matrix
  shortlist: Shortlist


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
  """What the questions so far tell of others.

  Attributes:
    judged: the questions.
    yes: `[num_docs, num_labels]` sparse f32, 1 where the answer was yes.
    asked: the same, 1 where it was yes or no.
    near_yes: the same, the weight of the document's neighbours that have a yes.
    near_asked: the same, of those that have an answer.
  """

  judged: Judged
  yes: sp.csr_matrix
  asked: sp.csr_matrix
  near_yes: sp.csr_matrix
  near_asked: sp.csr_matrix

  @functools.cached_property
  def _sums(self) -> list[np.ndarray]:
    """Yeses and questions of each label, yeses of each document."""
    of = ((self.yes, 0), (self.asked, 0), (self.yes, 1))
    return [np.asarray(matrix.sum(axis=axis)).ravel() for matrix, axis in of]

  def describe(self, docs: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Columns `[num_pairs]` made of the answers to all other pairs."""
    yes, asked = _at(self.yes, docs, labels), _at(self.asked, docs, labels)
    label_yes, label_asked, doc_yes = self._sums
    share = (label_yes.sum() + 1) / (label_asked.sum() + 2)
    times_yes = label_yes[labels] - yes
    times_asked = label_asked[labels] - asked
    near_yes = _at(self.near_yes, docs, labels)
    near_asked = _at(self.near_asked, docs, labels)
    return [
      np.log((times_yes + _PRIOR * share) / (times_asked + _PRIOR)),
      np.log1p(times_asked),
      np.log1p(doc_yes[docs] - yes),
      np.log(near_yes + 0.01),
      near_yes / (near_asked + 0.05),
    ]


@dataclasses.dataclass(frozen=True)
class Evidence:
  """Scores of a cycle, by which pairs are described.

  Attributes:
    doc_embeddings: `[num_docs, dim]` f32 or bf16.
    label_embeddings: `[num_labels, dim]` f32 or bf16.
    dense: the labels closest to each document.
    words: the other ranking; None where words do not count.
    neighbours: `[num_docs, num_docs]` sparse f32, rows of weights that add up
      to 1, none on a document itself; without entries where none are wanted.
    banned: row `d` holds labels that are never asked about for document `d`.
    label_key: `[num_labels]` int32, the first label of the same text.
    is_empty: `[num_docs]` bool, documents that are never asked about.
  """

  doc_embeddings: np.ndarray
  label_embeddings: np.ndarray
  dense: Shortlist
  words: Words | None
  neighbours: sp.csr_matrix
  banned: Ragged
  label_key: np.ndarray
  is_empty: np.ndarray

  @property
  def shape(self) -> tuple[int, int]:
    """Documents and labels."""
    return len(self.doc_embeddings), len(self.label_embeddings)

  @property
  def shortlists(self) -> list[Shortlist]:
    """The rankings that candidates are taken from."""
    return [self.dense, *([self.words.shortlist] if self.words else [])]

  def answers(self, judged: Judged) -> Answers:
    """What the questions so far tell of others."""
    yes = judged.matrix((YES,), self.shape)
    asked = judged.matrix(READABLE, self.shape)
    return Answers(
      judged,
      yes,
      asked,
      (self.neighbours @ yes).tocsr(),
      (self.neighbours @ asked).tocsr(),
    )

  def candidates(
    self, answers: Answers
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that could be asked, block by block of documents.

    Args:
      answers: to the pairs that have been, which are left out.

    Yields:
      docs and labels, `[num_pairs]` int64 both, ascending.
    """
    num_docs, num_labels = self.shape
    judged = answers.judged
    asked = np.sort(judged.docs * num_labels + judged.labels)
    banned = np.unique(
      self.banned.row_ids * num_labels + self.label_key[self.banned.values]
    )
    for start in range(0, num_docs, _DOC_BLOCK):
      rows = np.arange(start, min(start + _DOC_BLOCK, num_docs))
      rows = rows[~self.is_empty[rows]]
      of_votes = answers.near_yes[rows].tocoo()
      keys = [rows[of_votes.row] * num_labels + of_votes.col]
      for shortlist in self.shortlists:
        place, column = np.nonzero(shortlist.labels[rows] >= 0)
        labels = self.label_key[shortlist.labels[rows][place, column]]
        keys.append(rows[place] * num_labels + labels)
      keys = np.unique(np.concatenate(keys).astype(np.int64))
      keys = keys[~_among(keys, asked) & ~_among(keys, banned)]
      yield keys // num_labels, keys % num_labels

  def describe(
    self, docs: np.ndarray, labels: np.ndarray, answers: Answers
  ) -> np.ndarray:
    """`[num_pairs, num_features]` f32 of pairs, whoever asked them.

    A pair's own answer is never among what describes it.

    Args:
      docs: `[num_pairs]` int64.
      labels: `[num_pairs]` int64.
      answers: so far.
    """
    dense = inner_products(
      self.doc_embeddings, docs, self.label_embeddings, labels
    )
    columns = [dense, _rank(self.dense, docs, dense)]
    if self.words:
      lexical = self.words.index.scores(self.words.vectors, docs, labels)
      rank = _rank(self.words.shortlist, docs, lexical)
      columns += [lexical, lexical > 0, rank]
    columns += answers.describe(docs, labels)
    return np.stack([np.asarray(c, np.float32) for c in columns], axis=1)


def _rank(shortlist: Shortlist, docs, scores) -> np.ndarray:
  """Log of how many labels of the shortlist score higher."""
  higher = np.zeros(len(docs), np.int64)
  for column in range(shortlist.scores.shape[1]):
    higher += shortlist.scores[docs, column] > scores
  return np.log1p(higher)


def _at(matrix: sp.csr_matrix, docs, labels) -> np.ndarray:
  return np.asarray(matrix[docs, labels], np.float32).ravel()


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Which keys are among the sorted known ones."""
  if not len(known):
    return np.zeros(len(keys), bool)
  place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
  return known[place] == keys
