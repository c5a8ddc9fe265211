"""What a run would ask its teacher, how long that takes and what it costs."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

import numpy as np

from lmtx_jax.stages import Stages
from lmtx_jax.teacher.pairs import Pairs, Tally
from lmtx_jax.teacher.questions import Questions
from lmtx_jax.teacher.teacher import shortlist_pairs

_FIRST_PAIRS, _PROBE_PAIRS = 8, 64  # not timed, and timed


def dry_run(stages: Stages) -> str:
  """Makes the first shortlist, asks a few questions, and tells the rest.

  What is made and answered on the way is kept: the run goes on from there.

  Returns:
    A page for people.
  """
  inputs, config = stages.inputs, stages.config
  shortlist = stages.shortlist(stages.warm_up())
  pairs, _ = shortlist_pairs(inputs.train.texts, inputs.label_texts, shortlist)
  known = stages.store.known(stages.teacher, pairs)
  probe = _probe(stages, pairs.take(np.flatnonzero(~known)))
  known = stages.store.known(stages.teacher, pairs)
  to_ask = len(Questions(pairs.take(np.flatnonzero(~known))))
  per_cycle = len(pairs) + len(inputs.dev.corpus)
  at_most = config.run.num_cycles * per_cycle - int(known.sum())
  price = config.llm.teacher_usd_per_mtok
  rows = [
    ('', 'pairs', 'stored', 'to ask', 'tokens', 'time', 'US dollars'),
    (
      'first cycle',
      f'{len(pairs):,}',
      f'{known.sum():,}',
      *_cost(to_ask, probe, price),
    ),
    (
      f'{config.run.num_cycles} cycles and dev scores, at most',
      f'{config.run.num_cycles * per_cycle:,}',
      '',
      *_cost(max(0, at_most), probe, price),
    ),
  ]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  table = [
    '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
    for row in rows
  ]
  return '\n'.join([_teacher(stages), *table, _probe_line(probe)])


def _probe(stages: Stages, unknown: Pairs) -> dict[str, float]:
  """Asks all open questions on some documents, and times it."""
  docs = np.unique(unknown.doc_index)
  np.random.default_rng(stages.config.run.seed).shuffle(docs)
  place = np.empty(docs.max(initial=0) + 1, np.int64)
  place[docs] = np.arange(len(docs))
  order = np.argsort(place[unknown.doc_index], kind='stable')
  first = min(_FIRST_PAIRS, len(order) // 2)
  some = unknown.take(order[first : first + _PROBE_PAIRS])
  if not len(some):
    return {}

  def ask(pairs: Pairs) -> Tally:
    name = f'{stages.run.run_id}/probe'
    return stages.store.judge(stages.teacher, pairs, name)[1]

  ask(unknown.take(order[:first]))  # whatever has to wake up does so
  before = stages.teacher.usage()
  start = time.monotonic()
  tally = ask(some)
  seconds = time.monotonic() - start
  spent = {k: v - before[k] for k, v in stages.teacher.usage().items()}
  return {
    'pairs': len(some),
    'seconds': seconds,
    'yes_rate': tally.yes / len(some),
    **spent,
  }


def _cost(pairs: int, probe: dict[str, float], price: float) -> tuple[str, ...]:
  """Pairs, tokens, time and money, as far as the probe tells."""
  if not probe:
    return f'{pairs:,}', '-', '-', '-'
  seconds = round(pairs * probe['seconds'] / probe['pairs'])
  tokens = pairs * probe.get('prompt_tokens', 0) / probe['pairs']
  return (
    f'{pairs:,}',
    f'{tokens / 1e6:,.2f} M' if tokens else '-',
    str(datetime.timedelta(seconds=seconds)),
    f'{tokens / 1e6 * price:,.2f}' if price else '-',
  )


def _teacher(stages: Stages) -> str:
  known: dict[str, Any] = json.loads(stages.teacher.identity)
  shown = ('teacher', 'model', 'prompt', 'chat_format', 'verdict')
  return '\n'.join(f'{key}: {known[key]}' for key in shown if key in known)


def _probe_line(probe: dict[str, float]) -> str:
  if not probe:
    return 'nothing was left to ask in the first cycle, so nothing was timed'
  line = (
    f'timed on {probe["pairs"]:.0f} pairs in {probe["seconds"]:.2f} s:'
    f' {probe["pairs"] / probe["seconds"]:,.0f} pairs/s,'
    f' {probe["yes_rate"]:.0%} yes'
  )
  if tokens := probe.get('prompt_tokens'):
    line += (
      f', {tokens / probe["pairs"]:.0f} tokens a pair,'
      f' {probe["cached_tokens"] / tokens:.0%} of them from the cache'
    )
  return line + '; stored, so they are not asked again'
