"""Share of the tokens of cycles that are padding, and widths of their batches.

python -m tests.benchmarks.padding (--dataset=NAME | --data_dir=DIR)
    --model=DIR [--label_text=title_content] [--num_cycles=3]
    [--settings=2000/128/16/64/1,4000/450/15/128/1]

A setting is documents/document tokens/label tokens/batch size/epochs. In each
cycle 85% of the documents, drawn anew, have an accepted label: the first that
is theirs, or any where the data tells none. Nothing is trained or compiled.
More documents than there are come several times.

One JSON line a setting: "padding" of all token slots in percent, and of either
side; "widths" of documents and labels, each of which would be compiled.
"""

from __future__ import annotations

import dataclasses
import json

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import SourceConfig, TextConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.tokens import TokenView, tokenize
from lmtx_jax.model.tokenizer import load_tokenizer
from lmtx_jax.train.objective import PASSAGES
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.types import Ragged

_ACCEPTED = 0.85  # of the documents
_SIDES = {'query': 'documents'} | dict.fromkeys(PASSAGES, 'labels')


@dataclasses.dataclass(frozen=True)
class PaddingConfig:
  """Padding."""

  model: str = flag('', 'Folder with the tokenizer.')
  settings: str = flag(
    '2000/128/16/64/1,4000/450/15/128/1,30000/450/15/128/1',
    'Documents/document tokens/label tokens/batch size/epochs, each.',
  )
  num_cycles: int = flag(3, 'Cycles, which share the widths.', low=1)


def measure(
  documents: TokenView,
  labels: TokenView,
  positives: np.ndarray,
  batch_size: int,
  epochs: int,
  num_cycles: int,
) -> dict[str, float]:
  """Padding and widths of all cycles; `positives` has a label a document."""
  tokens, slots = (dict.fromkeys(('documents', 'labels'), 0) for _ in range(2))
  widths, steps = set(), 0
  for cycle in range(num_cycles):
    accepts = np.random.default_rng(cycle).random(len(documents)) < _ACCEPTED
    pairs = PseudoLabelPairs(
      documents,
      labels,
      Ragged.from_mask(positives[:, None], accepts[:, None]),
      np.arange(len(labels), dtype=np.int32),
      batch_size=batch_size,
      epochs=epochs,
      seed=(0, 3, cycle),
      trainings=num_cycles,
    )
    steps += pairs.num_steps
    for step in range(pairs.num_steps):
      batch = pairs.batch(step)
      for side, kind in _SIDES.items():
        if f'{side}_ids' in batch:
          widths.add((kind, batch[f'{side}_ids'].shape))
          slots[kind] += batch[f'{side}_ids'].size
          tokens[kind] += int(batch[f'{side}_lengths'].sum())
  empty = {kind: slots[kind] - tokens[kind] for kind in slots}
  total = max(1, sum(slots.values()))
  return {
    'padding': round(100 * sum(empty.values()) / total, 1),
    **{kind: round(100 * count / total, 1) for kind, count in empty.items()},
    'widths': len(widths),
    'steps': steps,
  }


def main(values: flags.FlagValues) -> None:
  """Counts and prints."""
  config, source, text = (
    cli.build(c, values) for c in (PaddingConfig, SourceConfig, TextConfig)
  )
  settings = [
    [int(number) for number in setting.split('/')]
    for setting in config.settings.split(',')
  ]
  dataset, tokenizer = load_dataset(source), load_tokenizer(config.model)
  most = max(max(setting[1:3]) for setting in settings)
  docs, labels = (
    tokenize(corpus, tokenizer, most, source.data_cache)
    for corpus in (dataset.train, dataset.labels)
  )
  targets, num_labels = dataset.train.targets, len(dataset.labels)
  rng = np.random.default_rng(0)
  for num_docs, doc_tokens, label_tokens, batch_size, epochs in settings:
    # Each document once, before any comes again.
    rows = np.resize(rng.permutation(len(dataset.train)), num_docs)
    positives = rng.integers(0, num_labels, num_docs, np.int32)
    told = targets.lengths[rows] > 0
    positives[told] = targets.values[targets.offsets[rows[told]]]
    found = measure(
      docs.view(doc_tokens, title=text.encode_title).take(rows),
      labels.view(label_tokens, content=text.label_text == 'title_content'),
      positives,
      batch_size,
      epochs,
      config.num_cycles,
    )
    line = {
      'benchmark': 'padding',
      'dataset': dataset.name,
      'num_docs': num_docs,
      'doc_tokens': doc_tokens,
      'label_tokens': label_tokens,
      'batch_size': batch_size,
      'epochs': epochs,
    }
    print(json.dumps(line | found), flush=True)


if __name__ == '__main__':
  cli.run(main, (PaddingConfig, SourceConfig, TextConfig), __doc__)
