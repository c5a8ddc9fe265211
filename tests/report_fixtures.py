"""Run directories as runs of any size leave them, with made numbers."""

from __future__ import annotations

import json
import pathlib

from compare_fixtures import of_p1
import numpy as np

from lmtx_jax.config import TRAINING
from lmtx_jax.files import write_arrays, write_json
from lmtx_jax.run_dir import RunDir


def write_artifacts(
  folder: pathlib.Path,
  *,
  cycles: int = 2,
  lines: int = 10,
  taught: bool = True,
  **flags,
) -> str:
  """Writes a run that has no summary yet, and whose data are nowhere.

  Args:
    folder: of the run.
    cycles: how many are done.
    lines: of each cycle's training in metrics.jsonl.
    taught: whether there is a teacher.
    **flags: of --method and its like.
  """
  configs = [TRAINING[0](**flags), *(part() for part in TRAINING[1:])]
  run = RunDir(str(folder))
  run.guard(configs, 'd1', 'made')
  run._lock.close()
  rng = np.random.default_rng(0)
  for cycle in range(-1, cycles):
    run.note(run.cycle_file(cycle, 'test_scores.json'), of_p1(30.0 + cycle))
    run.note(
      run.cycle_file(cycle, 'seconds.json'),
      {'train': 9.0, 'encode': 2.0, 'unheard of': 1.0},
    )
    write_arrays(
      run.cycle_file(cycle, 'test_labels.npz'),
      {'labels': rng.integers(0, 500, (200, 10), np.int32)},
    )
    if taught and cycle >= 0:
      _teach(run, cycle)
  with open(run.file('metrics.jsonl'), 'w', encoding='utf-8') as f:
    for cycle in range(cycles):
      losses = np.exp(-np.arange(lines) / lines) + 0.1 * rng.random(lines)
      for i, loss in enumerate(losses.tolist()):
        row = {
          'cycle': cycle,
          'step': 10 * i,
          'time_s': 0.1,
          'train/loss': loss,
        }
        row |= {'train/grad_norm': 0.1, 'train/learning_rate': 1e-4}
        f.write(json.dumps(row) + '\n')
  return str(folder)


def _teach(run: RunDir, cycle: int) -> None:
  write_json(
    run.cycle_file(cycle, 'teaching.json'),
    {
      'pseudo_labels': 1500,
      'documents': 1000,
      'yes_rate': 0.25,
      'precision': 0.5,
      'quality': None,
      'pairs': 6000,
      'asked': 4000,
      'reused': 2000,
      'invalid': 0,
    },
  )
  write_json(
    run.cycle_file(cycle, 'dev_score.json'),
    {'p@1': 50.0 + cycle, 'pairs': 10, 'asked': 7, 'reused': 3, 'invalid': 0},
  )
