"""The labels of a bundle: which files hold them at the moment, and opening.

`lmtx.json` names the folder of the label files, a generation of them: the
bundle's own folder as it was exported, `labels_000001` after the first change,
and so on. A generation never changes once it is there, and replacing
`lmtx.json` is what switches to the next, so that whoever opens a bundle sees
all of one. The one before stays for those who have it open.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Any

import numpy as np
import scipy.sparse as sp

from lmtx_jax import __version__
from lmtx_jax.data.reading import shown
from lmtx_jax.embeddings import open_embeddings
from lmtx_jax.files import read_json
from lmtx_jax.fused_files import (
  NUM_NEIGHBOURS,
  PRIOR,
  VOTES_WEIGHT,
  WEIGHT,
  open_fused,
)
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.label_file import LabelFile
from lmtx_jax.mips import ExactIndex, MipsIndex, ScannIndex
from lmtx_jax.scann_index import BRUTE_FORCE_BELOW, is_installed, write_index
from lmtx_jax.types import Ragged, Shortlist, UserError

# Raised when a bundle changes so that old programs misread it: those of 3 would
# rank by embeddings alone, and leave the words of changed labels as they were;
# those of 4 would do so with their priors, those of 5 with their votes.
FORMAT, FUSED_FORMAT, PRIOR_FORMAT, VOTES_FORMAT = 3, 4, 5, 6
ABOUT = 'lmtx.json'
LABELS, EMBEDDINGS, SCANN = 'labels.jsonl', 'label_embeddings.npy', 'scann'
MAX_WEIGHT = 10
GENERATION = re.compile(r'labels_(\d{6,})')


@dataclasses.dataclass(frozen=True)
class LabelState:
  """All labels as they were at a moment; changes make another.

  Attributes:
    about: `lmtx.json` of that moment.
    labels: uids and titles.
    embeddings: `[num_labels, dim]` f32 or bf16, memory-mapped.
    index: of the embeddings.
    fused: where labels are ranked by more than embeddings.
  """

  about: dict[str, Any]
  labels: LabelFile
  embeddings: np.ndarray
  index: MipsIndex
  fused: FusedSearch | None = None

  def __len__(self) -> int:
    return len(self.labels)

  def search(
    self, embeddings: np.ndarray, words: sp.csr_matrix | None, k: int
  ) -> Shortlist:
    """The k best labels of documents.

    Args:
      embeddings: `[n, dim]` float32.
      words: `[n, num_words]` f32, of `fused` of this state; None: they are
        ranked by embeddings alone.
      k: labels a document.
    """
    if words is None:
      return Shortlist(*self.index.search(embeddings, k))
    nothing = Ragged.empty(len(embeddings))
    return self.fused.search(
      self.index, self.embeddings, embeddings, words, nothing, k
    )

  def describe(
    self, tags: Shortlist, min_score: float = -np.inf
  ) -> list[list[dict[str, Any]]]:
    """What to tell of tags that were found in this state.

    Args:
      tags: of some documents.
      min_score: lowest score that is told.

    Returns:
      for each document its `{"uid", "title", "score"}`, best first.
    """
    kept = (tags.labels >= 0) & (tags.scores >= min_score)
    used = np.unique(tags.labels[kept])
    names = {
      index: label._asdict()
      for index, label in zip(used.tolist(), self.labels.get(used), strict=True)
    }
    return [
      [
        {**names[label], 'score': round(score, 6)}
        for label, score in zip(
          labels[keep].tolist(), scores[keep].tolist(), strict=True
        )
      ]
      for labels, scores, keep in zip(
        tags.labels, tags.scores, kept, strict=True
      )
    ]


def _is_count(value: Any) -> bool:
  return type(value) is int and value > 0


def _is_length(value: Any) -> bool:
  return type(value) is int and 2 < value < 2**20


def _are_widths(value: Any) -> bool:
  return (
    isinstance(value, list)
    and bool(value)
    and all(map(_is_count, value))
    and value == sorted(set(value))
  )


def _is_weight(value: Any) -> bool:
  return (
    type(value) in (int, float)
    and math.isfinite(value)
    and 0 < value <= MAX_WEIGHT
  )


# What each entry of `lmtx.json` that a program reads must be.
_NEEDED = {
  'num_labels': _is_count,
  'dim': _is_count,
  'encode_title': lambda value: isinstance(value, bool),
  'label_text': lambda value: value in ('title', 'title_content'),
  'max_doc_tokens': _is_length,
  'doc_widths': _are_widths,
  'compute_dtype': lambda value: value in ('float32', 'bfloat16'),
}
# And those that need not be there.
_KNOWN = {
  WEIGHT: _is_weight,
  PRIOR: _is_weight,
  VOTES_WEIGHT: _is_weight,
  'max_label_tokens': _is_length,  # without, labels cannot be added
}


def read_about(folder: str) -> dict[str, Any]:
  """Reads `lmtx.json`.

  Raises:
    UserError: there is none, or a broken one, or a newer one.
  """
  path = os.path.join(folder, ABOUT)
  if not os.path.exists(path):
    if not os.path.isdir(folder):
      raise UserError(f'--bundle={folder}: there is no such folder')
    export, hint = os.path.join(folder, 'export'), ''
    if os.path.exists(os.path.join(export, ABOUT)):
      hint = f'; it is a run, whose bundle is {export}'
    raise UserError(
      f'--bundle={folder} is not a bundle: no {ABOUT} in it{hint}'
    )
  try:
    about = read_json(path)
    if about['format'] > VOTES_FORMAT:
      version = about.get('version', '(of no version)')
      raise UserError(
        f'{folder} was made by lmtx_jax {version}, newer than this'
        f' {__version__}, in format {about["format"]}, which is not known here;'
        ' update lmtx_jax'
      )
  except (ValueError, KeyError, TypeError, OSError, RecursionError) as e:
    raise UserError(f'{path} is not what a bundle has there: {e}') from e
  needed = _NEEDED | {n: check for n, check in _KNOWN.items() if n in about}
  if VOTES_WEIGHT in about:
    needed |= {WEIGHT: _is_weight, NUM_NEIGHBOURS: _is_count}
  for key, is_right in needed.items():
    if key not in about:
      raise UserError(f'{path} lacks {key!r}')
    if not is_right(about[key]):
      raise UserError(
        f'{path}: {key!r} is {shown(about[key])}, which no bundle has'
      )
  name = about.get('label_folder', '')  # format 2 had none
  if name and not (isinstance(name, str) and GENERATION.fullmatch(name)):
    raise UserError(f'{path}: label_folder {name!r} is no name of one')
  return about


def open_labels(folder: str, index_memory: int | None = None) -> LabelState:
  """Opens the labels as they are now.

  Args:
    folder: of the bundle.
    index_memory: see ScannIndex.load.

  Raises:
    UserError: a file is missing or broken, or does not fit to the others.
  """
  about = read_about(folder)
  while True:
    try:
      return _open(folder, about, index_memory)
    except UserError:
      # Since lmtx.json was read, labels may have changed twice.
      now = read_about(folder)
      if now.get('label_folder', '') == about.get('label_folder', ''):
        raise
      about = now


def _open(
  bundle: str, about: dict[str, Any], index_memory: int | None
) -> LabelState:
  folder = os.path.join(bundle, about.get('label_folder', ''))
  path = os.path.join(folder, EMBEDDINGS)
  num_labels = about['num_labels']
  try:
    embeddings = open_embeddings(path)
    if embeddings.shape != (expected := (num_labels, about['dim'])):
      raise UserError(f'{path} has shape {embeddings.shape}, not {expected}')
    path = os.path.join(folder, LABELS)
    labels = LabelFile(path, num_labels)
  except OSError as e:
    raise UserError(f'{path}: {e.strerror}; the bundle is not whole') from e
  path = os.path.join(folder, SCANN)
  if not _has_index(path, about):
    index = ExactIndex(embeddings)
  else:
    index = ScannIndex.load(path, num_labels, index_memory)
  fused = open_fused(bundle, folder, about)
  return LabelState(about, labels, embeddings, index, fused)


def bundle_format(fused: FusedSearch | None) -> int:
  """The oldest format whose programs rank labels like this."""
  if fused is None:
    return FORMAT
  if fused.votes is not None:
    return VOTES_FORMAT
  return FUSED_FORMAT if fused.log_yeses is None else PRIOR_FORMAT


def _has_index(path: str, about: dict[str, Any]) -> bool:
  """Whether there is an index of ScaNN's that can be opened here."""
  if not is_installed():
    return False
  there = os.path.isdir(path)
  if about.get('index') == 'scann' and not there:
    raise UserError(f'{path}: there is no such folder; the bundle is not whole')
  return there


def write_label_index(
  folder: str, embeddings: np.ndarray, like: MipsIndex
) -> str:
  """Writes ScaNN's index, where labels are many or there was one before.

  Args:
    folder: of the label files.
    embeddings: `[num_labels, dim]` f32 or bf16.
    like: the index that was used so far.

  Returns:
    what `lmtx.json` calls the index: 'scann' or 'exact'.

  Raises:
    UserError: ScaNN cannot write it.
  """
  many = len(embeddings) >= BRUTE_FORCE_BELOW
  if not is_installed() or not (many or isinstance(like, ScannIndex)):
    return 'exact'
  write_index(os.path.join(folder, SCANN), embeddings)
  return 'scann'
