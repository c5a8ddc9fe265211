"""Makes the teacher that the flags name, and pseudo labels of its verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib

import numpy as np

from lmtx_jax.config import TeacherConfig
from lmtx_jax.data.corpus import Texts
from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm import server_command
from lmtx_jax.teacher.llm.teacher import LlmTeacher
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


def check_teacher(config: TeacherConfig, llm: LlmConfig) -> None:
  """Raises a UserError where an LLM is wanted and none is named."""
  if config.teacher == 'sglang' and not llm.urls and not llm.teacher_launch:
    raise UserError(
      '--teacher=sglang needs --teacher_url=http://HOST:PORT of an SGLang'
      ' server, or --teacher_launch=MODEL to start one; --teacher=lexical needs'
      ' none'
    )


def jax_environ(config: TeacherConfig, llm: LlmConfig) -> dict[str, str]:
  """What JAX has to know of a GPU that it shares with the teacher.

  Returns:
    Environment variables, for `devices.setup`.

  Raises:
    UserError: `--teacher_launch` makes no sense.
  """
  return server_command.jax_environ(llm) if config.teacher == 'sglang' else {}


@contextlib.contextmanager
def llm_teacher(
  config: TeacherConfig, llm: LlmConfig, server_log: str
) -> Iterator[LlmTeacher | None]:
  """The LLM, if it is the teacher, and its end when the run ends.

  Args:
    config: the teacher's flags.
    llm: the LLM's flags.
    server_log: where a server that is started here writes.
  """
  if config.teacher != 'sglang':
    yield None
    return
  teacher = LlmTeacher(llm, config.prompt, server_log)
  with contextlib.closing(teacher):
    yield teacher


def make_teacher(
  config: TeacherConfig, documents: Sequence[Texts], labels: Texts
) -> Teacher:
  """A teacher that is made of the texts it will be asked about.

  Args:
    config: the teacher's flags.
    documents: every set of documents that it will be asked about (training and
      dev); the lexical teacher counts words in them, the oracle reads their
      true labels.
    labels: the label set.
  """
  if config.teacher == 'oracle':
    return OracleTeacher(config, documents, labels)
  from lmtx_jax.teacher.lexical import LexicalTeacher  # slow to import

  return LexicalTeacher(config, documents, labels)


def shortlist_pairs(
  documents: Texts, labels: Texts, shortlist: Shortlist
) -> tuple[Pairs, np.ndarray]:
  """The questions of a shortlist; none about an empty document.

  Args:
    documents: texts of the `num_docs` documents.
    labels: texts of the label set.
    shortlist: labels of each document.

  Returns:
    The pairs, row by row, and `[num_docs, k]` bool, where they stand.
  """
  wanted = (shortlist.labels >= 0) & ~documents.is_empty[:, None]
  doc_index, column = np.nonzero(wanted)
  label_index = shortlist.labels[doc_index, column].astype(np.int64)
  return Pairs(documents, labels, doc_index, label_index), wanted


def pseudo_labels(
  store: VerdictStore,
  teacher: Teacher,
  documents: Texts,
  labels: Texts,
  shortlist: Shortlist,
  asked_by: str,
  report: Callable[[dict[str, float]], None] | None = None,
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
    report: is told of the progress now and then.

  Returns:
    The pseudo labels, in the order of the shortlist, and what they cost.
  """
  pairs, wanted = shortlist_pairs(documents, labels, shortlist)
  verdicts, tally = store.judge(teacher, pairs, asked_by, report)
  accepted, rejected = (
    np.zeros(wanted.shape, bool),
    np.zeros(wanted.shape, bool),
  )
  accepted[wanted] = verdicts.answer == YES
  rejected[wanted] = verdicts.answer == NO
  table = shortlist.labels.astype(np.int32, copy=False)
  result = PseudoLabels(
    Ragged.from_mask(table, accepted),
    Ragged.from_mask(table, rejected),
  )
  return result, tally
