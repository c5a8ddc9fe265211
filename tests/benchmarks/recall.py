"""Recall@k of ScaNN against exact search, on the embeddings of a run.

python -m tests.benchmarks.recall --run_dir=RUN [--cycle=0] [--k=10]

Reads RUN/cycle_NN/label_embeddings.npy and doc_embeddings.npy; prints one JSON
line with the recall, and the seconds that each index took to build and to
search.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time

from absl import flags
import numpy as np

from lmtx_jax import cli, devices
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.mips import ExactIndex, ScannIndex


@dataclasses.dataclass(frozen=True)
class RecallConfig:
  """Recall."""

  run_dir: str = flag('', 'A run directory.')
  cycle: int = flag(0, 'Whose embeddings.', low=0)
  k: int = flag(10, 'Labels a document.', low=1)


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(RecallConfig, values)
  devices.setup(default_cache())
  folder = os.path.join(config.run_dir, f'cycle_{config.cycle:02d}')
  labels, docs = (
    np.load(os.path.join(folder, f'{name}_embeddings.npy'), mmap_mode='r')
    for name in ('label', 'doc')
  )
  found, row = {}, {'labels': len(labels), 'docs': len(docs), 'k': config.k}
  for name, build in (('exact', ExactIndex), ('scann', ScannIndex.build)):
    start = time.perf_counter()
    index = build(labels)
    row[f'{name}_build_s'] = round(time.perf_counter() - start, 2)
    index.search(docs[:2048], config.k)  # compiles, loads
    start = time.perf_counter()
    found[name], _ = index.search(docs, config.k)
    row[f'{name}_search_s'] = round(time.perf_counter() - start, 2)
  same = found['exact'][:, :, None] == found['scann'][:, None, :]
  row['recall'] = round(float(same.any(axis=2).mean()), 5)
  print(json.dumps(row))


if __name__ == '__main__':
  cli.run(main, (RecallConfig,), __doc__)
