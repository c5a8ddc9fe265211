"""Which flags a result depends on: a method leaves those of others unread."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from lmtx_jax.baseline_config import IcxmlConfig
from lmtx_jax.config import EncoderConfig, TeacherConfig, TextConfig
from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.plan_config import PlanConfig
from lmtx_jax.train_config import TrainConfig, WarmupConfig


def _names(config_class: type) -> frozenset[str]:
  return frozenset(field.name for field in dataclasses.fields(config_class))


_SELF_SUPERVISED = ('rts', 'maclr', 'ict', 'simcse')
_TRAINED = ('lmtx', *_SELF_SUPERVISED)
_WARMUP = _names(WarmupConfig) - {'warmup_epochs'}
_SCRATCH = frozenset(n for n in _names(EncoderConfig) if n[:8] == 'scratch_')
_LLM = _names(LlmConfig) | {'teacher_model'}
_QUESTION = frozenset(('prompt', 'prompt_template', 'verdict', 'yes_threshold'))
_OF_LMTX = frozenset(
  (
    *('num_cycles', 'dev_tolerance', 'warm_start', 'hard_negatives'),
    *('shortlist', 'shortlist_size', 'label_prior', 'neighbour_weight'),
    *('batching', 'batch_cluster_size'),
    *('loss', 'margin', 'loss_temperature', 'num_negatives'),
  )
)
_PLANS = _names(PlanConfig) - {'teacher_budget', 'train_on'}
_DRAWN = frozenset(('num_train_docs', 'num_dev_docs'))
_CUT = frozenset(('max_train_doc_tokens',))

# Flags that are read where another one has one of these values, by training and
# tagging. One that is in several lines is read where all of them hold, and one
# that is in none always is.
_ONLY_WITH: tuple[tuple[frozenset[str], str, tuple[str, ...]], ...] = (
  (
    _OF_LMTX | _names(PlanConfig) | _names(TeacherConfig) | _QUESTION,
    'method',
    ('lmtx',),
  ),
  (frozenset(('train_on', 'shortlist_size')), 'teacher_budget', ('0',)),
  (_LLM, 'method', ('lmtx', 'icxml')),
  (_LLM | {'prompt'}, 'teacher', ('sglang',)),
  (frozenset(('prompt',)), 'prompt_template', ('',)),
  (frozenset(('lexical_threshold',)), 'teacher', ('lexical',)),
  (frozenset(('oracle_recall', 'oracle_false_yes')), 'teacher', ('oracle',)),
  ((_names(TrainConfig) | _DRAWN | _CUT), 'method', _TRAINED),
  (frozenset(('lr_warmup_steps',)), 'lr_schedule', ('step',)),
  (frozenset(('batch_cluster_size',)), 'batching', ('clusters',)),
  (frozenset(('margin',)), 'loss', ('triplet_softmax', 'triplet')),
  (
    frozenset(('loss_temperature',)),
    'loss',
    ('triplet_softmax', 'decoupled_softmax'),
  ),
  (frozenset(('num_negatives',)), 'loss', ('triplet_softmax',)),
  (frozenset(('contrast_temperature',)), 'method', _SELF_SUPERVISED),
  (
    frozenset(('min_words', 'max_words', 'max_cut_tokens')),
    'method',
    ('rts',),
  ),
  (frozenset(('removal_rate',)), 'method', ('ict', 'maclr')),
  (frozenset(('training_head',)), 'method', ('simcse',)),
  (
    frozenset(
      (
        *('regulariser_weight', 'regulariser_labels'),
        *('cluster_refresh_steps', 'cluster_counts', 'cluster_growth_steps'),
        *('second_stage_steps', 'second_stage_threshold'),
      )
    ),
    'method',
    ('maclr',),
  ),
  (_names(IcxmlConfig), 'method', ('icxml',)),
  (frozenset(('icxml_retrieved',)), 'icxml_demonstrations', ('label',)),
  (frozenset(('shortlist_shards',)), 'index', ('auto', 'scann')),
  (_SCRATCH, 'encoder', ('scratch',)),
)

# What the warm-up reads beside its own flags, see `Stages.warm_up`.
_BY_WARMUP = _DRAWN | _CUT | {
  *('lr_warmup_steps', 'adam_eps', 'weight_decay', 'dropout'),
  'max_cut_tokens',
}  # fmt: skip
_BY_SCRATCH = _DRAWN | _CUT  # the vocabulary, and the positions
_AT_START = (_names(EncoderConfig) | _names(TextConfig)) - _CUT | {
  *('warmup_epochs', 'index', 'shortlist_shards', 'lexical_weight'),
}


def of_run(flags: Mapping[str, str]) -> dict[str, str]:
  """The flags that a trained run's scores depend on, less the seed.

  Args:
    flags: of the run, all of them.
  """
  return {
    name: value
    for name, value in flags.items()
    if name != 'seed' and (_is_read(name, flags) or _at_start(name, flags))
  }


def of_start(flags: Mapping[str, str]) -> dict[str, str]:
  """The flags that scores before training depend on, less the seed.

  Args:
    flags: of the run, all of them.
  """
  return {n: value for n, value in flags.items() if _at_start(n, flags)}


def depends_on(name: str, other: str) -> bool:
  """Whether it is a matter of the other flag if this one is read."""
  if name in _WARMUP:
    return other == 'warmup_epochs'
  if (name, other) == ('neighbours', 'neighbour_weight'):
    return True
  return any(name in names and other == of for names, of, _ in _ONLY_WITH)


def _is_read(name: str, flags: Mapping[str, str]) -> bool:
  """Whether anything but the warm-up and --encoder=scratch reads it."""
  votes = name == 'neighbours' and float(flags.get('neighbour_weight', 0))
  if name in _PLANS and flags.get('teacher_budget') == '0' and not votes:
    return False
  return name not in _WARMUP and all(
    flags.get(other) in values
    for names, other, values in _ONLY_WITH
    if name in names and other in flags
  )


def _at_start(name: str, flags: Mapping[str, str]) -> bool:
  """Whether the encoder before training, or how it is scored, reads it."""
  if name in _AT_START:
    return _is_read(name, flags)
  warms = flags['warmup_epochs'] != '0'
  if name in _WARMUP:
    return warms
  reads = warms and name in _BY_WARMUP
  if float(flags.get('lexical_weight', 0)):
    reads = reads or name in _DRAWN  # whose words are counted
  if flags['encoder'] == 'scratch':
    reads = reads or name in _BY_SCRATCH
  return reads and _is_more(name, flags)


def _is_more(name: str, flags: Mapping[str, str]) -> bool:
  """Of the flags that lengthen documents: whether it does."""
  if name not in ('max_train_doc_tokens', 'max_cut_tokens'):
    return True
  longest = float(flags['max_doc_tokens'])
  if name == 'max_cut_tokens':
    longest = max(longest, float(flags['max_train_doc_tokens']))
    return flags['method'] == 'rts' and float(flags[name]) > longest
  return float(flags[name]) > longest
