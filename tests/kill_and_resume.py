"""Kills a run at random moments, resumes it, and compares what it leaves.

python -m tests.kill_and_resume --kills=20 --seed=0 [--longest=SECONDS]
    [--dir=DIR] [FLAGS OF A RUN]

DIR/a is left in peace; DIR/b0 is killed (SIGKILL) and started again by the same
command until it is done, then DIR/b1, until there were enough kills. All must
hold the same bundle byte for byte, the same summary but for durations, the same
metrics and the same verdicts, none asked for twice. DIR/warm comes first, to
fill the cache of data and programs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import filecmp
import itertools
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from typing import Any

_TOY = [
  '--dataset=scipy_see_also',
  '--label_text=title_content',
  '--encoder=scratch',
  '--scratch_dim=64',
  '--max_doc_tokens=32',
  '--max_label_tokens=24',
  '--num_train_docs=400',
  '--num_dev_docs=100',
  '--num_test_docs=100',
  '--teacher=lexical',
  '--warmup_epochs=1',
  '--warmup_batch_size=64',
  '--warmup_min_words=16',
  '--warmup_max_words=32',
  '--batch_size=32',
  '--epochs=4',
  '--learning_rate=1e-3',
  '--lr_warmup_steps=5',
  '--num_cycles=2',
  '--checkpoint_steps=5',
]
_SHORTEST_S = 0.5  # before this not even the imports are done
_ARTIFACTS = ('.npy', '.npz', '.json', '.safetensors')
_DURATIONS = ('seconds', 'warmup_seconds')


def main(argv: Sequence[str] | None = None) -> int:
  """Prints what is done and a verdict; 0 if nothing differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--longest',
    type=float,
    help='a start lives so many seconds at most; default: an undisturbed run',
  )
  parser.add_argument('--dir', default='', help='default: a temporary one')
  known, flags = parser.parse_known_args(argv)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(known.dir or temporary).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f'--data_cache={folder / "cache"}', *(flags or _TOY)]
    _finish(folder / 'warm', flags)
    duration = _finish(folder / 'a', flags)
    print(f'undisturbed: {duration:.1f} s', flush=True)
    duration = known.longest or duration
    rng, kills, found = random.Random(known.seed), 0, []
    for number in itertools.count():
      run = folder / f'b{number}'
      kills += _kill_and_resume(run, flags, rng, duration, known.kills - kills)
      found += [f'{run.name}/{line}' for line in differences(folder / 'a', run)]
      if kills == known.kills:
        break
  for line in found:
    print(f'differs: {line}')
  verdict = f'{len(found)} DIFFERENCES' if found else 'no difference'
  print(f'{kills} kills, {number + 1} runs: {verdict}')
  return 1 if found else 0


def _start(run: pathlib.Path, flags: Sequence[str]) -> subprocess.Popen:
  command = [sys.executable, '-m', 'lmtx_jax.main', *flags, f'--run_dir={run}']
  log = open(f'{run}.log', 'a', encoding='utf-8')  # noqa: SIM115
  with log:
    return subprocess.Popen(command, stdout=log, stderr=log)


def _finish(run: pathlib.Path, flags: Sequence[str]) -> float:
  """Runs to the end; seconds."""
  start = time.monotonic()
  _check(run, _start(run, flags).wait())
  return time.monotonic() - start


def _check(run: pathlib.Path, code: int) -> None:
  if code:
    last = pathlib.Path(f'{run}.log').read_text().splitlines()[-1:]
    raise SystemExit(f'{run.name} failed ({code}): {"".join(last)}')


def _kill_and_resume(
  run: pathlib.Path,
  flags: Sequence[str],
  rng: random.Random,
  duration: float,
  most: int,
) -> int:
  """Runs to the end, killed at most so often; returns how often.

  Half of the moments are uniform over the duration, half are log-uniform, so
  that the start and every stage are met.
  """
  kills = 0
  while kills < most:
    after = (
      rng.uniform(_SHORTEST_S, duration)
      if rng.random() < 0.5
      else _SHORTEST_S * (duration / _SHORTEST_S) ** rng.random()
    )
    process = _start(run, flags)
    try:
      code = process.wait(after)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      kills += 1
      newest = _newest(run)
      print(f'{run.name}: killed after {after:.1f} s, {newest}', flush=True)
      continue
    _check(run, code)
    print(f'{run.name}: done before {after:.1f} s', flush=True)
    return kills
  _finish(run, flags)
  print(f'{run.name}: done', flush=True)
  return kills


def _newest(run: pathlib.Path) -> str:
  """The artifact that a run wrote last."""
  files = [f for f in run.rglob('*') if f.is_file() and f.suffix in _ARTIFACTS]
  if not files:
    return 'before its first artifact'
  newest = max(files, key=lambda f: f.stat().st_mtime_ns)
  return f'last wrote {newest.relative_to(run)}'


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
  """What two finished runs of the same flags do not share."""
  found = []
  files = {
    str(f.relative_to(run))
    for run in (a, b)
    for f in (run / 'export').rglob('*')
    if f.is_file()
  }
  for name in sorted(files):
    paths = (a / name, b / name)
    if not all(path.is_file() for path in paths):
      found.append(f'{name}: only in one')
    elif not filecmp.cmp(*paths, shallow=False):
      found.append(name)
  if _summary(a) != _summary(b):
    found.append('summary.json')
  if _metrics(a) != _metrics(b):
    found.append('metrics.jsonl')
  verdicts = [_verdicts(run) for run in (a, b)]
  if verdicts[0] != verdicts[1]:
    found.append('verdicts.sqlite')
  for run, rows in zip((a, b), verdicts, strict=True):
    if again := sum(row['num_asked'] > 1 for row in rows):
      found.append(f'verdicts.sqlite: {again} asked twice in {run.name}')
  left = [f for f in b.rglob('.unfinished-*')]
  return found + [f'{f.relative_to(b)}: left behind' for f in left]


def _summary(run: pathlib.Path) -> Any:
  return _without_durations(json.loads((run / 'summary.json').read_text()))


def _without_durations(value: Any) -> Any:
  if isinstance(value, dict):
    return {
      k: _without_durations(v)
      for k, v in value.items()
      if k not in _DURATIONS and not k.endswith('_s')
    }
  if isinstance(value, list):
    return [_without_durations(item) for item in value]
  return value


def _metrics(run: pathlib.Path) -> set[str]:
  """Rows without their time; one that was written twice counts once.

  Nor how asking went from minute to minute.
  """
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  rows = [_without_durations(json.loads(line)) for line in lines]
  return {
    json.dumps(row, sort_keys=True) for row in rows if 'asking/pairs' not in row
  }


def _verdicts(run: pathlib.Path) -> list[dict[str, Any]]:
  with contextlib.closing(sqlite3.connect(run / 'verdicts.sqlite')) as db:
    db.row_factory = sqlite3.Row
    rows = db.execute(
      'SELECT document, label, answer, p_yes, num_asked FROM verdicts'
      ' ORDER BY teacher, document, label'
    )
    return [dict(row) for row in rows]


if __name__ == '__main__':
  sys.exit(main())
