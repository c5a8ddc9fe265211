"""The lexical index against bm25s: seconds, and truth among the first labels.

python -m tests.benchmarks.lexical (--dataset=NAME | --data_dir=DIR)
    [--label_text=title_content] [--num_train_docs=2000] [--k=50] [--rounds=3]
    [--peers=lexical,bm25s]

The first training documents, each as one query, are looked up among the labels.
bm25s (`pip install bm25s`) has its own defaults, stop words among them, and as
many threads as there are cores; a query has each word once, for a long document
is found worse with all. Both read the texts from memory. Seconds are medians;
P@1 and R@10 are of the documents' truth, in percent. One JSON line.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import statistics
import time

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import SampleConfig, SourceConfig, TextConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.corpus import Corpus, Texts, document_texts, label_texts
from lmtx_jax.evaluation.metrics import metrics
from lmtx_jax.host import num_cores
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.types import Ragged
from tests.benchmarks.peers import chosen

# The labels of the documents, `[num_docs, any]` int, best first.
Search = Callable[[], np.ndarray]
Build = Callable[[Texts, Texts, Ragged, int], Search]


@dataclasses.dataclass(frozen=True)
class LexicalConfig:
  """Lexical index."""

  k: int = flag(50, 'Labels a document.', low=10)
  rounds: int = flag(3, 'Timed builds and searches.', low=1)
  peers: str = flag('lexical,bm25s', 'Who searches, in order.')


def lexical(labels: Texts, documents: Texts, filters: Ragged, k: int) -> Search:
  """lmtx_jax's index."""
  index = LexicalIndex.build(labels, documents)
  return lambda: index.search(documents, filters, k).labels


def bm25s(labels: Texts, documents: Texts, filters: Ragged, k: int) -> Search:
  """bm25s, asked for as many more labels as are filtered."""
  import bm25s

  def words(texts: Texts) -> list[list[str]]:
    every = [text for block in texts.blocks() for text in block]
    return bm25s.tokenize(every, return_ids=False, show_progress=False)

  index = bm25s.BM25()
  index.index(words(labels), show_progress=False)
  depth = min(len(labels), k + int(filters.lengths.max(initial=0)))
  threads = num_cores()

  def search() -> np.ndarray:
    found, scores = index.retrieve(
      [list(dict.fromkeys(query)) for query in words(documents)],
      k=depth,
      n_threads=threads,
      show_progress=False,
    )
    out = np.full((len(found), k), -1, np.int32)
    for row, label in enumerate(found):
      kept = ~np.isin(label, filters[row]) & (scores[row] > 0)
      out[row, : min(k, kept.sum())] = label[kept][:k]
    return out

  return search


_BUILDS: dict[str, Build] = {'lexical': lexical, 'bm25s': bm25s}


def main(values: flags.FlagValues) -> None:
  """Times, scores and prints."""
  config, source, text, sample = (
    cli.build(c, values)
    for c in (LexicalConfig, SourceConfig, TextConfig, SampleConfig)
  )
  names = chosen(config.peers, tuple(_BUILDS))
  dataset = load_dataset(source)
  corpus = dataset.train
  rows = np.arange(len(corpus))[: sample.num_train_docs or None]
  corpus = _in_memory(corpus.take(rows))
  labels = label_texts(_in_memory(dataset.labels), text)
  documents = document_texts(corpus, text)
  line = {
    'benchmark': 'lexical',
    'dataset': dataset.name,
    'labels': len(labels),
    'documents': len(documents),
    'k': config.k,
  }
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
  for _ in range(config.rounds):  # in turn, for the machine may slow down
    for name in names:
      start = time.perf_counter()
      search = _BUILDS[name](labels, documents, corpus.filters, config.k)
      built = time.perf_counter()
      found = search()
      times[name].append((built - start, time.perf_counter() - built))
      scores = metrics(
        found,
        corpus.targets,
        num_labels=len(labels),
        train_targets=None,
        propensity=dataset.propensity,
      )
      line[name] = {key: round(scores[key], 2) for key in ('P@1', 'R@10')}
  for name in names:
    build_s, search_s = map(statistics.median, zip(*times[name], strict=True))
    line[name] |= {'build_s': round(build_s, 2), 'search_s': round(search_s, 2)}
  print(json.dumps(line))


class _Records:
  """Records in memory, as a source has them."""

  def __init__(self, rows: list[dict[str, str]]):
    self._rows = rows

  def __getitems__(self, indices: list[int]) -> list[dict[str, str]]:
    return [self._rows[i] for i in indices]


def _in_memory(corpus: Corpus) -> Corpus:
  rows = [r._asdict() for r in corpus.records(range(len(corpus)))]
  return dataclasses.replace(
    corpus, source=_Records(rows), rows=np.arange(len(rows))
  )


if __name__ == '__main__':
  cli.run(
    main, (LexicalConfig, SourceConfig, TextConfig, SampleConfig), __doc__
  )
