"""A made corpus, flags of a small run on it, and commands run as by a user."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np

from lmtx_jax import cli
from lmtx_jax.compare import CompareConfig
from lmtx_jax.config import TRAINING, SourceConfig
from lmtx_jax.evaluate import EvaluateConfig
from lmtx_jax.labels import LabelsConfig
from lmtx_jax.predict import PredictConfig
from lmtx_jax.report import ReportConfig
from lmtx_jax.serve import ServeConfig

NUM_LABELS = 24
WEIGHT = 0.75  # of words, in a run that ranks by them too
TINY = (
  '--encoder=scratch',
  '--scratch_layers=1',
  '--scratch_dim=32',
  '--scratch_heads=2',
  '--scratch_vocab=600',
  '--max_doc_tokens=24',
  '--max_label_tokens=8',
  '--num_dev_docs=16',
  '--batch_size=16',
  '--epochs=8',
  '--learning_rate=3e-3',
  '--lr_warmup_steps=4',
  '--num_cycles=2',
  '--checkpoint_steps=20',
  '--noreport',
)
_FLAGS = {
  'main': TRAINING,
  'predict': (PredictConfig,),
  'evaluate': (EvaluateConfig, SourceConfig),
  'serve': (ServeConfig,),
  'compare': (CompareConfig,),
  'labels': (LabelsConfig,),
  'report': (ReportConfig,),
}


@dataclasses.dataclass(frozen=True)
class Result:
  """What a command left behind."""

  code: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """The one line of error, after checking that there is just one."""
    assert 'Traceback' not in self.err
    lines = [x for x in self.err.splitlines() if x.startswith('error: ')]
    assert len(lines) == 1, self.err
    assert self.err.splitlines()[-1] == lines[0]
    assert len(lines[0]) < 600
    return lines[0]


def call(name: str, *argv: str) -> Result:
  """Runs a command of the package in this process."""
  module = importlib.import_module(f'lmtx_jax.{name}')
  out, err, code = io.StringIO(), io.StringIO(), 0
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      cli.run(
        module.main,
        _FLAGS[name],
        module.__doc__,
        [name, *map(str, argv)],
        takes_words=name in ('compare', 'labels'),
      )
    except SystemExit as e:
      code = e.code
  return Result(code, out.getvalue(), err.getvalue())


def check_same(found: list[dict], expected: list[dict]) -> None:
  """Predictions are the same; scores differ in the last digits."""
  assert [row['uid'] for row in found] == [row['uid'] for row in expected]
  for a, b in zip(found, expected, strict=True):
    scores = [[label['score'] for label in row['labels']] for row in (a, b)]
    np.testing.assert_allclose(*scores, atol=3e-6)
    first = [row['labels'][0]['uid'] for row in (a, b)]
    assert first[0] == first[1]


def succeed(name: str, *argv: str) -> Result:
  """Runs a command that must not fail."""
  result = call(name, *argv)
  assert result.code == 0, result.err
  return result


def spawn(name: str, *argv: str, **kwargs) -> subprocess.Popen:
  """Starts a command as a user does, from the root of the repository."""
  return subprocess.Popen(
    [sys.executable, '-m', f'lmtx_jax.{name}', *map(str, argv)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **{'cwd': pathlib.Path(__file__).parent.parent, **kwargs},
  )


def wait_for(
  process: subprocess.Popen, condition, limit_s: float = 120
) -> None:
  """Waits until something is true of a command that must not end before."""
  deadline = time.monotonic() + limit_s
  while not condition():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline
    time.sleep(0.05)


def on_devices(count: int, optimised: bool = False) -> dict[str, str]:
  """The environment of a process with so many devices, all of the CPU.

  Args:
    count: their number.
    optimised: compile as for a user; conftest.py has tests do so faster.
  """
  flags = '' if optimised else os.environ.get('XLA_FLAGS', '')
  flags += f' --xla_force_host_platform_device_count={count}'
  return os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}


def read_jsonl(path: str | os.PathLike) -> list[dict]:
  """The objects of a file of JSON lines."""
  with open(path, encoding='utf-8') as f:
    return [json.loads(line) for line in f]


def write_jsonl(path: str | os.PathLike, rows: list[dict]) -> None:
  """Writes JSON lines."""
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


def made_corpus(num_train: int = 90, num_test: int = 40) -> dict[str, list]:
  """Documents of nonsense words, each label having words of its own.

  A label's title is one of its words, and so stands in some of its documents
  only: there is something to learn, and something to learn it from.
  """
  rng = random.Random(0)

  def word() -> str:
    syllables = [c + v for c in 'bdfgklmnprstvz' for v in 'aeiou']
    return ''.join(rng.choices(syllables, k=3))

  topics = [[word() for _ in range(5)] for _ in range(NUM_LABELS)]
  common = [word() for _ in range(30)]
  labels = [
    {'uid': f'L{i}', 'title': f'{words[0]} {words[1]}', 'content': words[2]}
    for i, words in enumerate(topics)
  ]

  def document(uid: str) -> dict:
    targets = rng.sample(range(NUM_LABELS), 2)
    words = [w for t in targets for w in rng.choices(topics[t], k=4)]
    words += rng.choices(common, k=6)
    rng.shuffle(words)
    return {
      'uid': uid,
      'title': ' '.join(words[:2]),
      'content': ' '.join(words[2:]) + '.',
      'target_ind': sorted(targets),
    }

  train = [document(f'train-{i}') for i in range(num_train)]
  test = [document(f'test-{i}') for i in range(num_test)]
  return {'trn': train, 'tst': test, 'lbl': labels}


def write_corpus(folder: pathlib.Path, corpus: dict[str, list]) -> pathlib.Path:
  """Writes a data folder."""
  folder.mkdir(parents=True)
  for name, rows in corpus.items():
    write_jsonl(folder / f'{name}.json', rows)
  return folder
