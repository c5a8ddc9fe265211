"""Makes the teacher that the flags name, and pseudo labels of its verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmtx_jax.config import TeacherConfig
from lmtx_jax.data.corpus import Texts
from lmtx_jax.teacher.lexical import LexicalTeacher
from lmtx_jax.teacher.oracle import OracleTeacher
from lmtx_jax.teacher.pairs import Pairs, Tally, Teacher
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import (
  NO,
  YES,
  PseudoLabels,
  Ragged,
  Shortlist,
  UserError,
)


def check_teacher(config: TeacherConfig) -> None:
  """Raises a UserError where this version has no such teacher."""
  if config.teacher not in ('lexical', 'oracle'):
    raise UserError(
      f'--teacher={config.teacher}: this version has no SGLang backend yet; '
      'use --teacher=lexical or --teacher=oracle'
    )


def make_teacher(
  config: TeacherConfig, documents: Sequence[Texts], labels: Texts
) -> Teacher:
  """The teacher of `--teacher`.

  Args:
    config: the teacher's flags.
    documents: every set of documents that it will be asked about (training and
      dev); the lexical teacher counts words in them, the oracle reads their
      true labels.
    labels: the label set.

  Raises:
    UserError: there is no such teacher in this version.
  """
  check_teacher(config)
  if config.teacher == 'oracle':
    return OracleTeacher(config, documents, labels)
  return LexicalTeacher(config, documents, labels)


def pseudo_labels(
  store: VerdictStore,
  teacher: Teacher,
  documents: Texts,
  labels: Texts,
  shortlist: Shortlist,
  asked_by: str,
) -> tuple[PseudoLabels, Tally]:
  """The teacher's yes and no among the shortlists (Algorithm 1, line 6).

  Empty documents are never asked about; a pair without a readable answer is
  neither accepted nor rejected.

  Args:
    store: remembers the verdicts.
    teacher: judges what the store does not know.
    documents: texts of the `num_docs` documents.
    labels: texts of the label set.
    shortlist: labels of each document.
    asked_by: name of this stage of this run, see `VerdictStore.judge`.

  Returns:
    The pseudo labels, in the order of the shortlist, and what they cost.
  """
  wanted = (shortlist.labels >= 0) & ~documents.is_empty[:, None]
  doc_index, column = np.nonzero(wanted)
  label_index = shortlist.labels[doc_index, column].astype(np.int64)
  verdicts, tally = store.judge(
    teacher, Pairs(documents, labels, doc_index, label_index), asked_by
  )
  accepted, rejected = (
    np.zeros(wanted.shape, bool),
    np.zeros(wanted.shape, bool),
  )
  accepted[wanted] = verdicts.answer == YES
  rejected[wanted] = verdicts.answer == NO
  table = shortlist.labels.astype(np.int32, copy=False)
  result = PseudoLabels(
    Ragged.from_mask(table, accepted), Ragged.from_mask(table, rejected)
  )
  return result, tally
