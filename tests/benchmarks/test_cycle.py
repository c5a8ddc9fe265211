import dataclasses
import json
import sys

import jax
import pytest

from lmtx_jax.train.grad_cache import Chunk
from tests.benchmarks import all as all_benchmarks
from tests.benchmarks import cycle, train_step


def _watch(tmp_path, monkeypatch) -> cycle.Watch:
  """10 s on 2 cores: 4 s of encode at 1 core, 2 s of teach at none.

  Another program takes half a core.
  """
  now = [0.0]
  monkeypatch.setattr(cycle.time, 'monotonic', lambda: now[0])
  watch = cycle.Watch(str(tmp_path))
  folder = tmp_path / 'cycle_00'
  folder.mkdir()
  cpu = {0: 0.0, 2: 1.0, 6: 5.0, 8: 5.0, 10: 7.0}
  watch._times, watch._cpu = list(cpu), list(cpu.values())
  watch._machine = [(x + t / 2, 2.0 * t) for t, x in cpu.items()]
  for now[0], seconds in (
    (4.0, {'encode': 2.0}),
    (6.0, {'encode': 4.0}),
    (8.0, {'encode': 4.0, 'teach': 2.0}),
  ):
    (folder / 'seconds.json').write_text(json.dumps(seconds))
    watch.note_stages()
  return watch


def test_idle_is_what_the_cores_did_not_do(tmp_path, monkeypatch):
  found = cycle.account(_watch(tmp_path, monkeypatch), cores=2)
  assert found['seconds'] == pytest.approx({'encode': 4.0, 'teach': 2.0})
  assert found['idle_by_stage'] == pytest.approx({'encode': 0.25})
  assert found['idle'] == pytest.approx(0.25)
  assert found['other_s'] == pytest.approx(4.0)
  # 8 s without the teacher, 7 + 4 of their 16 CPU seconds used.
  assert found['idle_with_other'] == pytest.approx(1 - 11 / 16)
  assert found['taken_by_others'] == pytest.approx(5 / 20)


def test_an_accelerator_has_no_idle(tmp_path, monkeypatch):
  found = cycle.account(_watch(tmp_path, monkeypatch), cores=0)
  assert set(found) == {'seconds', 'other_s'}


def test_medians_go_key_by_key():
  rows = [{'a': x, 'b': {'c': -x}} for x in (3.0, 1.0, 2.0)]
  assert cycle.median_of(rows) == {'a': 2.0, 'b': {'c': -2.0}}


def test_a_run_that_fails_is_one_line(tmp_path):
  line = [sys.executable, '-c', 'raise SystemExit("no such folder")']
  with pytest.raises(cycle.UserError, match='failed: no such folder'):
    cycle.run_once(line, str(tmp_path))


def test_the_table_shows_ratios_to_each_peer():
  lines = [
    {'peer': 'hnswlib', 'build_s': 9.0, 'query_s': 1.0, 'recall': 0.99},
    {'peer': 'scann', 'build_s': 1.0, 'query_s': 1.0, 'recall': 1.0},
  ]
  lines = [x | {'queries': 5, 'points': 6, 'dim': 7} for x in lines]
  rows = all_benchmarks.rows('shortlist', lines)
  assert [row[-1] for row in rows] == ['5.00']
  assert 'hnswlib' in all_benchmarks.table(rows)


def test_all_runs_what_the_readme_shows():
  config = all_benchmarks.AllConfig(model='M O', data_dir='D', texts='T')
  found = list(all_benchmarks.commands(config))
  points = [f'--num_points={n}' for n in (30_000, 320_000, 500_000)]
  assert [words[1] for words in found if words[0] == 'shortlist'] == points
  flags = found[-1][-1].removeprefix('--main_flags=')
  assert flags.startswith("--encoder='M O' --teacher=oracle")
  quick = dataclasses.replace(config, quick=True)
  found = list(all_benchmarks.commands(quick))
  small = [words[1] for words in found if words[0] == 'shortlist']
  assert small == ['--num_points=2000']
  assert found[-1][-1].endswith('--epochs=1 --warmup_epochs=0')


def test_the_step_takes_the_chunks_of_a_run(monkeypatch):
  step = train_step.StepConfig(doc_tokens=128)
  assert train_step.chunk_of(step).tokens  # on a CPU
  off = dataclasses.replace(step, grad_cache_chunk=0)
  assert train_step.chunk_of(off) == Chunk()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert train_step.chunk_of(step) == Chunk()
