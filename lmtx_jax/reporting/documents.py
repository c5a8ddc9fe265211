"""The documents of a run: handed over by it, or found by its flags."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from absl import flags as absl_flags

from lmtx_jax import cli
from lmtx_jax.config import TRAINING, Config, TextConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.corpus import Corpus
from lmtx_jax.inputs import Inputs, draw_documents
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class RunDocuments:
  """What is shown of a dataset.

  Attributes:
    train: the documents that the run trains on.
    test: those that it is scored on.
    labels: the label set.
    text: how a record becomes a text.
    yes_threshold: of an LLM's stored verdicts; None: as they were given.
  """

  train: Corpus
  test: Corpus
  labels: Corpus
  text: TextConfig
  yes_threshold: float | None


def of_inputs(inputs: Inputs, flags: Mapping[str, str]) -> RunDocuments:
  """Those that a run holds in memory anyway."""
  config = _config(flags)
  return RunDocuments(
    inputs.train.corpus,
    inputs.test.corpus,
    inputs.dataset.labels,
    config.text,
    _threshold(config),
  )


def of_flags(flags: Mapping[str, str], fingerprint: str) -> RunDocuments:
  """Reads the dataset that the flags name, and draws as the run did.

  Args:
    flags: of the run.
    fingerprint: of the dataset as the run knew it.

  Raises:
    UserError: it is not there any more, or another one now.
  """
  config = _config(flags)
  dataset = load_dataset(config.source)
  if dataset.fingerprint != fingerprint:
    raise UserError(f'{dataset.name} is not the data that the run was begun on')
  train, _, test = draw_documents(dataset, config)
  return RunDocuments(
    train, test, dataset.labels, config.text, _threshold(config)
  )


def _config(flags: Mapping[str, str]) -> Config:
  """The config of a run; flags that this version lacks are left out."""
  values = absl_flags.FlagValues()
  for part in TRAINING:
    cli.define(part, values)
  known = [f'--{k}={v}' for k, v in flags.items() if k in values]
  try:
    values(['report', *known])
  except absl_flags.Error as e:
    raise UserError(f'flags.txt: {e}'.replace('\n', ' ')) from e
  return Config(*(cli.build(part, values) for part in TRAINING))


def _threshold(config: Config) -> float | None:
  is_llm = config.teacher.teacher == 'sglang'
  return config.llm.yes_threshold if is_llm else None
