"""A whole cycle: the seconds of each stage, and how long the device idles.

python -m tests.benchmarks.cycle [--data_dir=DIR] [--num_train_docs=1000]
    [--main_flags='--max_doc_tokens=128 ...'] [--rounds=1] [--scaling]

Runs `python -m lmtx_jax.main` with the quickstart's flags and one cycle, each
time in a new folder; --main_flags come after them. A first run, which compiles
(programs are kept in the data cache), does not count.

Idle, on a CPU: the device is the cores that XLA uses, so the idle share of a
stage is 1 - CPU seconds of the machine / (wall seconds x cores), read from
outside. Our own work on the host that runs meanwhile (batches, files) counts
as busy, and so does what other programs take, this one among them: the machine
must be quiet, and "taken_by_others", their share of the cores, says whether it
was.
"idle" is over all stages but the teacher's, "other_s" what lies outside the
stages (start, tokens, export), "idle_with_other" takes that in. On an
accelerator all of these are left out: CPU seconds tell nothing there.

--scaling runs 2N training documents too and prints each stage's ratio: what
grows linearly in the documents has about 2; labels have stages of their own
(encode_labels, index), which take as long, and test documents stay as many.

One JSON line, medians over the rounds.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.types import UserError

_TICK_S = 0.1
_HERTZ = os.sysconf('SC_CLK_TCK')
_TEACHER = 'teach'
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


@dataclasses.dataclass(frozen=True)
class CycleConfig:
  """Cycle."""

  data_dir: str = flag('', "Folder of data; empty: the quickstart's.")
  num_train_docs: int = flag(1000, 'Training documents, N.', low=1)
  main_flags: str = flag('', 'Further flags of lmtx_jax.main.')
  rounds: int = flag(1, 'Runs that count.', low=1)
  scaling: bool = flag(False, 'Also runs 2N training documents.')


def command(config: CycleConfig, num_docs: int, run_dir: str) -> list[str]:
  """The command line of one run."""
  line = [
    sys.executable,
    '-m',
    'lmtx_jax.main',
    f'--flagfile={os.path.join(_ROOT, "configs", "quickstart.flags")}',
    '--num_cycles=1',
  ]
  if config.data_dir:
    line += ['--dataset=', f'--data_dir={config.data_dir}']
  line += [f'--num_train_docs={num_docs}', f'--run_dir={run_dir}']
  return line + shlex.split(config.main_flags)


class Watch:
  """CPU seconds of a process, and when each of its stages ended."""

  def __init__(self, run_dir: str):
    """Takes the run directory that the process writes to."""
    self._run_dir = run_dir
    self._seen: dict[str, dict[str, float]] = {}
    self._times: list[float] = []
    self._cpu: list[float] = []
    self._machine: list[tuple[float, float]] = []  # seconds busy, and all
    self.spans: list[tuple[str, float, float]] = []  # stage, from, to

  def read(self, pid: int) -> bool:
    """Takes one sample; false where the process is gone."""
    try:
      with open(f'/proc/{pid}/stat') as f:
        fields = f.read().rpartition(')')[2].split()
    except OSError:
      return False
    ticks = int(fields[11]) + int(fields[12])
    with open('/proc/stat') as f:
      machine = [int(x) / _HERTZ for x in f.readline().split()[1:9]]
    self._times.append(time.monotonic())
    self._cpu.append(ticks / _HERTZ)
    unused = machine[3] + machine[4]  # idle, or waiting for a disk
    self._machine.append((sum(machine) - unused, sum(machine)))
    return True

  def note_stages(self) -> None:
    """Turns what was added to a cycle's seconds.json into spans."""
    now = time.monotonic()
    for path in glob.glob(os.path.join(self._run_dir, '*', 'seconds.json')):
      with open(path) as f:
        seconds = json.load(f)
      before = self._seen.get(path, {})
      for stage, spent in seconds.items():
        added = spent - before.get(stage, 0.0)
        if added > 0:
          self.spans.append((stage, now - added, now))
      self._seen[path] = seconds

  def unused(self, start: float, end: float) -> float:
    """Seconds of cores that nothing used between two moments."""
    busy, total = zip(*self._machine, strict=True)
    unused = np.subtract(total, busy)
    first, last = np.interp([start, end], self._times, unused)
    return float(last - first)

  def taken_by_others(self) -> float:
    """Share of the machine's cores that other programs took."""
    busy, total = np.subtract(self._machine[-1], self._machine[0])
    return float((busy - self._cpu[-1] + self._cpu[0]) / total)

  @property
  def span(self) -> tuple[float, float]:
    """First and last moment."""
    return self._times[0], self._times[-1]


