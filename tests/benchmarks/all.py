"""All benchmarks against peers, one after the other, in one table.

python -m tests.benchmarks.all [--quick] [--model=DIR] [--texts=FILE.jsonl[.gz]]
    [--labels=FILE.jsonl[.gz]] [--data_dir=DIR] [--max_tokens=128]
    [--compute_dtype=float32] [--peak_tflops=0] [--points=30000,320000,500000]

What is timed, and how, each benchmark's own docstring says; their JSON lines
appear on standard error as they come. Without --model, encode and train step
are left out; without --texts and --data_dir, the built-in docstrings are read.
With --model and --data_dir the cycle has the flags that README shows, else the
quickstart's.
tests.benchmarks.teacher needs a running server, so it is not among these. Peers
that are not installed are left out, with a line that says so.

--quick takes little of everything, in minutes: it shows that all runs, not how
fast it is.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from typing import Any

from absl import flags, logging

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.types import UserError

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_QUICK = {
  'encode': ['--num_texts=32', '--rounds=1'],
  'train_step': ['--batch_size=16', '--doc_tokens=32', '--rounds=1'],
  'shortlist': ['--num_queries=1000', '--rounds=1', '--truth_queries=500'],
  'cycle': ['--num_train_docs=200'],
}
_QUICK_POINTS = '2000'
_QUICK_CYCLE = (
  '--num_dev_docs=50 --num_test_docs=50 --epochs=1 --warmup_epochs=0'
)
_CYCLE = (
  '--teacher=oracle --oracle_recall=0.8 --oracle_false_yes=0.02'
  ' --warmup_epochs=0 --max_doc_tokens=128 --max_label_tokens=16'
  ' --batch_size=64 --learning_rate=2e-4 --epochs=2 --num_test_docs=300'
  ' --num_dev_docs=200'
)
_HEADER = ('benchmark', 'what', 'ours', 'peer', 'its', 'ratio')
Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AllConfig:
  """All."""

  quick: bool = flag(False, 'Little of everything.')
  model: str = flag('', 'Folder of a sentence-transformers model.')
  texts: str = flag('', 'Documents to embed, JSON lines, plain or .gz.')
  labels: str = flag('', 'Label titles to embed, JSON lines, plain or .gz.')
  data_dir: str = flag('', 'Folder of data of the whole cycle.')
  max_tokens: int = flag(128, 'Tokens of a document.', low=3)
  batch_size: int = flag(64, 'Documents of a train step.', low=2)
  compute_dtype: str = flag(
    'float32', 'Of the products.', choices=('float32', 'bfloat16')
  )
  peak_tflops: float = flag(0.0, "The device's, to print its share.", low=0)
  points: str = flag(
    '30000,320000,500000', 'Numbers of labels of the shortlists.'
  )


def commands(config: AllConfig) -> Iterator[list[str]]:
  """Name and flags of each benchmark to run."""
  if config.model:
    common = [f'--{k}={getattr(config, k)}' for k in (
      'model', 'compute_dtype', 'peak_tflops')]  # fmt: skip
    documents = f'--max_tokens={config.max_tokens}'
    yield ['encode', *common, f'--texts={config.texts}', documents]
    if config.labels:
      yield [
        'encode', *common, f'--texts={config.labels}', '--num_texts=4000',
        '--max_tokens=16',
      ]  # fmt: skip
    yield [
      'train_step', *common, f'--doc_tokens={config.max_tokens}',
      f'--batch_size={config.batch_size}',
    ]  # fmt: skip
  else:
    logging.info('encode and train step are left out: they need --model')
  points = _QUICK_POINTS if config.quick else config.points
  for num in points.split(','):
    yield [
      'shortlist', f'--num_points={num}', '--rounds=1', '--truth_queries=1000',
    ]  # fmt: skip
  main_flags = []
  if config.model and config.data_dir:
    main_flags += [f'--encoder={shlex.quote(config.model)}', _CYCLE]
  if config.quick:
    main_flags.append(_QUICK_CYCLE)
  yield [
    'cycle', '--scaling', f'--data_dir={config.data_dir}',
    f'--main_flags={" ".join(main_flags)}',
  ]  # fmt: skip


def run(name: str, words: list[str]) -> list[dict[str, Any]]:
  """The JSON lines of a benchmark.

  Raises:
    UserError: it failed, after saying why.
  """
  line = [sys.executable, '-m', f'tests.benchmarks.{name}', *words]
  done = subprocess.run(line, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
  sys.stderr.write(done.stdout)
  if done.returncode:
    raise UserError(f'tests.benchmarks.{name} failed; see above')
  return [json.loads(x) for x in done.stdout.splitlines() if x.startswith('{')]


def rows(name: str, lines: list[dict[str, Any]]) -> list[Row]:
  """What the table shows of a benchmark's lines."""
  return _ROWS[name](lines)


