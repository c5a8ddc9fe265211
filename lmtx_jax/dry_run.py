"""What a run would ask its teacher, how long that takes and what it costs."""

from __future__ import annotations

import datetime
import json
import math
import time
from typing import Any

import numpy as np

from lmtx_jax.stages import Stages
from lmtx_jax.teacher.pairs import Pairs, Tally
from lmtx_jax.teacher.questions import Questions
from lmtx_jax.teacher.teacher import shortlist_pairs
from lmtx_jax.types import INVALID, YES, Verdicts

_FIRST_PAIRS, _PROBE_PAIRS = 8, 64  # not timed, and timed


def dry_run(stages: Stages) -> str:
  """Makes the first shortlist, asks a few questions, and tells the rest.

  What is made and answered on the way is kept: the run goes on from there.

  Returns:
    A page for people.
  """
  inputs, config = stages.inputs, stages.config
  shortlist = stages.rankings.shortlist(stages.warm_up())
  pairs, _ = shortlist_pairs(inputs.train.texts, inputs.label_texts, shortlist)
  known = stages.store.known(stages.teacher, pairs)
  probe = _probe(stages, pairs.take(np.flatnonzero(~known)))
  known = stages.store.known(stages.teacher, pairs)
  to_ask = len(Questions(pairs.take(np.flatnonzero(~known))))
  cycles, budget = config.run.num_cycles, config.plan.teacher_budget
  first, num_dev = len(pairs), len(inputs.dev.corpus)
  total = cycles * (first + num_dev)
  if budget:  # the planner's pairs are others, so none of them is known yet
    first, total = budget // cycles - num_dev, budget
    to_ask = first
  at_most = total - (0 if budget else int(known.sum()))
  price = config.llm.teacher_usd_per_mtok
  rows = [
    ('', 'pairs', 'stored', 'to ask', 'tokens', 'time', 'US dollars'),
    (
      'first cycle',
      f'{first:,}',
      f'{known.sum():,}',
      *_cost(to_ask, probe, price),
    ),
    (
      f'{cycles} cycles and dev scores, at most',
      f'{total:,}',
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
  first, last = min(_FIRST_PAIRS, len(order) // 2), _FIRST_PAIRS + _PROBE_PAIRS
  if _asks_lists(stages):
    # Lists that were cut short would be others than the run's own.
    docs = unknown.doc_index[order]
    first, last = _doc_end(docs, first), _doc_end(docs, last)
    first = 0 if first == last else first
  some = unknown.take(order[first:last])
  if not len(some):
    return {}

  def ask(pairs: Pairs) -> tuple[Verdicts, Tally]:
    name = f'{stages.run.run_id}/probe'
    return stages.store.judge(stages.teacher, pairs, name)

  ask(unknown.take(order[:first]))  # whatever has to wake up does so
  before = stages.teacher.usage()
  start = time.monotonic()
  verdicts, tally = ask(some)
  seconds = time.monotonic() - start
  spent = {k: v - before[k] for k, v in stages.teacher.usage().items()}
  probe = {
    'pairs': len(some),
    'seconds': seconds,
    'yes_rate': tally.yes / len(some),
    **spent,
  }
  if _asks_lists(stages):
    probe |= _compare(stages, some, verdicts)
  return probe


def _asks_lists(stages: Stages) -> bool:
  config = stages.config
  return config.teacher.teacher == 'sglang' and config.llm.question == 'list'


def _doc_end(docs: np.ndarray, num: int) -> int:
  """So many pairs or a few more, that no document is cut.

  Args:
    docs: `[num_pairs]` int64, equal ones side by side.
    num: of pairs.
  """
  ends = np.append(np.flatnonzero(np.diff(docs)) + 1, len(docs))
  return int(ends[min(np.searchsorted(ends, num), len(ends) - 1)])


def _compare(
  stages: Stages, pairs: Pairs, by_list: Verdicts
) -> dict[str, float]:
  """Asks alone about pairs that were in lists: do the verdicts agree?

  Nothing is timed: the servers have seen these documents a moment ago.
  """
  teacher, before = stages.teacher.one_by_one, stages.teacher.usage()
  base = 1 + pairs.label_index.max()
  asked_alone = stages.teacher.asked_alone
  was_listed = ~np.isin(
    pairs.doc_index * base + pairs.label_index,
    asked_alone.doc_index * base + asked_alone.label_index,
  )
  pairs, in_lists = pairs.take(was_listed), by_list.answer[was_listed]
  num_new = int((~stages.store.known(teacher, pairs)).sum())
  name = f'{stages.run.run_id}/probe_alone'
  alone = stages.store.judge(teacher, pairs, name)[0].answer
  both = (in_lists != INVALID) & (alone != INVALID)
  in_lists, alone = in_lists[both] == YES, alone[both] == YES
  spent = teacher.usage()['prompt_tokens'] - before['prompt_tokens']
  return {
    'compared': len(alone),
    'equal': _mean(in_lists == alone),
    'kappa': cohens_kappa(in_lists, alone),
    'yes_in_lists': _mean(in_lists),
    'yes_alone': _mean(alone),
    'tokens_alone': spent / num_new if num_new else math.nan,
  }


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if len(values) else math.nan


def cohens_kappa(one: np.ndarray, other: np.ndarray) -> float:
  """Agreement beyond chance of two sets of `[n]` bool verdicts; 1 is all.

  NaN where chance alone would make them agree.
  """
  if not len(one):
    return math.nan
  a, b = one.mean(), other.mean()
  by_chance = a * b + (1 - a) * (1 - b)
  if by_chance == 1:
    return math.nan
  return float(((one == other).mean() - by_chance) / (1 - by_chance))


def _cost(pairs: int, probe: dict[str, float], price: float) -> tuple[str, ...]:
  """Pairs, tokens, time and money, as far as the probe tells."""
  if not probe:
    return f'{pairs:,}', '-', '-', '-'
  seconds = round(pairs * probe['seconds'] / probe['pairs'])
  tokens = pairs * _tokens(probe) / probe['pairs']
  return (
    f'{pairs:,}',
    f'{tokens / 1e6:,.2f} M' if tokens else '-',
    str(datetime.timedelta(seconds=seconds)),
    f'{tokens / 1e6 * price:,.2f}' if price else '-',
  )


def _tokens(probe: dict[str, float]) -> float:
  """Read and written."""
  return probe.get('prompt_tokens', 0) + probe.get('written_tokens', 0)


def _teacher(stages: Stages) -> str:
  known: dict[str, Any] = json.loads(stages.teacher.identity)
  shown = ('teacher', 'model', 'question', 'list_prompt', 'prompt')
  shown += ('chat_format', 'verdict')
  lines = (f'{key}: {known[key]}' for key in shown if key in known)
  return '\n'.join(line.replace('\n', '\\n') for line in lines)


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
  line += '; stored, so they are not asked again'
  return '\n'.join([line, *_comparison(probe)])


def _comparison(probe: dict[str, float]) -> list[str]:
  """What is known of lists and single questions, if it was asked."""
  if 'compared' not in probe:
    return []
  num, kappa = probe['pairs'], probe['kappa']
  lines = [
    f'lists: {probe["listed"]:.0f} of these pairs were asked about in lists,'
    f' {probe["asked_again"]:.0f} of them again alone;'
    f' {probe["written_tokens"] / num:.1f} tokens written a pair'
  ]
  if probe['compared']:
    lines.append(
      f'asked about alone as well: {probe["equal"]:.0%} of'
      f' {probe["compared"]:.0f} verdicts of lists are the same,'
      f" Cohen's kappa {'-' if math.isnan(kappa) else f'{kappa:.2f}'},"
      f' {probe["yes_in_lists"]:.0%} yes in lists,'
      f' {probe["yes_alone"]:.0%} alone; tokens read or written a pair:'
      f' {_tokens(probe) / num:.0f} in lists,'
      f' {probe["tokens_alone"]:.0f} alone; stored as of --question=pair'
    )
  return lines
