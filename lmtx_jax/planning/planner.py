"""Chooses the questions of a cycle, and learns from the answers between them.

The teacher's own answers fit a logistic regression of p(yes) on what is known
of a pair: how close the encoder and the words put document and label, how often
the label was accepted, and by the document's nearest neighbours. The next
questions are those with the highest p(yes), less for documents that have
several yeses already. No true label is read.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import TYPE_CHECKING

from absl import logging
import numpy as np
from threadpoolctl import threadpool_limits

from lmtx_jax import processes
from lmtx_jax.fusion import reciprocal_ranks
from lmtx_jax.planning.evidence import Answers, Evidence
from lmtx_jax.planning.judged import READABLE, Judged
from lmtx_jax.types import YES, Verdicts

if TYPE_CHECKING:
  from sklearn.pipeline import Pipeline

_ENOUGH = 0.3  # how much less each yes makes a further one of a document worth

# Answers to (docs, labels).
Judge = Callable[[np.ndarray, np.ndarray], Verdicts]


def ask(
  evidence: Evidence,
  judge: Judge,
  before: Judged,
  num_questions: int,
  num_rounds: int,
) -> Judged:
  """Asks the questions of a cycle.

  Args:
    evidence: of the cycle.
    judge: answers.
    before: questions of earlier cycles, which are not asked again.
    num_questions: of this cycle; fewer if there are no more candidates.
    num_rounds: after which the answers are learnt from.

  Returns:
    What was asked in this cycle.
  """
  found, number = Judged.none(), 0
  num_rounds = min(num_rounds, num_questions)  # each has one at least
  while len(found.docs) < num_questions:  # more rounds if candidates were few
    number += 1
    target = num_questions * min(number, num_rounds) // num_rounds
    count = target - len(found.docs)
    docs, labels = processes.lead_arrays(
      functools.partial(_choose, evidence, before + found, count)
    )
    if not len(docs):
      break
    verdicts = judge(docs, labels)
    found += Judged(docs, labels, verdicts.answer)
    yes = float((found.answers == YES).mean())
    logging.info('round %d: %d asked, %.3f yes', number, len(found.docs), yes)
  return found


def _fit(
  evidence: Evidence, judged: Judged, answers: Answers
) -> Pipeline | None:
  """p(yes) as the answers so far have it; None if they are all alike."""
  readable = np.isin(judged.answers, READABLE)
  is_yes = judged.answers[readable] == YES
  if is_yes.all() or not is_yes.any():
    return None
  features = evidence.describe(
    judged.docs[readable], judged.labels[readable], answers
  )
  # Slow to import, and not every run plans.
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
  # Small products: threads would wait for each other most of the time.
  with threadpool_limits(1):
    return model.fit(features.astype(np.float64), is_yes)


def _predict(
  model: Pipeline, evidence: Evidence, docs, labels, answers: Answers
) -> np.ndarray:
  features = evidence.describe(docs, labels, answers).astype(np.float64)
  return model.predict_proba(features)[:, 1].astype(np.float32)


def _choose(
  evidence: Evidence, judged: Judged, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """The most promising pairs, grouped by document."""
  answers = evidence.answers(judged)
  model = _fit(evidence, judged, answers)
  if model is None:
    docs, labels, value = _by_ranks(evidence, answers)
  else:
    num_yes = np.bincount(
      judged.docs[judged.answers == YES], minlength=evidence.shape[0]
    )
    parts = []
    for docs, labels in evidence.candidates(answers):
      if len(docs):
        p_yes = _predict(model, evidence, docs, labels, answers)
        parts.append((docs, labels, p_yes / (1 + _ENOUGH * num_yes[docs])))
    if not parts:
      return np.zeros(0, np.int64), np.zeros(0, np.int64)
    docs, labels, value = map(np.concatenate, zip(*parts, strict=True))
  best = np.argsort(-value, kind='stable')[:count]
  # A document's questions together, the best ahead: its text is then cached.
  best = best[np.lexsort((-value[best], docs[best]))]
  return docs[best], labels[best]


def _by_ranks(evidence: Evidence, answers: Answers):
  """Candidates while nothing is known: by the ranks in both lists."""
  shortlists = evidence.shortlists
  depth = sum(shortlist.labels.shape[1] for shortlist in shortlists)
  merged = reciprocal_ranks(shortlists, depth)
  num_labels = evidence.shape[1]
  docs, column = np.nonzero(merged.labels >= 0)
  labels = evidence.label_key[merged.labels[docs, column]].astype(np.int64)
  keys, first = np.unique(docs * num_labels + labels, return_index=True)
  allowed = [d * num_labels + n for d, n in evidence.candidates(answers)]
  first = first[np.isin(keys, np.concatenate(allowed))]
  # All documents' first labels, then their second ones: none is left out.
  return docs[first], labels[first], -column[first].astype(np.float32)
