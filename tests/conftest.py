"""One small run that many tests look at, and how tests compile."""

import importlib.metadata
import importlib.util
import os
import pathlib
import signal

import pytest
from run_fixtures import (
  NUM_LABELS,
  TINY,
  WEIGHT,
  made_corpus,
  read_jsonl,
  succeed,
  write_corpus,
)

# A shell's background jobs are deaf to Ctrl-C, which tests send, and their
# children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests compile much and compute little: XLA is to optimise little, here and in
# the processes that tests start. With XLA_FLAGS= in the environment it compiles
# as it does for a user.
_XLA_FLAGS = [
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
  '--xla_cpu_parallel_codegen_split_count=1',
]
# XLA ends a process, without a word, that names a flag which it has no more.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(_XLA_FLAGS))

_LONG = ('test_processes.py', 'test_main.py', 'test_methods.py')
_PARITY = ('torch', 'transformers', 'sentence_transformers')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """What takes long comes first, so that both workers end together."""
  items.sort(key=lambda item: item.path.name not in _LONG)


def pytest_runtest_setup(item: pytest.Item) -> None:
  """Skips what takes long, and what compares with packages not installed."""
  if item.get_closest_marker('slow') and not os.environ.get('LMTX_SLOW_TESTS'):
    pytest.skip('LMTX_SLOW_TESTS is not set')
  if item.get_closest_marker('parity'):
    for name in _PARITY:
      if importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed')


@pytest.fixture(scope='session')
def cache(tmp_path_factory) -> pathlib.Path:
  """One cache of data and compiled programs for all tests of all workers."""
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    base = base.parent
  folder = base / 'cache'
  folder.mkdir(exist_ok=True)
  return folder


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory) -> pathlib.Path:
  """A made corpus, with filters."""
  folder = write_corpus(tmp_path_factory.mktemp('data') / 'made', made_corpus())
  for split, name in (('train', 'trn'), ('test', 'tst')):
    pairs = [
      f'{i} {(doc["target_ind"][0] + 7) % NUM_LABELS}\n'
      for i, doc in enumerate(read_jsonl(folder / f'{name}.json'))
      if i % 3 == 0
    ]
    (folder / f'filter_labels_{split}.txt').write_text(''.join(pairs))
  return folder


@pytest.fixture(scope='session')
def tiny(data_dir, cache) -> tuple[str, ...]:
  """Flags of a run of seconds; only --teacher and --run_dir are missing."""
  return (f'--data_dir={data_dir}', f'--data_cache={cache}', *TINY)


@pytest.fixture(scope='session')
def trained(tmp_path_factory, tiny) -> pathlib.Path:
  """The run directory of a finished run with the oracle."""
  run = tmp_path_factory.mktemp('runs') / 'trained'
  succeed('main', *tiny, '--teacher=oracle', f'--run_dir={run}')
  return run


@pytest.fixture(scope='session')
def bundle(trained) -> pathlib.Path:
  """The bundle of that run."""
  return trained / 'export'


@pytest.fixture(scope='session')
def fused_run(tmp_path_factory, tiny) -> pathlib.Path:
  """The run directory of one that ranks by words too."""
  run = tmp_path_factory.mktemp('runs') / 'fused'
  flags = ('--teacher=oracle', f'--lexical_weight={WEIGHT}', '--num_cycles=1')
  succeed('main', *tiny, *flags, f'--run_dir={run}')
  return run
