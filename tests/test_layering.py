"""Imports point one way, and heavy frameworks stay out."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'lmtx_jax'

# A module may import from the lines above its own, and from its own line. Of a
# folder, all modules stand together.
LAYERS = [
  ['types', 'interrupts', 'versions', 'host'],
  ['cli', 'rendezvous'],
  ['processes'],
  ['llm_config', 'baseline_config', 'plan_config', 'train_config'],
  ['config', 'embeddings', 'files'],
  ['run_dir', 'metric_writer', 'devices'],
  ['data'],
  ['model'],
  ['best_labels', 'label_file', 'hashed_words'],
  ['encode'],
  ['exact_index', 'scann_index', 'word_search'],
  ['mips', 'lexical_index'],
  ['shortlist', 'model_card', 'fusion'],
  ['neighbour_votes'],
  ['fused_search'],
  ['fused_files'],
  ['bundle_labels'],
  ['teacher', 'planning'],
  ['train'],
  ['evaluation'],
  ['inputs', 'batch_sizes'],
  ['snapshot', 'training'],
  ['rankings'],
  ['fused_run'],
  ['bundle', 'encoder_source', 'stages'],
  ['summary', 'planned'],
  ['baselines', 'dry_run'],
  ['comparison'],
  ['reporting'],
  ['report'],
  ['label_edits', 'documents'],
  ['serving'],
  ['prediction_file'],
  ['predict', 'serve', 'labels', 'evaluate', 'prepare', 'compare', 'main'],
]
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}


def modules():
  for file in sorted(PACKAGE.rglob('*.py')):
    parts = file.relative_to(PACKAGE).with_suffix('').parts
    if parts != ('__init__',):
      yield file, parts


def part_of(name):
  """`lmtx_jax.data.tokens` is part of data; the package itself of nothing."""
  _, _, rest = name.partition('.')
  return rest.partition('.')[0]


def imported(file):
  """Full names of this package's modules that a file imports anywhere."""
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{file}:{node.lineno} relative import'
      # `from lmtx_jax import devices` names a module, or a constant.
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    yield from (n for n in names if n.partition('.')[0] == 'lmtx_jax')


def edges():
  """(importing part, imported part, file) for all imports across parts."""
  for file, parts in modules():
    for name in imported(file):
      target = part_of(name)
      if target and not target.startswith('__') and target != parts[0]:
        yield parts[0], target, file


def test_every_module_has_a_layer():
  assert {parts[0] for _, parts in modules()} == set(LAYER)


def test_imports_point_one_way():
  wrong = [
    f'{file.relative_to(PACKAGE)} imports {target}'
    for part, target, file in edges()
    if LAYER[target] >= LAYER[part]
  ]
  assert wrong == []


def test_the_edges_are_seen():
  found = {(part, target) for part, target, _ in edges()}
  assert {('main', 'stages'), ('train', 'devices'), ('cli', 'types')} <= found


def test_no_cycle_within_a_folder():
  graph = {}
  for file, parts in modules():
    name = '.'.join(('lmtx_jax', *parts)).removesuffix('.__init__')
    graph[name] = set(imported(file))
  graph = {
    name: {
      module
      for module in graph
      if module != name
      and any(t == module or t.startswith(f'{module}.') for t in targets)
    }
    for name, targets in graph.items()
  }
  while graph:
    free = {name for name, targets in graph.items() if not targets & set(graph)}
    assert free, f'a cycle among {sorted(graph)}'
    graph = {
      name: targets for name, targets in graph.items() if name not in free
    }


@pytest.mark.parametrize('name', ['torch', 'tensorflow', 'sglang'])
def test_nobody_names_what_is_not_required(name):
  for file, _ in modules():
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module]
      else:
        continue
      assert all(n.partition('.')[0] != name for n in names), file


HIDE = """
import importlib.machinery, sys

class Hidden(importlib.machinery.PathFinder):
  @classmethod
  def find_spec(cls, name, path=None, target=None):
    if name.partition('.')[0] not in ('torch', 'tensorflow', 'sglang'):
      return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hidden
"""


# What is never needed, and what takes seconds to import and is not always.
ABSENT = ['tensorflow', 'sglang', 'torch', 'transformers', 'sklearn']


@pytest.mark.parametrize('before', ['', HIDE], ids=['as_installed', 'hidden'])
def test_commands_start_without_torch_and_tensorflow(before):
  code = before + (
    'import sys\n'
    'import lmtx_jax.main, lmtx_jax.prepare\n'
    'import lmtx_jax.predict, lmtx_jax.serve\n'
    'import lmtx_jax.evaluate, lmtx_jax.compare\n'
    f'print([n for n in {ABSENT} if n in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=PACKAGE.parent,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == '[]'
