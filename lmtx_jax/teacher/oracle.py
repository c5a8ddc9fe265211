"""A simulated teacher that reads the true labels and errs at a set rate.

For rehearsing a run before an LLM is paid for it, and for experiments. Its
pseudo labels are made of truth: a score reached with it is no zero-shot result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import hashlib
import json

import numpy as np

from lmtx_jax.config import TeacherConfig
from lmtx_jax.data.corpus import Texts
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.types import NO, YES, UserError, Verdicts

_CHUNK = 8192  # pairs answered at a time


class OracleTeacher:
  """Says yes to a share of the true pairs and to a share of the wrong ones.

  The answer is a function of the two texts alone, so a pair is judged alike in
  every cycle and every run; texts that occur twice share their true labels.
  """

  yes_threshold = None

  def __init__(
    self, config: TeacherConfig, documents: Sequence[Texts], labels: Texts
  ):
    """Takes the flags and all documents that it will be asked about."""
    self._recall = config.oracle_recall
    self._false_yes = config.oracle_false_yes
    self._prompt = prompts.TEMPLATES[config.prompt]
    self._documents, self._labels = documents, labels

  @functools.cached_property
  def _truth(self) -> np.ndarray:
    """`[num_true]` uint64, sorted hashes of the true pairs of texts."""
    if not any(len(texts.corpus.targets.values) for texts in self._documents):
      raise UserError(
        '--teacher=oracle answers from the target_ind of the training'
        ' documents, and none has any'
      )
    return np.unique(
      np.concatenate(
        [
          _hash_pairs(
            Pairs(texts, self._labels, targets.row_ids, targets.values)
          )
          for texts in self._documents
          for targets in [texts.corpus.targets]
        ]
      )
    )

  @functools.cached_property
  def _known(self) -> np.ndarray:
    """`[num_docs]` uint64, hashes of the documents whose truth it has."""
    return np.concatenate([_first_64_bits(texts) for texts in self._documents])

  @functools.cached_property
  def identity(self) -> str:
    """Names the simulation, its rates and a digest of the truth."""
    truth = self._truth.astype('<u8').tobytes()
    return json.dumps(
      {
        'teacher': 'oracle (simulation)',
        'recall': self._recall,
        'false_yes': self._false_yes,
        'truth': hashlib.sha256(truth).hexdigest(),
        'prompt': self._prompt,
      },
      sort_keys=True,
    )

  def usage(self) -> dict[str, float]:
    """Asking costs nothing."""
    return {}

  def judge(self, pairs: Pairs) -> Iterator[tuple[np.ndarray, Verdicts]]:
    """See `Teacher.judge`.

    Raises:
      ValueError: a document is none of those that the oracle was made for.
    """
    documents = _first_64_bits(pairs.documents)[np.unique(pairs.doc_index)]
    if not np.isin(documents, self._known).all():
      raise ValueError('the oracle has no truth for these documents')
    for start in range(0, len(pairs), _CHUNK):
      part = pairs.take(slice(start, start + _CHUNK))
      yield np.arange(start, start + len(part)), self._answer(part)

  def _answer(self, pairs: Pairs) -> Verdicts:
    hashes = _hash_pairs(pairs)
    rate = np.where(np.isin(hashes, self._truth), self._recall, self._false_yes)
    # [0, 1): the upper 53 bits of a hash of the hash.
    draw = (_splitmix64(hashes) >> np.uint64(11)) * 2.0**-53
    yes = draw < rate
    with np.errstate(divide='ignore', invalid='ignore'):
      p_yes = np.where(
        yes, 1 - 0.49 * draw / rate, 0.49 * (1 - draw) / (1 - rate)
      )
    return Verdicts(
      np.where(yes, YES, NO).astype(np.int8), p_yes.astype(np.float32)
    )


def _hash_pairs(pairs: Pairs) -> np.ndarray:
  """`[num_pairs]` uint64, a hash of both texts of each pair."""
  docs = _first_64_bits(pairs.documents)[pairs.doc_index]
  labels = _first_64_bits(pairs.labels)[pairs.label_index]
  return _splitmix64(_splitmix64(docs) ^ labels)


def _first_64_bits(texts: Texts) -> np.ndarray:
  return texts.digests.view('<u8').reshape(-1, 2)[:, 0]


def _splitmix64(x: np.ndarray) -> np.ndarray:
  """Mixes 64 bits (Steele, Lea and Flood, OOPSLA 2014, figure 17)."""
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