def run_once(line: list[str], run_dir: str) -> Watch:
  """Runs a command to its end under watch.

  Raises:
    UserError: it failed; with its last line.
  """
  watch = Watch(run_dir)
  with tempfile.TemporaryFile('w+') as log:
    process = subprocess.Popen(line, cwd=_ROOT, stdout=log, stderr=log)
    try:
      while process.poll() is None and watch.read(process.pid):
        watch.note_stages()
        time.sleep(_TICK_S)
    finally:
      process.terminate()
      process.wait()
    watch.note_stages()
    log.seek(0)
    if process.returncode or not os.path.exists(f'{run_dir}/summary.json'):
      last = ' '.join(log.read().splitlines()[-1:])
      raise UserError(f'{shlex.join(line)} failed: {last}')
  return watch


def account(watch: Watch, cores: int) -> dict[str, Any]:
  """Seconds and idle share of each stage, and of all but the teacher's.

  Args:
    watch: of a run that ended.
    cores: that the run used; 0 where its device is none, so idle is unknown.
  """
  wall, unused = collections.Counter(), collections.Counter()
  for stage, start, end in watch.spans:
    wall[stage] += end - start
    unused[stage] += watch.unused(start, end)
  start, end = watch.span
  other = end - start - sum(wall.values())
  all_unused = watch.unused(start, end) - unused[_TEACHER]
  names = [name for name in wall if name != _TEACHER]
  seconds = sum(wall[name] for name in names)
  row = {'seconds': dict(wall), 'other_s': other}
  if not cores:
    return row
  return row | {
    'taken_by_others': watch.taken_by_others(),
    'idle_by_stage': {k: unused[k] / (wall[k] * cores) for k in names},
    'idle': sum(unused[k] for k in names) / (seconds * cores),
    'idle_with_other': all_unused / ((seconds + other) * cores),
  }


def median_of(rows: list[Any]) -> Any:
  """Medians of numbers, of nested dicts of them key by key."""
  if isinstance(rows[0], dict):
    return {k: median_of([row[k] for row in rows]) for k in rows[0]}
  return round(statistics.median(rows), 3)


def measure(config: CycleConfig, num_docs: int) -> dict[str, Any]:
  """Medians over the rounds, after a run that compiles."""
  cores, rows = _cores(), []
  for _ in range(1 + config.rounds):
    with tempfile.TemporaryDirectory() as folder:
      run_dir = os.path.join(folder, 'run')
      watch = run_once(command(config, num_docs, run_dir), run_dir)
      rows.append(account(watch, cores))
  return median_of(rows[1:])


def _cores() -> int:
  """Cores that JAX runs on; 0 where it has another device."""
  line = [sys.executable, '-c', 'import jax; print(jax.default_backend())']
  backend = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
  if backend.stdout.strip() != 'cpu':
    return 0
  return len(os.sched_getaffinity(0))


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(CycleConfig, values)
  line = {'benchmark': 'cycle', **dataclasses.asdict(config)}
  found = measure(config, config.num_train_docs)
  line |= found
  if config.scaling:
    double = measure(config, 2 * config.num_train_docs)['seconds']
    line['ratio_of_double'] = {
      stage: round(double[stage] / spent, 3)
      for stage, spent in found['seconds'].items()
    }
  print(json.dumps(line))


if __name__ == '__main__':
  cli.run(main, (CycleConfig,), __doc__)
