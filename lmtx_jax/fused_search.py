"""Labels found by embeddings and by words, and ranked by both together.

A score is the inner product of the embeddings plus a weight times the cosine
of the words, plus what the label has by itself and by the documents near.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np
import scipy.sparse as sp

from lmtx_jax.data.corpus import Texts
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.encode import Encoder
from lmtx_jax.fusion import mix
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.mips import MipsIndex
from lmtx_jax.neighbour_votes import NeighbourVotes
from lmtx_jax.shortlist import embedded, make_shortlist
from lmtx_jax.types import Ragged, Shortlist

# Labels of each ranking that are ranked again, whether one is wanted or a
# hundred, so that the first of a hundred are those of ten.
_DEPTH = 100
_MAX_FOUND = 2**20  # labels of a ranking that are held at a time
_BLOCK = 1024  # texts read at a time


@dataclasses.dataclass(frozen=True)
class FusedSearch:
  """What ranks labels beside an index of their embeddings.

  Attributes:
    lexical: of the labels' words.
    weight: of the cosine of words, above 0.
    prior_weight: of the labels' priors.
    log_yeses: `[num_labels]` f32 log(1 + documents that have the label as
      pseudo label), which are the priors; None: labels have none.
    votes: of the documents near; None: nobody votes.
  """

  lexical: LexicalIndex
  weight: float
  prior_weight: float = 0.0
  log_yeses: np.ndarray | None = None
  votes: NeighbourVotes | None = None

  @functools.cached_property
  def _prior(self) -> np.ndarray | None:
    if self.log_yeses is None:
      return None
    return np.float32(self.prior_weight) * self.log_yeses

  def with_labels(self, kept: np.ndarray, texts: Sequence[str]) -> FusedSearch:
    """The same of other labels; new ones have no prior, and no votes.

    Args:
      kept: `[any]` int, labels that stay, in their new order.
      texts: of labels that come behind them.
    """
    log_yeses, votes = self.log_yeses, self.votes
    if log_yeses is not None:
      none = np.zeros(len(texts), np.float32)
      log_yeses = np.concatenate([log_yeses[kept], none])
    if votes is not None:
      votes = votes.with_labels(kept, len(texts))
    return dataclasses.replace(
      self,
      lexical=self.lexical.with_labels(kept, texts),
      log_yeses=log_yeses,
      votes=votes,
    )

  def words(self, texts: Sequence[str]) -> sp.csr_matrix:
    """`[n, num_words]` f32 of documents."""
    return self.lexical.vectors(texts)

  def search(
    self,
    index: MipsIndex,
    label_embeddings: np.ndarray,
    embeddings: np.ndarray,
    words: sp.csr_matrix,
    filters: Ragged,
    k: int,
  ) -> Shortlist:
    """The k best labels of documents.

    Args:
      index: of the label embeddings.
      label_embeddings: `[num_labels, dim]` f32 or bf16, memory-mapped or not.
      embeddings: `[n, dim]` f32, of the documents.
      words: `[n, num_words]`, of the same documents.
      filters: row `d` holds the labels that document `d` must not be given.
      k: labels a document.
    """
    depth = max(k, _DEPTH)
    size = max(1, _MAX_FOUND // depth)
    parts = []
    for start in range(0, max(1, len(embeddings)), size):
      rows = slice(start, start + size)
      some = filters.take(np.arange(len(embeddings))[rows])
      dense = make_shortlist(index, embeddings[rows], some, depth)
      parts.append(
        mix(
          dense,
          self.lexical.nearest(words[rows], some, depth),
          embeddings[rows],
          label_embeddings,
          self.lexical,
          words[rows],
          self.weight,
          k,
          self._prior,
          self.votes and self.votes.of(embeddings[rows], some),
        )
      )
    return Shortlist.joined(parts)

  def tag_documents(
    self,
    encoder: Encoder,
    index: MipsIndex,
    label_embeddings: np.ndarray,
    documents: TokenView,
    texts: Texts,
    widths: np.ndarray,
    filters: Ragged,
    k: int,
    desc: str | None = None,
  ) -> Shortlist:
    """As `shortlist.tag_documents`, of documents whose `texts` are read too."""
    return Shortlist.placed(
      len(documents),
      (
        (
          rows,
          self.search(
            index,
            label_embeddings,
            embeddings,
            self._words_of(texts, rows),
            filters.take(rows),
            k,
          ),
        )
        for rows, embeddings in embedded(encoder, documents, widths, desc)
      ),
    )

  def _words_of(self, texts: Texts, rows: np.ndarray) -> sp.csr_matrix:
    blocks = [
      self.words(texts.get(rows[start : start + _BLOCK]))
      for start in range(0, max(1, len(rows)), _BLOCK)
    ]
    return sp.vstack(blocks, format='csr')
