"""Scores a trained bundle on documents whose labels are known.

python -m lmtx_jax.evaluate --bundle=DIR (--data_dir=DIR | --dataset=NAME)
    [--split=test] [--output=FILE.json]

The dataset must have the label set that the bundle was trained with. Scores
are percent: P@k, R@k, nDCG@k and PSP@k, filtered pairs never counted.
"""

from __future__ import annotations

import dataclasses
import json
import os

from absl import flags
import numpy as np

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.cli import flag
from lmtx_jax.config import SourceConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.corpus import Corpus, Dataset, document_texts
from lmtx_jax.data.tokens import tokenize
from lmtx_jax.evaluation.metrics import metrics
from lmtx_jax.files import staged, write_json
from lmtx_jax.shortlist import tag_documents
from lmtx_jax.types import UserError

_DEPTH = 100  # of R@100


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """Evaluation."""

  bundle: str = flag('', 'Folder of a trained bundle (RUN/export).')
  split: str = flag(
    'test',
    'Which documents are scored. With --neighbour_weight in training, '
    'documents of train that had pseudo labels find themselves nearest.',
    choices=('test', 'train'),
  )
  output: str = flag('', 'JSON file for the scores; empty: only printed.')
  encode_batch_tokens: int = flag(
    0,
    'Tokens in one batch of the encoder on one device; 0: 2048 on a CPU, 65536 '
    'elsewhere.',
    low=0,
  )


def main(values: flags.FlagValues) -> None:
  """Tags the split, scores it, prints and writes the scores."""
  config = cli.build(EvaluateConfig, values)
  source = cli.build(SourceConfig, values)
  if not config.bundle:
    raise UserError('--bundle is not set')
  devices.setup(source.data_cache)
  dataset = load_dataset(source)
  bundle = Bundle(config.bundle, config.encode_batch_tokens)
  _check_labels(bundle, dataset.labels, config.bundle)
  corpus = getattr(dataset, config.split)
  scores = score(bundle, dataset, corpus, source.data_cache)
  result = {
    'bundle': os.path.abspath(config.bundle),
    'dataset': dataset.name,
    'split': config.split,
    'documents': len(corpus),
    'scores': scores,
  }
  print(json.dumps(result, indent=2))
  if config.output:
    with staged(os.path.abspath(config.output)) as temporary:
      write_json(temporary, result)


def score(
  bundle: Bundle, dataset: Dataset, corpus: Corpus, cache_dir: str
) -> dict[str, float | None]:
  """P@k and its like of a bundle on a corpus of its dataset, in percent."""
  tokens = tokenize(corpus, bundle.tokenizer, bundle.max_doc_tokens, cache_dir)
  inputs = tokens.view(bundle.max_doc_tokens, title=bundle.text.encode_title)
  about_documents = (bundle.doc_widths, corpus.filters, _DEPTH, 'tag')
  state = bundle.state
  if state.fused is None:
    tags = tag_documents(bundle.encoder, state.index, inputs, *about_documents)
  else:
    tags = state.fused.tag_documents(
      bundle.encoder,
      state.index,
      state.embeddings,
      inputs,
      document_texts(corpus, bundle.text),
      *about_documents,
    )
  return metrics(
    tags.labels,
    corpus.targets,
    num_labels=len(dataset.labels),
    train_targets=dataset.train.targets,
    propensity=dataset.propensity,
  )


def _check_labels(bundle: Bundle, labels: Corpus, folder: str) -> None:
  """Raises where the bundle has another label set than the dataset."""
  if len(bundle.labels) != len(labels):
    raise UserError(
      f'--bundle={folder} has {len(bundle.labels)} labels, the dataset'
      f' {len(labels)}'
    )
  block = 4096
  for start in range(0, len(labels), block):
    rows = np.arange(start, min(start + block, len(labels)))
    pairs = zip(bundle.labels.get(rows), labels.records(rows), strict=True)
    for row, (known, label) in zip(rows, pairs, strict=True):
      if known.uid != label.uid:
        raise UserError(
          f'--bundle={folder}: label {row} is {known.uid!r}, in the dataset it'
          f' is {label.uid!r}'
        )


if __name__ == '__main__':
  cli.run(main, (EvaluateConfig, SourceConfig), __doc__)
