"""Converts a dataset into the cache, ahead of training."""

from __future__ import annotations

import dataclasses

from absl import flags

from lmtx_jax import cli
from lmtx_jax.config import SourceConfig
from lmtx_jax.data import builders
from lmtx_jax.data.corpus import Corpus, Dataset
from lmtx_jax.types import UserError

USAGE = (
  f"""
python -m lmtx_jax.prepare --dataset=NAME --source_dir=FOLDER
python -m lmtx_jax.prepare --data_dir=FOLDER

Converts a dataset once into the cache; training then opens it at once by
--dataset=NAME or --data_dir=FOLDER. A data folder is also converted when it is
first trained on, so the second form is only a check of its files.

NAME, and whose files are expected in --source_dir:
  {builders.EMBEDDED}: none, it is made from the installed numpy and scipy
"""
  + '\n'.join(
    f'  {slug}: {item.title}, {item.sizes[0]:,} training and {item.sizes[1]:,} '
    f'test documents, {item.sizes[2]:,} labels'
    for slug, item in builders.NAMED.items()
  )
  + """

The files may be laid out as in the extreme-classification repository
(trn.json, tst.json, lbl.json, filter_labels_train.txt, filter_labels_test.txt),
as raw text (train_raw_texts.txt, train_labels.txt, the same for test, and
label_map.txt or output-items.txt), as XR-Transformer's (X.trn.txt, Y.trn.npz,
X.tst.txt, Y.tst.npz, output-items.txt), or as EURLEX57K's (train/*.json,
test/*.json, EURLEX57K.json); text files plain or .gz.
"""
)


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """Preparation."""

  source_dir: str = cli.flag(
    '', "Folder with the owners' files of the named dataset."
  )


def prepare(values: flags.FlagValues) -> None:
  """Prepares what the flags name and prints what it is."""
  source = cli.build(SourceConfig, values)
  source_dir = cli.build(PrepareConfig, values).source_dir
  if source_dir:
    if not source.dataset or source.data_dir:
      raise UserError('--source_dir goes with --dataset, and not --data_dir')
    builders.prepare_dataset(
      builders.slug_of(source.dataset), source_dir, source.data_cache
    )
  dataset = builders.load_dataset(source)
  print('\n'.join(summary(dataset, source)))


def summary(dataset: Dataset, source: SourceConfig) -> list[str]:
  """Lines that say what a dataset holds and how to train on it."""
  lines = [
    f'{dataset.name}: {len(dataset.labels):,} labels',
    _describe('training', dataset.train),
    _describe('test', dataset.test),
  ]
  if named := builders.NAMED.get(dataset.name):
    sizes = tuple(map(len, (dataset.train, dataset.test, dataset.labels)))
    if sizes != named.sizes:
      lines.append(
        'note: {} is known with {:,} training documents, {:,} test documents '
        'and {:,} labels'.format(named.title, *named.sizes)
      )
  flag = 'data_dir' if source.data_dir else 'dataset'
  lines.append(f'cache: {source.data_cache}')
  lines.append(f'use it by --{flag}={getattr(source, flag)}')
  return lines


def _describe(what: str, corpus: Corpus) -> str:
  lengths = corpus.targets.lengths
  with_truth = int((lengths > 0).sum())
  text = f'{len(corpus):,} {what} documents, {with_truth:,} with true labels'
  if with_truth:
    text += f' ({lengths.sum() / with_truth:.1f} each)'
  if filters := len(corpus.filters.values):
    text += f', {filters:,} filtered pairs'
  return text


if __name__ == '__main__':
  cli.run(prepare, (SourceConfig, PrepareConfig), USAGE)
