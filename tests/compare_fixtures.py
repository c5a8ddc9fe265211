"""Run directories as finished runs leave them, with made numbers."""

from __future__ import annotations

import pathlib

import numpy as np

from lmtx_jax.config import TRAINING
from lmtx_jax.files import write_arrays, write_json
from lmtx_jax.run_dir import RunDir
from lmtx_jax.types import UserError

NUM_TEST_DOCS = 60
METRICS = ('P@1', 'P@5', 'R@10', 'R@100')
FINAL = 'cycle_00/test_documents.npz'


def write_run(
  folder: pathlib.Path,
  *,
  scores: tuple[float, ...] = (40.0,),
  data: str = 'd1',
  name: str = 'made',
  documents: int = NUM_TEST_DOCS,
  initial: float = 20.0,
  summary: dict | None = None,
  cycle: dict | None = None,
  **flags,
) -> str:
  """Writes a finished run.

  Args:
    folder: of the run.
    scores: P@1 of each cycle; the last one is the best.
    data: fingerprint of the dataset.
    name: of the dataset.
    documents: how many test documents have scores of their own; 0: none.
    initial: P@1 before training.
    summary: entries in place of those made here.
    cycle: the same for each cycle.
    **flags: of the run, where they are not the default.
  """
  configs = []
  for config_class in TRAINING:
    names = config_class.__dataclass_fields__.keys() & flags.keys()
    configs.append(config_class(**{n: flags.pop(n) for n in names}))
  if flags:
    raise UserError(f'no such flags: {flags}')
  run = RunDir(str(folder))
  run.guard(configs, data, name)
  run._lock.close()
  cycles = [
    {
      'cycle': i,
      'dev_p@1': score + 1,
      'test': of_p1(score),
      'precision': 0.5,
      'quality': score / 100,
      'asked': 1000,
      'reused': 0,
      'dev': {'asked': 10},
      'seconds': {'train': 5.0},
      **(cycle or {}),
    }
    for i, score in enumerate(scores)
  ]
  final = scores[-1] if scores else initial
  write_json(
    run.file('summary.json'),
    {
      'method': configs[0].method,
      'best_cycle': len(cycles) - 1,
      'stopped_because': 'all cycles done',
      'seconds': 12.5,
      'cycles': cycles,
      'test': of_p1(final),
      'test_documents': FINAL if cycles else 'warmup/test_documents.npz',
      'initial': of_p1(initial),
      **(summary or {}),
    },
  )
  for where, score in (('warmup', initial), ('cycle_00', final)):
    (folder / where).mkdir(exist_ok=True)
    if documents:
      write_arrays(
        str(folder / where / 'test_documents.npz'), of_each(score, documents)
      )
  return str(folder)


def of_p1(score: float) -> dict[str, float]:
  """The scores that go with a P@1."""
  return {'P@1': score, 'P@5': score / 2, 'R@10': score + 5, 'R@100': 90.0}


def of_each(score: float, documents: int) -> dict[str, np.ndarray]:
  """Scores of documents, of which the first `score` percent are right."""
  right = np.arange(documents) < round(documents * score / 100)
  return {name: 100 * right.astype(np.float32) for name in METRICS}
