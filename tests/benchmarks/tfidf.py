"""The floor: TF-IDF between a test document and the label texts.

python -m tests.benchmarks.tfidf (--dataset=NAME | --data_dir=DIR)
    [--label_text=title_content] [--num_test_docs=N]

Words of the label are looked for in title and content of the document, by the
cosine of sublinear TF-IDF vectors; words are counted in labels and training
documents. One JSON line with the scores in percent.
"""

from __future__ import annotations

import itertools
import json

from absl import flags
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from lmtx_jax import cli
from lmtx_jax.config import SampleConfig, SourceConfig, TextConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.corpus import document_texts, label_texts
from lmtx_jax.evaluation.metrics import metrics

_DEPTH = 100
_BLOCK = 256  # documents scored at a time


def main(values: flags.FlagValues) -> None:
  """Scores and prints."""
  source, text, sample = (
    cli.build(c, values) for c in (SourceConfig, TextConfig, SampleConfig)
  )
  dataset = load_dataset(source)
  rows = np.arange(len(dataset.test))[: sample.num_test_docs or None]
  test = dataset.test.take(rows)
  labels = [t for b in label_texts(dataset.labels, text).blocks() for t in b]
  vectorizer = TfidfVectorizer(sublinear_tf=True)
  train = document_texts(dataset.train, text).blocks()
  vectorizer.fit(itertools.chain(labels, itertools.chain.from_iterable(train)))
  label_vectors = vectorizer.transform(labels)
  found = np.full((len(test), _DEPTH), -1, np.int32)
  start = 0
  for block in document_texts(test, text).blocks(_BLOCK):
    score = (vectorizer.transform(block) @ label_vectors.T).toarray()
    for i in range(len(block)):
      score[i, test.filters[start + i]] = -1
    k = min(_DEPTH, len(labels))
    found[start : start + len(block), :k] = np.argsort(-score, axis=1)[:, :k]
    start += len(block)
  scores = metrics(
    found,
    test.targets,
    num_labels=len(labels),
    train_targets=dataset.train.targets,
    propensity=dataset.propensity,
  )
  print(json.dumps({'benchmark': 'tfidf', 'dataset': dataset.name, **scores}))


if __name__ == '__main__':
  cli.run(main, (SourceConfig, TextConfig, SampleConfig), __doc__)
