"""What counts beside the encoder in a run's scores: the search of a moment."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lmtx_jax.config import Config
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.neighbour_votes import NeighbourVotes
from lmtx_jax.rankings import Rankings
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.types import Ragged


def search_of(
  config: Config,
  rankings: Rankings,
  snapshot: Snapshot,
  accepted: Ragged,
  label_key: np.ndarray,
) -> FusedSearch:
  """The search that dev and test documents and the bundle have.

  All processes call it together.

  Args:
    config: of a run with a lexical weight.
    rankings: of the run.
    snapshot: the encoder.
    accepted: row `d` holds the pseudo labels of training document `d` that it
      was trained on.
    label_key: `[num_labels]` int32, the first label of the same text.
  """
  wanted = config.shortlist
  log_yeses = votes = owned = None
  if wanted.label_prior or wanted.neighbour_weight:
    owned = _by_text(accepted, label_key)
  if wanted.label_prior:
    counts = np.asarray(owned.sum(axis=0)).ravel()
    log_yeses = np.log1p(counts[label_key]).astype(np.float32)
  voters = np.flatnonzero(accepted.lengths)
  if wanted.neighbour_weight and len(voters):
    votes = NeighbourVotes(
      rankings.doc_embeddings(snapshot)[voters],
      owned[voters][:, label_key],
      wanted.neighbour_weight,
      config.plan.neighbours,
    )
  return FusedSearch(
    rankings.lexical_index,
    wanted.lexical_weight,
    wanted.label_prior,
    log_yeses,
    votes,
  )


def _by_text(accepted: Ragged, label_key: np.ndarray) -> sp.csr_matrix:
  """`[num_docs, num_labels]` f32, 1 at the first label of an accepted text.

  Labels of one text are one to the teacher, and a document has them once.
  """
  shape = len(accepted), len(label_key)
  pairs = np.unique(
    accepted.row_ids * len(label_key) + label_key[accepted.values]
  )
  rows, keys = np.divmod(pairs, len(label_key))
  ones = np.ones(len(pairs), np.float32)
  return sp.csr_matrix((ones, (rows, keys)), shape)
