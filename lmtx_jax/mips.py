"""Maximum inner product search: which index, and what all of them promise."""

from __future__ import annotations

import functools
import time
from typing import Protocol

from absl import logging
import jax
import numpy as np

from lmtx_jax.exact_index import ExactIndex
from lmtx_jax.host import num_cores
from lmtx_jax.scann_index import BRUTE_FORCE_BELOW, ScannIndex, is_installed

__all__ = ['ExactIndex', 'MipsIndex', 'ScannIndex', 'choose_index']

# CPU seconds of ScaNN for a label and dimension, to build and to look one query
# up: measured at 320,000 labels of 768 dimensions, 3.6 s and 1.87 ms a query
# (tests/benchmarks/shortlist.py, two AMD EPYC cores with AVX-512).
_BUILD_CPU_S = 1.5e-8
_QUERY_CPU_S = 7.6e-12
_PROBE_LABELS = 32_768
_PROBE_QUERIES = 1_024


class MipsIndex(Protocol):
  """Finds the labels with the largest inner products."""

  def search(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Looks queries up; best all of them at once.

    Args:
      queries: `[n, dim]` f32 or bf16, memory-mapped or not.
      k: labels a query; at most as many as there are labels come back.

    Returns:
      labels `[n, k]` int32, and inner products `[n, k]` float32, best first;
      -1 and -inf where the index reached no more.
    """


def choose_index(
  kind: str,
  num_labels: int = 0,
  dim: int = 0,
  num_queries: int = 0,
  num_builders: int = 1,
) -> str:
  """Resolves 'auto' to 'scann' or 'exact'.

  Exact search where ScaNN has no build, or where it is quicker than to build
  and to search ScaNN's. A timing decides that, so a run that goes on must not
  choose again. Without sizes, ScaNN wins where it is installed.

  Args:
    kind: 'auto', 'scann' or 'exact'; the latter two are taken as they are.
    num_labels: labels to index.
    dim: of their embeddings.
    num_queries: queries that will be looked up here before the labels change.
    num_builders: processes that build the parts of ScaNN's index together.
  """
  if kind != 'auto':
    return kind
  if not is_installed():
    logging.info('ScaNN is not installed, it has no build here: exact search')
    return 'exact'
  if num_labels < BRUTE_FORCE_BELOW:  # there ScaNN searches exactly too
    on_cpu = not num_labels or jax.default_backend() == 'cpu'
    return 'scann' if on_cpu else 'exact'
  exact = num_queries * num_labels / _exact_rate(dim)
  scann = _scann_seconds(num_labels, dim, num_queries, num_builders)
  logging.info('index: exact search %.1f s, ScaNN %.1f s', exact, scann)
  return 'exact' if exact <= scann else 'scann'


def _scann_seconds(
  num_labels: int, dim: int, num_queries: int, num_builders: int
) -> float:
  """What building and searching ScaNN's index takes here, about."""
  cpu_s = _BUILD_CPU_S / num_builders + _QUERY_CPU_S * num_queries
  return num_labels * dim * cpu_s / num_cores()


@functools.lru_cache(maxsize=4)
def _exact_rate(dim: int) -> float:
  """Pairs of a query and a label that exact search scores a second, here."""
  draw = np.random.default_rng(0)
  index = ExactIndex(draw.standard_normal((_PROBE_LABELS, dim), np.float32))
  queries = draw.standard_normal((_PROBE_QUERIES, dim), np.float32)
  seconds = []
  for _ in range(3):  # the first compiles
    start = time.perf_counter()
    index.search(queries, 10)
    seconds.append(time.perf_counter() - start)
  return _PROBE_LABELS * _PROBE_QUERIES / min(seconds)
