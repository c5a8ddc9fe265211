"""Two processes of four devices do what one process with one device does."""

import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from run_fixtures import on_devices, read_jsonl, spawn, succeed, wait_for

from lmtx_jax import processes, rendezvous
from lmtx_jax.files import read_arrays

ORACLE = (
  '--teacher=oracle',
  '--oracle_recall=0.9',
  '--oracle_false_yes=0.02',
)
FLAGS = (  # few steps: one of two processes costs a tenth of a second or more
  *ORACLE,
  '--epochs=3',
  '--warmup_epochs=1',
  '--warmup_batch_size=32',
  '--warmup_min_words=2',
  '--warmup_max_words=4',
)


def free_port() -> int:
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


def start(*flags, num=2, devices=4, port=None, ids=None, **kwargs) -> list:
  """Starts the processes of one run."""
  port = port or free_port()
  return [
    spawn(
      'main',
      *flags,
      f'--coordinator_address=127.0.0.1:{port}',
      f'--num_processes={num}',
      f'--process_id={i}',
      env=on_devices(devices),
      **kwargs,
    )
    for i in (range(num) if ids is None else ids)
  ]


def finish(started: list, timeout=300) -> list:
  """(exit code, output, errors) of each."""
  try:
    ends = [p.communicate(timeout=timeout) for p in started]
  finally:
    for process in started:
      process.kill()
  return [(p.returncode, *end) for p, end in zip(started, ends, strict=True)]


def verdicts(run) -> list:
  with sqlite3.connect(run / 'verdicts.sqlite') as db:
    return db.execute(
      'SELECT document, label, answer, num_asked FROM verdicts'
      ' ORDER BY document, label'
    ).fetchall()


def numbers(run) -> dict:
  """Every number of a summary that is no duration, by its path."""
  found = {}

  def walk(value, *path):
    if isinstance(value, dict):
      for key, item in value.items():
        if 'seconds' not in key:
          walk(item, *path, key)
    elif isinstance(value, list):
      for i, item in enumerate(value):
        walk(item, *path, i)
    else:
      found[path] = value

  walk(json.loads((run / 'summary.json').read_text()))
  return found


def losses(run) -> np.ndarray:
  rows = read_jsonl(run / 'metrics.jsonl')
  return np.array([row['train/loss'] for row in rows if 'train/loss' in row])


@pytest.fixture(scope='module')
def runs(tiny, tmp_path_factory):
  """The run directories of 2 x 4 devices and of 1 x 1."""
  folder = tmp_path_factory.mktemp('processes')
  flags = (*tiny, *FLAGS)
  alone = start(*flags, f'--run_dir={folder / "one"}', num=1, devices=1)
  assert [code for code, *_ in finish(alone)] == [0]
  two = finish(start(*flags, f'--run_dir={folder / "two"}'))
  assert [code for code, *_ in two] == [0, 0], two
  assert ['bundle: ' in out for _, out, _ in two] == [True, False]
  return folder / 'one', folder / 'two'


def test_the_same_verdicts_each_asked_once(runs):
  one, two = map(verdicts, runs)
  assert len(one) > 200
  assert one == two
  assert not list(runs[1].glob('verdicts.part*'))
  with sqlite3.connect(runs[1] / 'verdicts.sqlite') as db:
    counts = db.execute(
      "SELECT a.name LIKE '%@1-%', COUNT(*) FROM verdicts v JOIN askers a"
      ' ON v.asked_by = a.id GROUP BY 1'
    ).fetchall()
  # Each process asked its share.
  assert len(counts) == 2 and min(n for _, n in counts) > 50


def test_the_same_numbers(runs):
  one, two = map(numbers, runs)
  assert one.keys() == two.keys()
  for path, value in one.items():
    assert two[path] == pytest.approx(value, abs=1e-4, nan_ok=True), path
  one, two = map(losses, runs)
  assert len(one) > 5
  np.testing.assert_allclose(one, two, atol=1e-4)


