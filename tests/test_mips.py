"""Which index is chosen."""

import importlib.util

import jax
import pytest

from lmtx_jax import mips


@pytest.fixture
def installed(monkeypatch):
  """Makes ScaNN be there, or not."""
  find = importlib.util.find_spec

  def make(there):
    name = 'numpy' if there else 'no_such_module'
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: find(name))

  return make


def test_auto_is_scann_where_it_is_installed(installed):
  installed(False)
  assert mips.choose_index('auto') == 'exact'
  assert mips.choose_index('auto', 10**6, 768, 10**6) == 'exact'
  installed(True)
  assert mips.choose_index('auto') == 'scann'


@pytest.mark.parametrize('kind', ['exact', 'scann'])
def test_what_is_asked_for_is_taken(installed, kind):
  installed(False)
  assert mips.choose_index(kind, 10**6, 768, 1) == kind


@pytest.mark.parametrize(
  ('pairs_per_s', 'num_queries', 'expected'),
  [
    (1e8, 30_000, 'scann'),  # as on two cores
    (1e8, 10, 'exact'),  # too few queries to build an index for
    (1e11, 30_000, 'exact'),  # as on an accelerator
  ],
)
def test_auto_is_the_quicker_one(
  installed, monkeypatch, pairs_per_s, num_queries, expected
):
  installed(True)
  monkeypatch.setattr(mips, 'num_cores', lambda: 2)
  monkeypatch.setattr(mips, '_exact_rate', lambda dim: pairs_per_s)
  assert mips.choose_index('auto', 320_000, 768, num_queries) == expected


def test_processes_that_share_the_build_make_it_cheaper(installed, monkeypatch):
  installed(True)
  monkeypatch.setattr(mips, 'num_cores', lambda: 2)
  monkeypatch.setattr(mips, '_exact_rate', lambda dim: 3e8)
  sizes = ('auto', 4_000_000, 768, 4_000)
  assert mips.choose_index(*sizes) == 'exact'  # 53 s, not 70 or 49
  assert mips.choose_index(*sizes, num_builders=8) == 'scann'


@pytest.mark.parametrize(
  ('backend', 'expected'), [('cpu', 'scann'), ('gpu', 'exact')]
)
def test_few_labels_are_searched_where_the_device_is(
  installed, monkeypatch, backend, expected
):
  installed(True)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  assert mips.choose_index('auto', 5_000, 768, 10**6) == expected


def test_the_probe_measures_a_rate(monkeypatch):
  monkeypatch.setattr(mips, '_PROBE_LABELS', 64)
  monkeypatch.setattr(mips, '_PROBE_QUERIES', 8)
  mips._exact_rate.cache_clear()
  try:
    assert 1 < mips._exact_rate(4) < 1e12
  finally:
    mips._exact_rate.cache_clear()
