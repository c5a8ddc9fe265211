"""Shortlists by ScaNN and by exact search, against hnswlib and faiss.

python -m tests.benchmarks.shortlist [--num_points=30000] [--dim=768]
    [--num_queries=30000] [--k=10] [--rounds=3] [--embeddings=FILE.npy]
    [--queries=FILE.npy] [--peers=scann,exact,hnswlib,faiss] [--threads=0]

The peers search the same points (see points.py; or embeddings of texts) with
the same queries, as many as a cycle has documents. hnswlib is set as the
authors of LMTX set it (M=100, efConstruction=300, efSearch=300), faiss's
IndexHNSWFlat alike. They work one after the other, each in a process of its
own, for together they would need too much memory and a build can take an hour;
so mind what else the machine does meanwhile: "cpu" seconds show it. Recall@k is
against numpy's products in float32, on the first --truth_queries.

A JSON line a peer: seconds of the build and of all queries (median of the
rounds, without a first small search, which compiles), and both together as a
ratio to hnswlib's, where that has run before, in seconds and in CPU seconds.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from typing import Any

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.host import num_cores
from lmtx_jax.mips import MipsIndex
from lmtx_jax.types import UserError
from tests.benchmarks.peers import chosen
from tests.benchmarks.points import Points

_M, _EF_CONSTRUCTION, _EF_SEARCH = 100, 300, 300
_WARM_UP = 2048  # queries, which are not timed
_TRUTH_BLOCK = 16_384

Search = Callable[[np.ndarray, int], np.ndarray]
Build = Callable[[np.ndarray], Search]


@dataclasses.dataclass(frozen=True)
class ShortlistConfig:
  """Shortlist."""

  num_points: int = flag(30_000, 'Labels.', low=100)
  dim: int = flag(768, 'Of a synthetic embedding.', low=2)
  num_queries: int = flag(30_000, 'Documents of a cycle.', low=1)
  k: int = flag(10, 'Labels a document.', low=1)
  rounds: int = flag(3, 'Timed passes over the queries.', low=1)
  embeddings: str = flag('', '[points, dim] f32 .npy file of labels.')
  queries: str = flag('', '[queries, dim] f32 .npy file of documents.')
  peers: str = flag('hnswlib,faiss,scann,exact', 'Who searches, in order.')
  threads: int = flag(0, 'Threads of hnswlib and faiss; 0: every core.', low=0)
  truth_queries: int = flag(2000, 'Queries that recall is of.', low=1)


def scann(config: ShortlistConfig) -> Build:
  """lmtx_jax's index on ScaNN."""
  del config
  from lmtx_jax.mips import ScannIndex

  ScannIndex.build(np.eye(4, dtype=np.float32))  # imports
  return lambda points: _labels_of(ScannIndex.build(points))


def exact(config: ShortlistConfig) -> Build:
  """lmtx_jax's exact index."""
  del config
  from lmtx_jax import devices

  devices.setup(default_cache())
  from lmtx_jax.mips import ExactIndex

  return lambda points: _labels_of(ExactIndex(points))


def _labels_of(index: MipsIndex) -> Search:
  return lambda queries, k: index.search(queries, k)[0]


def hnswlib(config: ShortlistConfig) -> Build:
  """hnswlib as the authors set it; unit norm, so cosine is inner product."""
  from hnswlib import Index

  def build(points: np.ndarray) -> Search:
    index = Index('ip', points.shape[1])
    index.init_index(len(points), ef_construction=_EF_CONSTRUCTION, M=_M)
    index.set_num_threads(config.threads or num_cores())
    index.add_items(points)
    index.set_ef(max(_EF_SEARCH, config.k))
    return lambda queries, k: index.knn_query(queries, k)[0]

  return build


def faiss(config: ShortlistConfig) -> Build:
  """faiss's HNSW with the same settings."""
  import faiss

  if config.threads:
    faiss.omp_set_num_threads(config.threads)

  def build(points: np.ndarray) -> Search:
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(points.shape[1], _M, metric)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    index.hnsw.efSearch = max(_EF_SEARCH, config.k)
    index.add(points)
    return lambda queries, k: index.search(queries, k)[1]

  return build


# By name, what imports a peer and returns its build.
_PEERS = {f.__name__: f for f in (hnswlib, faiss, scann, exact)}


