"""What a process may use of its machine."""

import os

import pytest

from lmtx_jax import host


def test_cores_are_those_it_may_run_on(monkeypatch):
  monkeypatch.setattr(os, 'cpu_count', lambda: 64)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {3, 5, 7})
  assert host.num_cores() == 3
  monkeypatch.delattr(os, 'sched_getaffinity')
  assert host.num_cores() == 64


@pytest.mark.parametrize(
  ('limit', 'expected'),
  [('4096\n', 4096), ('max\n', None), (str(2**62), None), (None, None)],
)
def test_memory_is_that_of_the_container(
  tmp_path, monkeypatch, limit, expected
):
  path = tmp_path / 'memory.max'
  if limit:
    path.write_text(limit)
  monkeypatch.setattr(host, '_CGROUP_LIMIT', str(path))
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  assert host.memory_bytes() == (expected or machine)
