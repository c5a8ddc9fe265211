"""What ranking by more than embeddings costs a document, and in a folder.

python -m tests.benchmarks.fused --bundle=DIR --input=docs.jsonl
    [--num_docs=500] [--top_k=10] [--rounds=7]

A bundle of a run with --lexical_weight is asked by embeddings alone (dense),
with words and priors (words), and with all that it has, votes too if it has any
(fused), in turns: all documents at once, and one at a time. The documents are
embedded before. Milliseconds a document, medians over the rounds, of the clock
and of all cores; the words are made in all figures but `dense`. One JSON line.
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
from lmtx_jax.bundle_labels import LabelState
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.documents import read_documents
from lmtx_jax.fused_files import DOCUMENTS, OF_LABELS
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

  def search(size: int, state: LabelState) -> None:
    for start in range(0, len(records), size):
      rows = slice(start, start + size)
      words = bundle.words(records[rows], state)
      state.search(embeddings[rows], words, config.top_k)

  alone = dataclasses.replace(state.fused, votes=None)
  states = {
    'dense': dataclasses.replace(state, fused=None),
    'words': dataclasses.replace(state, fused=alone),
    'fused': state,
  }

  line = {
    'benchmark': 'fused',
    'labels': len(state),
    'documents': len(records),
    'top_k': config.top_k,
    'mib': round(_size(bundle) / 2**20, 2),
  }
  for name, size in (('at_once', len(records)), ('alone', 1)):
    times = {kind: [] for kind in states}
    for _ in range(config.rounds + 1):  # the first compiles
      for kind in times:
        run = functools.partial(search, size, states[kind])
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


def _size(bundle: Bundle) -> int:
  """Bytes of what is there beside embeddings and their index."""
  folder = os.path.join(bundle.folder, bundle.about.get('label_folder', ''))
  paths = [os.path.join(folder, name) for name in OF_LABELS]
  paths.append(os.path.join(bundle.folder, DOCUMENTS))
  for path in paths[:]:
    if os.path.isdir(path):
      paths += [entry.path for entry in os.scandir(path)]
  return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


if __name__ == '__main__':
  cli.run(main, (FusedConfig,), __doc__)
