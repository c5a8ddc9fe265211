"""A rehearsal of millions of labels with made embeddings, in bounded memory.

python -m tests.benchmarks.rehearsal --num_labels=3000000 --dim=768
    [--num_queries=2000] [--max_gib=16] [--shards=0] [--dtype=bfloat16]

Writes embeddings into --dir, builds ScaNN in parts, looks queries up, and a
few of them exactly. Prints one JSON line: seconds of each step, bytes on disk,
peaks of memory in GiB, and recall@k against the exact search. More anonymous
memory than --max_gib cannot be had: it is limited by the system. Pages of
memory-mapped files, which the system takes back when it needs them, are told
apart; VmHWM counts both. Parts of the index are kept open where all of them
are less than half of --max_gib. What is whole in --dir is used again: a second
call with another --max_gib only searches.

The embeddings are of unit norm, in clusters of clusters: topics of about 1,000
labels, subtopics of about 30, in 96 dimensions turned into --dim, with a
little noise in all. Queries are made as labels are.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
import resource
import tempfile
import threading
import time

from absl import flags
import numpy as np

from lmtx_jax import cli, devices
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.embeddings import (
  DTYPES,
  blocks,
  create_embeddings,
  open_embeddings,
)
from lmtx_jax.exact_index import ExactIndex
from lmtx_jax.files import staged
from lmtx_jax.scann_index import ScannIndex, num_parts, write_index

_LATENT = 96  # dimensions that the made embeddings lie in
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class RehearsalConfig:
  """Rehearsal."""

  num_labels: int = flag(3_000_000, 'Labels to make.', low=1)
  dim: int = flag(768, 'Dimensions of the embeddings.', low=_LATENT)
  num_queries: int = flag(2000, 'Queries to look up.', low=1)
  num_exact: int = flag(256, 'Queries that are looked up exactly too.', low=1)
  k: int = flag(10, 'Labels a query.', low=1)
  dtype: str = flag('float32', 'Of the embeddings.', choices=DTYPES)
  shards: int = flag(0, 'Parts of the index; 0: by size.', low=0)
  max_gib: float = flag(16.0, 'Anonymous memory that may be had, in GiB.')
  dir: str = flag('', 'Where files are written; empty: a temporary folder.')


class _Memory:
  """Peak of the process's memory, read in a thread of its own."""

  def __init__(self):
    self.peak = dict.fromkeys(('RssAnon', 'RssFile'), 0)
    threading.Thread(target=self._watch, daemon=True).start()

  def _watch(self) -> None:
    while True:
      for name, value in self._now(self.peak).items():
        self.peak[name] = max(self.peak[name], value)
      time.sleep(0.05)

  def _now(self, names) -> dict[str, int]:
    with open('/proc/self/status', encoding='ascii') as f:
      fields = dict(line.split(':', 1) for line in f)
    return {name: int(fields[name].split()[0]) * 1024 for name in names}

  def gib(self) -> dict[str, float]:
    """Peaks so far, in GiB."""
    peak = self.peak | self._now(['VmHWM'])
    return {name: round(value / _GIB, 2) for name, value in peak.items()}


def main(values: flags.FlagValues) -> None:
  """Rehearses and prints."""
  config = cli.build(RehearsalConfig, values)
  devices.setup(default_cache())
  limit = int(config.max_gib * _GIB)
  resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  with tempfile.TemporaryDirectory() as temporary:
    folder = config.dir or temporary
    os.makedirs(folder, exist_ok=True)
    print(json.dumps(rehearse(config, folder)))


def rehearse(config: RehearsalConfig, folder: str) -> dict:
  """The row of results; the folder's files are used where they are whole."""
  memory, seconds = _Memory(), {}

  @contextlib.contextmanager
  def timed(step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 2)

  path = os.path.join(folder, 'label_embeddings.npy')
  with timed('write'):
    write_made(path, config.num_labels, config)
    query_path = os.path.join(folder, 'queries.npy')
    write_made(query_path, config.num_queries, config, seed=1)
  labels, queries = open_embeddings(path), open_embeddings(query_path)
  index_folder = os.path.join(folder, 'scann')
  with timed('build'):
    write_index(index_folder, labels, config.shards)
  after_build = memory.gib()
  with timed('load'):
    index = ScannIndex.load(
      index_folder, len(labels), int(config.max_gib / 2 * _GIB)
    )
  with timed('search'):
    found, _ = index.search(queries, config.k)
  del index
  num_exact = min(config.num_exact, len(queries))
  with timed('exact'):
    truth, _ = ExactIndex(labels).search(queries[:num_exact], config.k)
  same = truth[:, :, None] == found[:num_exact, None, :]
  return {
    **{name: getattr(config, name) for name in ('num_labels', 'dim', 'dtype')},
    'num_queries': len(queries),
    'parts': num_parts(*labels.shape, config.shards),
    f'recall@{config.k}': round(float(same.any(axis=1).mean()), 5),
    'num_exact': num_exact,
    'seconds': seconds,
    'peak_gib_build': after_build,
    'peak_gib': memory.gib(),
    'disk_gib': round(_num_bytes(folder) / _GIB, 2),
  }


def write_made(
  path: str, num_rows: int, config: RehearsalConfig, seed: int = 0
) -> None:
  """Writes `[num_rows, dim]` made embeddings, unless they are there."""
  if os.path.exists(path):
    return
  shape = np.random.default_rng(9)  # labels and queries share the clusters
  turn = shape.standard_normal((_LATENT, config.dim), np.float32)
  topics = shape.standard_normal(
    (1 + config.num_labels // 1000, _LATENT), np.float32
  )
  topic_of = shape.integers(len(topics), size=1 + config.num_labels // 30)
  subtopics = topics[topic_of] + 0.6 * shape.standard_normal(
    (len(topic_of), _LATENT), np.float32
  )
  with staged(path) as temporary:
    out = create_embeddings(temporary, (num_rows, config.dim), config.dtype)
    for rows in blocks(num_rows, config.dim):
      draw = np.random.default_rng((seed, rows.start))
      size = rows.stop - rows.start
      latent = subtopics[draw.integers(len(subtopics), size=size)]
      latent += 0.4 * draw.standard_normal(latent.shape, np.float32)
      x = latent @ turn + 0.5 * draw.standard_normal(
        (size, config.dim), np.float32
      )
      out[rows] = x / np.linalg.norm(x, axis=1, keepdims=True)
    out.flush()


def _num_bytes(folder: str) -> int:
  return sum(
    os.path.getsize(os.path.join(parent, name))
    for parent, _, names in os.walk(folder)
    for name in names
  )


if __name__ == '__main__':
  cli.run(main, (RehearsalConfig,), __doc__)
