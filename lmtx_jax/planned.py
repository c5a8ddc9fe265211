"""Teaching within a budget: the planner bound to a run and its artifacts."""

from __future__ import annotations

from absl import logging
import numpy as np

from lmtx_jax import processes
from lmtx_jax.files import read_arrays, write_arrays
from lmtx_jax.inputs import Inputs
from lmtx_jax.neighbour_votes import neighbour_weights
from lmtx_jax.planning import planner
from lmtx_jax.planning.evidence import Evidence, Words
from lmtx_jax.planning.judged import Judged
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.stages import Stages
from lmtx_jax.teacher.pairs import Pairs, Tally
from lmtx_jax.types import NO, YES, PseudoLabels, UserError, Verdicts


def check_budget(budget: int, num_cycles: int, inputs: Inputs) -> None:
  """Raises a UserError where it is too small, or more than there are pairs."""
  num_dev = num_cycles * len(inputs.dev.corpus)
  num_labels = len(np.unique(inputs.label_key))
  num_docs = int((~inputs.train.texts.is_empty).sum())
  if budget < num_dev + num_cycles:
    raise UserError(
      f'--teacher_budget={budget} is too small: {num_cycles} cycles ask up to'
      f' {num_dev} questions about dev documents alone; lower --num_dev_docs or'
      ' --num_cycles'
    )
  if budget > num_dev + num_docs * num_labels:
    raise UserError(
      f'--teacher_budget={budget} is more than all pairs of {num_docs} training'
      f' documents and {num_labels} labels, and {num_dev} dev questions'
    )


def _questions_until(stages: Stages, cycle: int) -> int:
  """Questions about training documents by the end of a cycle.

  The same number in each; what the dev documents may need is kept back.
  """
  num_cycles = stages.config.run.num_cycles
  num_dev = num_cycles * len(stages.inputs.dev.corpus)
  budget = stages.config.plan.teacher_budget
  return (budget - num_dev) * (cycle + 1) // num_cycles


def teach(stages: Stages, cycle: int, snapshot: Snapshot) -> PseudoLabels:
  """Asks a cycle's questions; all yeses and noes of the run so far."""
  run, num_docs = stages.run, len(stages.inputs.train.corpus)

  def ask() -> tuple[PseudoLabels, Tally]:
    before = Judged.none()
    for earlier in range(cycle):
      path = run.cycle_file(earlier, 'judged.npz')
      before += Judged(**read_arrays(path))
    evidence = _evidence(stages, snapshot)
    with run.timed(cycle, 'teach'):
      found, tally = _ask(stages, cycle, evidence, before)
    if processes.is_lead():
      write_arrays(run.cycle_file(cycle, 'judged.npz'), found._asdict())
    judged = before + found
    accepted, rejected = (judged.rows(answer, num_docs) for answer in (YES, NO))
    return PseudoLabels(accepted, rejected), tally

  return stages.taught(cycle, ask)


def _ask(
  stages: Stages, cycle: int, evidence: Evidence, before: Judged
) -> tuple[Judged, Tally]:
  inputs, tallies = stages.inputs, []

  def judge(docs: np.ndarray, labels: np.ndarray) -> Verdicts:
    name = f'{stages.run.run_id}/cycle_{cycle:02d}_{len(tallies)}'
    pairs = Pairs(inputs.train.texts, inputs.label_texts, docs, labels)
    verdicts, tally = stages.store.judge(
      stages.teacher, pairs, name, stages.asking_report(cycle)
    )
    tallies.append(tally)
    return verdicts

  count = _questions_until(stages, cycle) - len(before.docs)
  rounds = stages.config.plan.plan_rounds
  found = planner.ask(evidence, judge, before, count, rounds)
  if len(found.docs) < count:
    logging.warning(
      'only %d of %d questions asked: there are no more candidates; raise'
      ' --plan_candidates or --neighbours',
      len(found.docs),
      count,
    )
  return found, Tally.sum(tallies)


def _evidence(stages: Stages, snapshot: Snapshot) -> Evidence:
  """What is known in this cycle; without words if they are not wanted."""
  rankings, inputs = stages.rankings, stages.inputs
  plan, depth = stages.config.plan, stages.config.plan.plan_candidates
  near = neighbour_weights(
    rankings.neighbours(snapshot, plan.neighbours), len(inputs.train.corpus)
  )
  words = None
  if stages.config.shortlist.shortlist != 'dense':
    words = Words(
      rankings.lexical_index, rankings.words(), rankings.lexical(depth)
    )
  return Evidence(
    rankings.doc_embeddings(snapshot),
    snapshot.label_embeddings,
    rankings.dense(snapshot, depth),
    words,
    near,
    inputs.train.corpus.filters,
    inputs.label_key,
    inputs.train.texts.is_empty,
  )
