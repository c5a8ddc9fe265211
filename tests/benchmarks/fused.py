"""What ranking by words too costs a document, and what it leaves in a folder.

python -m tests.benchmarks.fused --bundle=DIR --input=docs.jsonl
    [--num_docs=500] [--top_k=10] [--rounds=7]

A bundle of a run with --lexical_weight is asked with and without the words, in
turns: all documents at once, and one at a time. The documents are embedded
before. Milliseconds a document, medians over the rounds, of the clock and of
all cores; the words are made in both `fused` figures. One JSON line.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import itertools
import json
import os
import statistics
import time

from absl import flags

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import LEXICAL
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.documents import read_documents
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class FusedConfig:
  """Ranking by embeddings and words."""

  bundle: str = flag('', 'Folder of a bundle that ranks by words too.')
  input: str = flag('', 'Documents, as predict reads them.')
  num_docs: int = flag(500, 'Documents, from the first.', low=1)
  top_k: int = flag(10, 'Labels a document.', low=1)
  rounds: int = flag(7, 'Timed searches of each kind.', low=1)


def main(values: flags.FlagValues) -> None:
  """Times and prints."""
  config = cli.build(FusedConfig, values)
  devices.setup(default_cache())
  bundle = Bundle(config.bundle)
  state = bundle.state
  if state.fused is None:
    raise UserError(f'--bundle={config.bundle} ranks by embeddings alone')
  records = list(
    itertools.islice(read_documents(config.input), config.num_docs)
  )
  embeddings = bundle.embed(bundle.inputs(records))

  def search(size: int, fused: bool) -> None:
    for start in range(0, len(records), size):
      rows = slice(start, start + size)
      words = bundle.words(records[rows], state) if fused else None
      state.search(embeddings[rows], words, config.top_k)

  line = {
    'benchmark': 'fused',
    'labels': len(state),
    'documents': len(records),
    'top_k': config.top_k,
    'mib': round(_size(os.path.join(_folder(bundle), LEXICAL)) / 2**20, 2),
  }
  for name, size in (('at_once', len(records)), ('alone', 1)):
    times = {'dense': [], 'fused': []}
    for _ in range(config.rounds + 1):  # the first compiles
      for kind in times:
        run = functools.partial(search, size, kind == 'fused')
        times[kind].append(_timed(run))
    for kind, found in times.items():
      wall, cpu = map(statistics.median, zip(*found[1:], strict=True))
      line[f'{kind}_{name}_ms'] = round(wall / len(records), 3)
      line[f'{kind}_{name}_cpu_ms'] = round(cpu / len(records), 3)
  print(json.dumps(line))


def _timed(function: Callable[[], None]) -> tuple[float, float]:
  """Milliseconds of the clock and of all cores."""
  wall, cpu = time.perf_counter(), time.process_time()
  function()
  return (
    1e3 * (time.perf_counter() - wall),
    1e3 * (time.process_time() - cpu),
  )


def _folder(bundle: Bundle) -> str:
  return os.path.join(bundle.folder, bundle.about.get('label_folder', ''))


def _size(folder: str) -> int:
  return sum(entry.stat().st_size for entry in os.scandir(folder))


if __name__ == '__main__':
  cli.run(main, (FusedConfig,), __doc__)