def test_the_same_artifacts(runs):
  one, two = runs
  names = {p.relative_to(one) for p in one.rglob('*') if p.is_file()}
  # The others are named by the moment, or there while somebody reads.
  events = lambda n: 'tensorboard' in n.parts or '.sqlite-' in n.name  # noqa: E731
  assert {n for n in names if not events(n)} == {
    p.relative_to(two)
    for p in two.rglob('*')
    if p.is_file() and not events(p.relative_to(two))
  }
  for name in ('label_embeddings.npy', 'doc_embeddings.npy'):
    first, second = (np.load(run / 'cycle_01' / name) for run in runs)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_leading_one_plans(tiny, tmp_path, data_dir, cache):
  """Within a budget each question is asked once, by one of the two."""
  flags = (
    *(*tiny, *ORACLE, '--epochs=1', '--shortlist=hybrid'),
    *('--teacher_budget=192', '--plan_candidates=8', '--neighbours=4'),
    *('--plan_rounds=3', '--lexical_weight=0.5', '--neighbour_weight=0.4'),
  )
  alone = start(*flags, f'--run_dir={tmp_path / "one"}', num=1, devices=1)
  two = start(*flags, f'--run_dir={tmp_path / "two"}')
  assert [code for code, *_ in finish(alone) + finish(two)] == [0, 0, 0]
  one, two = (verdicts(tmp_path / name) for name in ('one', 'two'))
  assert 160 < len(two) <= 192 and {row[3] for row in two} == {1}
  pairs = [{row[:2] for row in rows} for rows in (one, two)]
  # Embeddings differ in the last digits, and so does what is the likeliest.
  assert len(pairs[0] & pairs[1]) > 0.7 * len(pairs[0])
  planned = [
    read_arrays(tmp_path / 'two' / f'cycle_{cycle:02d}' / 'judged.npz')
    for cycle in range(2)
  ]
  asked = {
    pair
    for found in planned
    for pair in zip(found['docs'], found['labels'], strict=True)
  }
  assert len(asked) == 160
  # Votes and words count alike, whoever looks documents up.
  export = tmp_path / 'two' / 'export'
  assert (export / 'neighbours.npy').exists()
  found = succeed(
    'evaluate',
    f'--bundle={export}',
    f'--data_dir={data_dir}',
    f'--data_cache={cache}',
  )
  summary = json.loads((tmp_path / 'two' / 'summary.json').read_text())
  scores = json.loads(found.out)['scores']
  assert scores == pytest.approx(summary['test'], abs=1e-4)


def test_one_who_does_not_come_is_named(tiny, tmp_path):
  flags = (*tiny, *FLAGS, f'--run_dir={tmp_path / "run"}')
  started = start(*flags, '--join_timeout_s=8', num=3, ids=(0, 2))
  for code, _, err in finish(started):
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith('error: of 3 processes, 1 did not join within 8 s')
    assert 'Traceback' not in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'flag', [('epochs', '2', '3'), ('checkpoint_steps', '7', '20')]
)
def test_hosts_that_disagree(tiny, flag, tmp_path):
  name, here, there = flag
  run = tmp_path / 'run'
  port = free_port()
  flags = (*tiny, *FLAGS, f'--run_dir={run}')
  started = [
    *start(*flags, port=port, ids=(0,)),
    *start(*flags, f'--{name}={here}', port=port, ids=(1,)),
  ]
  told = f'process 1 has another flag: {name}={here} (process 0: {there})'
  for code, out, err in finish(started):
    assert code == 1 and 'bundle' not in out
    errors = [x for x in err.splitlines() if x.startswith('error: ')]
    assert len(errors) == 1 and told in errors[0]
    assert 'Traceback' not in err and 'Check failure' not in err
  assert not run.exists()


@pytest.mark.parametrize('what', ['dataset', 'version'])
def test_hosts_that_see_other_things(tiny, what, data_dir, tmp_path):
  """Data of the same name with one more label, or code that was changed."""
  run, port, other, kwargs = tmp_path / 'run', free_port(), (), {}
  if what == 'dataset':
    folder = shutil.copytree(data_dir, tmp_path / data_dir.name)
    with open(folder / 'lbl.json', 'a') as f:
      f.write('{"uid": "new", "title": "new", "content": ""}\n')
    other = (f'--data_dir={folder}',)
  else:
    shutil.copytree(
      pathlib.Path(processes.__file__).parent, tmp_path / 'lmtx_jax'
    )
    with open(tmp_path / 'lmtx_jax' / 'types.py', 'a') as f:
      f.write('# changed\n')
    kwargs = {'cwd': tmp_path}
  flags = (*tiny, *FLAGS, f'--run_dir={run}')
  started = [
    *start(*flags, port=port, ids=(0,)),
    *start(*flags, *other, port=port, ids=(1,), **kwargs),
  ]
  key = 'sources' if what == 'version' else data_dir.name
  for code, out, err in finish(started):
    assert code == 1 and 'bundle' not in out
    (error,) = [x for x in err.splitlines() if x.startswith('error: ')]
    assert error.startswith(f'error: process 1 has another {what}: {key}=')
    assert 'Traceback' not in err and 'Check failure' not in err
  assert not run.exists()


