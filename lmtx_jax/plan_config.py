"""Flags of what is asked, where questions are counted."""

from __future__ import annotations

import dataclasses

from lmtx_jax.cli import flag


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """Teacher budget."""

  teacher_budget: int = flag(
    0,
    'Questions of the whole run at most, those about dev documents included; a '
    'planner then asks first where a yes is likely. 0: about every '
    'shortlisted pair in every cycle, as in the paper.',
    low=0,
  )
  train_on: str = flag(
    'cycle',
    'LMTX: whose yeses (and noes, for --hard_negatives) a cycle trains on: its '
    'own, as in the paper, or those of the whole run so far, which '
    '--teacher_budget always does.',
    choices=('cycle', 'run'),
  )
  plan_rounds: int = flag(
    8,
    'Rounds a cycle of --teacher_budget; after each the planner learns from '
    'the answers.',
    low=1,
  )
  plan_candidates: int = flag(
    50,
    'Labels of each ranking (dense, lexical) that the planner chooses among, '
    'for each document.',
    low=1,
  )
  neighbours: int = flag(
    20,
    'Nearest training documents whose accepted labels the planner, and '
    '--neighbour_weight, look at, by --similarity=cosine; 0: none.',
    low=0,
  )
