"""What a bundle ranks labels by beside embeddings: words, priors, votes.

All but the documents that vote lies in the folder of a generation of labels
(see bundle_labels), for it changes with these.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from lmtx_jax.embeddings import copy_embeddings
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.neighbour_votes import open_votes, write_votes
from lmtx_jax.scann_index import BRUTE_FORCE_BELOW, is_installed, write_index
from lmtx_jax.types import UserError

# In lmtx.json.
WEIGHT, PRIOR = 'lexical_weight', 'label_prior'
VOTES_WEIGHT, NUM_NEIGHBOURS = 'neighbour_weight', 'neighbours'
# In the folder of a generation, and in that of the bundle.
LEXICAL, PRIOR_FILE, VOTES = 'lexical', 'label_prior.npy', 'neighbour_votes.npz'
OF_LABELS = (LEXICAL, PRIOR_FILE, VOTES)
DOCUMENTS, DOCUMENTS_SCANN = 'neighbours.npy', 'neighbours_scann'


def facts_of(fused: FusedSearch) -> dict[str, Any]:
  """What `lmtx.json` tells of it."""
  facts = {WEIGHT: fused.weight}
  if fused.log_yeses is not None:
    facts[PRIOR] = fused.prior_weight
  if fused.votes is not None:
    facts[VOTES_WEIGHT] = fused.votes.weight
    facts[NUM_NEIGHBOURS] = fused.votes.num_neighbours
  return facts


def write_documents(bundle: str, fused: FusedSearch) -> None:
  """Writes what no change of labels changes.

  Args:
    bundle: its folder.
    fused: of its labels.

  Raises:
    UserError: ScaNN cannot write its index.
  """
  if fused.votes is not None:
    embeddings = fused.votes.embeddings
    copy_embeddings(embeddings, os.path.join(bundle, DOCUMENTS))
    if len(embeddings) >= BRUTE_FORCE_BELOW and is_installed():
      write_index(os.path.join(bundle, DOCUMENTS_SCANN), embeddings)


def write_fused(folder: str, fused: FusedSearch) -> None:
  """Writes what is of the labels.

  Args:
    folder: of their generation.
    fused: of these labels.
  """
  fused.lexical.save(os.path.join(folder, LEXICAL))
  if fused.log_yeses is not None:
    np.save(os.path.join(folder, PRIOR_FILE), fused.log_yeses)
  if fused.votes is not None:
    write_votes(os.path.join(folder, VOTES), fused.votes)


def open_fused(
  bundle: str, folder: str, about: Mapping[str, Any]
) -> FusedSearch | None:
  """Opens what was written; None where labels are ranked by embeddings alone.

  Args:
    bundle: its folder.
    folder: of the generation of labels.
    about: what `lmtx.json` tells, checked.

  Raises:
    UserError: something is missing or damaged, or is of other labels.
  """
  if WEIGHT not in about:
    return None
  num_labels, prior, votes = about['num_labels'], None, None
  if PRIOR in about:
    prior = _open_prior(os.path.join(folder, PRIOR_FILE), num_labels)
  if VOTES_WEIGHT in about:
    votes = open_votes(
      os.path.join(bundle, DOCUMENTS),
      os.path.join(bundle, DOCUMENTS_SCANN),
      os.path.join(folder, VOTES),
      (num_labels, about['dim']),
      about[VOTES_WEIGHT],
      about[NUM_NEIGHBOURS],
    )
  lexical = _open_words(os.path.join(folder, LEXICAL), num_labels)
  return FusedSearch(
    lexical, about[WEIGHT], about.get(PRIOR, 0.0), prior, votes
  )


def _open_words(path: str, num_labels: int) -> LexicalIndex:
  if not os.path.isdir(path):
    raise UserError(f'{path}: there is no such folder; the bundle is not whole')
  lexical = LexicalIndex.load(path)
  if len(lexical) != num_labels:
    raise UserError(
      f'{path} has the words of {len(lexical)} labels, not of {num_labels}'
    )
  return lexical


def _open_prior(path: str, num_labels: int) -> np.ndarray:
  try:
    values = np.lib.format.open_memmap(path, mode='r')[:]
  except (OSError, ValueError, EOFError) as e:
    raise UserError(f'{path}: {e}; the bundle is not whole') from e
  if values.shape != (num_labels,) or values.dtype != np.float32:
    raise UserError(
      f'{path} has {values.dtype} of shape {values.shape}, not float32 of'
      f' {(num_labels,)}'
    )
  if not np.isfinite(values).all():
    raise UserError(f'{path} has values that are no numbers')
  return values