def measure(
  name: str, config: ShortlistConfig, points_path: str, queries_path: str
) -> tuple[dict[str, Any], np.ndarray]:
  """Builds one peer's index and searches it, in this process.

  Returns:
    What was measured, and the labels `[truth_queries, k]` of the first queries.
  """
  points = np.load(points_path)
  queries = np.load(queries_path)[: config.num_queries]
  build = _PEERS[name](config)
  start, start_cpu = time.perf_counter(), time.process_time()
  search = build(points)
  build_s = time.perf_counter() - start
  build_cpu_s = time.process_time() - start_cpu
  search(queries[:_WARM_UP], config.k)
  seconds, start_cpu = [], time.process_time()
  for _ in range(config.rounds):
    start = time.perf_counter()
    found = search(queries, config.k)
    seconds.append(time.perf_counter() - start)
  row = {
    'build_s': round(build_s, 2),
    'build_cpu_s': round(build_cpu_s, 2),
    'query_s': round(statistics.median(seconds), 2),
    'query_cpu_s': round((time.process_time() - start_cpu) / config.rounds, 2),
    'peak_mib': _peak_mib(),
  }
  return row, found[: config.truth_queries]


def _peak_mib() -> int:
  """This process's peak; getrusage would count what it was spawned from."""
  with open('/proc/self/status') as f:
    line = next(x for x in f if x.startswith('VmHWM'))
  return int(line.split()[1]) // 1024


def true_labels(points: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
  """`[n, k]` labels of the largest products, in no order.

  Args:
    points: `[num_points, dim]` f32, memory-mapped or not.
    queries: `[n, dim]` f32.
    k: at most the number of points.
  """
  best = np.full((len(queries), k), -np.inf, np.float32)
  labels = np.full((len(queries), k), -1, np.int64)
  for start in range(0, len(points), _TRUTH_BLOCK):
    score = queries @ np.asarray(points[start : start + _TRUTH_BLOCK]).T
    ids = np.broadcast_to(start + np.arange(score.shape[1]), score.shape)
    score = np.concatenate([best, score], axis=1)
    ids = np.concatenate([labels, ids], axis=1)
    top = np.argpartition(-score, k - 1, axis=1)[:, :k]
    best = np.take_along_axis(score, top, axis=1)
    labels = np.take_along_axis(ids, top, axis=1)
  return labels


def recall(truth: np.ndarray, found: np.ndarray) -> float:
  """Share of the true labels, `[n, k]`, that were found, `[n, k]`."""
  same = truth[:, :, None] == found[: len(truth), None, :]
  return float(same.any(axis=2).mean())


def _files(config: ShortlistConfig, folder: str) -> tuple[str, str]:
  """Paths of points and queries, made where none are given."""
  if config.embeddings:
    if not config.queries:
      raise UserError('--embeddings needs the --queries that go with them')
    return config.embeddings, config.queries
  made = Points(config.num_points, config.dim)
  paths = [os.path.join(folder, name) for name in ('points.npy', 'queries.npy')]
  made.write(paths[0], config.num_points)
  made.write(paths[1], config.num_queries)
  return paths[0], paths[1]


def _work(pipe: Any, *args: Any) -> None:
  pipe.send(measure(*args))


def _in_process(*args: Any) -> tuple[dict[str, Any], np.ndarray]:
  """`measure` in a process of its own, which gives its memory back."""
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe()
  process = context.Process(target=_work, args=(theirs, *args))
  process.start()
  theirs.close()  # so that a child that dies is an EOFError here
  try:
    found = ours.recv()
  except EOFError as e:
    raise UserError(f'{args[0]} failed; the traceback above says why') from e
  process.join()
  return found


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(ShortlistConfig, values)
  names = chosen(config.peers, _PEERS)
  with tempfile.TemporaryDirectory() as folder:
    points, queries = _files(config, folder)
    shape = np.load(points, mmap_mode='r').shape
    asked = np.load(queries, mmap_mode='r')[: config.num_queries]
    truth = true_labels(
      np.load(points, mmap_mode='r'),
      np.asarray(asked[: config.truth_queries]),
      config.k,
    )
    reference = None
    for name in names:
      row, found = _in_process(name, config, points, queries)
      total = row['build_s'] + row['query_s']
      cpu = row['build_cpu_s'] + row['query_cpu_s']
      if name == 'hnswlib':
        reference = (total, cpu)
      line = {
        'benchmark': 'shortlist',
        'peer': name,
        'points': shape[0],
        'dim': shape[1],
        'queries': len(asked),
        'k': config.k,
        **row,
        'recall': round(recall(truth, found), 5),
      }
      if reference:
        line['speed_ratio'] = round(reference[0] / total, 2)
        line['cpu_ratio'] = round(reference[1] / cpu, 2)
      print(json.dumps(line), flush=True)


if __name__ == '__main__':
  cli.run(main, (ShortlistConfig,), __doc__)