@pytest.mark.slow
def test_preempted_it_goes_on_with_other_devices(tiny, runs, tmp_path):
  """Told to stop at 2 x 4 in mid-training, finished at 2 x 2 and at 1 x 1."""
  run = tmp_path / 'run'
  flags = (*tiny, *FLAGS, '--checkpoint_steps=1000', f'--run_dir={run}')
  started = start(*flags)
  metrics = run / 'metrics.jsonl'
  wait_for(started[0], lambda: metrics.exists() and len(losses(run)) > 0, 240)
  started[1].send_signal(signal.SIGTERM)  # one is told, both must stop
  for code, _, err in finish(started, 60):
    assert code == 0, err
    assert 'Traceback' not in err and 'Check failure' not in err
  assert not (run / 'summary.json').exists()
  copy = shutil.copytree(run, tmp_path / 'copy')
  for end, num, devices in ((run, 2, 2), (copy, 1, 1)):
    started = start(*flags, f'--run_dir={end}', num=num, devices=devices)
    for code, _, err in finish(started):
      assert code == 0, err
    np.testing.assert_allclose(losses(end), losses(runs[0]), atol=1e-4)
    assert verdicts(end) == verdicts(runs[0])
    found = numbers(end)
    for path, value in numbers(runs[0]).items():
      assert found[path] == pytest.approx(value, abs=1e-4, nan_ok=True), path


def test_alone():
  assert (processes.index(), processes.count()) == (0, 1)
  assert processes.lead(lambda: {'a': 1}) == {'a': 1}
  assert processes.share(5) == slice(0, 5)
  array = np.arange(6).reshape(3, 2)
  assert processes.gather(array, 3) is array
  processes.check_same('flag', {'a': '1'})


def test_shares_cover_all_rows(monkeypatch):
  for count in (1, 2, 3, 7):
    for num_rows in (0, 1, 2, 6, 7, 50):
      rows = []
      for index in range(count):
        monkeypatch.setattr(processes, 'count', lambda n=count: n)
        monkeypatch.setattr(processes, 'index', lambda i=index: i)
        rows += range(num_rows)[processes.share(num_rows)]
      assert rows == list(range(num_rows))


SLURM_TASK = """
import numpy as np
from lmtx_jax import processes, rendezvous
processes.join('', 1, 0, 60)
print(processes.lead(lambda: [processes.count(), processes.index()]))
numbers, none = processes.lead_arrays(lambda: [
  np.array([[processes.index(), 2**40]]), np.zeros(0, np.int8)
])
numbers += 1  # everybody's own
print(numbers.tolist(), numbers.dtype, none.tolist(), none.dtype)
processes.leave()
"""


def start_slurm(task, ids, job_id=None) -> list:
  """Starts some of the two tasks of a job step."""
  return [
    subprocess.Popen(
      [sys.executable, '-c', task],
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'SLURM_JOB_ID': str(job_id or os.getpid()),
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_STEP_NUM_NODES': '2',
        'SLURM_NTASKS': '2',
        'SLURM_PROCID': str(i),
        'SLURM_LOCALID': '0',
        'SLURM_GPUS_ON_NODE': '8',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in ids
  ]


def test_a_slurm_step_needs_no_address():
  for code, out, err in finish(start_slurm(SLURM_TASK, (0, 1))):
    assert code == 0, err
    assert '[2, 0]' in out
    assert f'[[1, {2**40 + 1}]] int64 [] int8' in out


SLURM_MAIN = """
from lmtx_jax import cli, processes
def command(values):
  processes.join('', 1, 0, 3)
cli.run(command, (), 'joins', ['x'], on_failure=processes.abandon)
"""


@pytest.mark.parametrize(
  ('there', 'told'),
  [
    (0, 'error: of 2 processes, 1 did not join within 3 s'),
    (1, 'error: process 0 was not found at localhost:'),
  ],
)
def test_a_slurm_task_that_does_not_come_is_named(there, told):
  (end,) = finish(start_slurm(SLURM_MAIN, (there,), os.getpid() + 1 + there))
  code, _, err = end
  assert code == 1, err
  assert err.splitlines()[-1].startswith(told)
  assert 'Traceback' not in err and 'Check failure' not in err


def test_a_jax_without_its_cluster_detection_starts_alone(monkeypatch):
  monkeypatch.delattr('jax._src.clusters.ClusterEnv')
  assert rendezvous.cluster([0, 1], 1) == (None, None, None, [0, 1])