def _encode(lines: list[dict[str, Any]]) -> list[Row]:
  found = []
  for line in lines:
    what = f'{line["num_texts"]} texts of {line["max_tokens"]} tokens'
    ours = f'{line["ours_texts_per_s"]:.1f}/s'
    for key in line:
      if key.endswith('_ratio'):
        peer = key.removesuffix('_ratio')
        its = f'{line[f"{peer}_texts_per_s"]:.1f}/s'
        found.append(('encode', what, ours, peer, its, f'{line[key]:.2f}'))
  return found


def _train_step(lines: list[dict[str, Any]]) -> list[Row]:
  return [
    (
      'train step',
      f'{line["batch_size"]} documents of {line["doc_tokens"]} tokens',
      f'{line["ours_s"]:.3f} s',
      'torch',
      f'{line["torch_s"]:.3f} s',
      f'{line["torch_ratio"]:.2f}',
    )
    for line in lines
  ]


def _shortlist(lines: list[dict[str, Any]]) -> list[Row]:
  ours = [x for x in lines if x['peer'] in ('scann', 'exact')]
  peers = [x for x in lines if x not in ours]
  total = lambda x: x['build_s'] + x['query_s']  # noqa: E731
  show = lambda x: f'{total(x):.1f} s, recall {x["recall"]:.3f}'  # noqa: E731
  return [
    (
      'shortlist',
      f'{x["queries"]} x {x["points"]} x {x["dim"]}: {x["peer"]}',
      show(x),
      *((p['peer'], show(p), f'{total(p) / total(x):.2f}') if p else '   '),
    )
    for x in ours
    for p in peers or [None]
  ]


def _cycle(lines: list[dict[str, Any]]) -> list[Row]:
  found = []
  for line in lines:
    for stage, spent in line['seconds'].items():
      ratio = f'{line["ratio_of_double"][stage]:.2f}'
      found.append(
        ('cycle', stage, f'{spent:.2f} s', 'twice the documents', '', ratio)
      )
    if 'idle' in line:
      idle = f'{100 * line["idle"]:.0f}% of the time'
      found.append(('cycle', 'idle outside the teacher', idle, '', '', ''))
  return found


_ROWS = {
  'encode': _encode,
  'train_step': _train_step,
  'shortlist': _shortlist,
  'cycle': _cycle,
}


def table(found: list[Row]) -> str:
  """Rows under their header, in columns."""
  found = [_HEADER, *found]
  widths = [max(map(len, column)) for column in zip(*found, strict=True)]
  return '\n'.join(
    '  '.join(map(str.ljust, row, widths)).rstrip() for row in found
  )


def main(values: flags.FlagValues) -> None:
  """Runs all, and prints the table."""
  config = cli.build(AllConfig, values)
  found = []
  for name, *words in commands(config):
    quick = _QUICK[name] if config.quick else []
    found += rows(name, run(name, [*words, *quick]))
  print(table(found))


if __name__ == '__main__':
  cli.run(main, (AllConfig,), __doc__)
