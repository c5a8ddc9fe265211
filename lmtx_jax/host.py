"""What this process may use of its machine."""

from __future__ import annotations

import os

_CGROUP_LIMIT = '/sys/fs/cgroup/memory.max'


def num_cores() -> int:
  """Cores that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def memory_bytes() -> int:
  """Physical memory, or the limit of a container where that is less."""
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  try:
    with open(_CGROUP_LIMIT) as f:
      limit = f.read().strip()
  except OSError:
    return machine
  return min(machine, int(limit)) if limit.isdigit() else machine
