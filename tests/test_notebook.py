"""The notebook, as it is committed and from top to bottom."""

import json
import pathlib
import re
import shutil

import pytest

from lmtx_jax import cli
from lmtx_jax.config import TRAINING, SourceConfig
from lmtx_jax.labels import LabelsConfig
from lmtx_jax.predict import PredictConfig
from lmtx_jax.prepare import PrepareConfig

NOTEBOOK = pathlib.Path(__file__).parent.parent / 'launch' / 'colab.ipynb'
FLAGS = {
  'main': TRAINING,
  'predict': (PredictConfig,),
  'labels': (LabelsConfig,),
  'prepare': (SourceConfig, PrepareConfig),
}


def cells(kind='code'):
  found = json.loads(NOTEBOOK.read_text())['cells']
  return [cell for cell in found if cell['cell_type'] == kind]


def texts(kind='code'):
  return [''.join(cell['source']) for cell in cells(kind)]


def commands():
  """Module and arguments of each command that the notebook runs or names."""
  joined = '\n'.join(texts() + texts('markdown')).replace('\\\n', ' ')
  return re.findall(r'python -m lmtx_jax\.(\w+)(.*)', joined)


def test_it_is_committed_as_it_was_written():
  for cell in cells():
    assert cell['outputs'] == []
    assert cell['execution_count'] is None
  paths = re.findall(r'(?<![\w./{}<])/\w[\w/]+', '\n'.join(texts()))
  assert paths == []  # none of anybody's own machine


def test_its_commands_have_the_flags_that_they_are_given():
  found = commands()
  assert {module for module, _ in found} == set(FLAGS)
  for module, words in found:
    words = [word for word in words.split() if '--flagfile' not in word]
    cli.parse_words(['x', *words], FLAGS[module])


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
  nbformat = pytest.importorskip('nbformat')
  nbclient = pytest.importorskip('nbclient')
  path = shutil.copy(NOTEBOOK, tmp_path)
  monkeypatch.setenv('LMTX_CACHE', str(tmp_path / 'cache'))
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:
    if cell.cell_type == 'code' and cell.source.startswith('!'):
      # A command that fails is no error to IPython.
      cell.source += '\nassert _exit_code == 0'
  nbclient.NotebookClient(
    notebook,
    timeout=7200,
    startup_timeout=600,
    iopub_timeout=600,  # else what a cell says may be lost without a word
    raise_on_iopub_timeout=True,
    resources={'metadata': {'path': str(tmp_path)}},
  ).execute()
  said = [
    ''.join(output.get('text', '') for output in cell.outputs)
    for cell in notebook.cells
    if cell.cell_type == 'code' and cell.source.startswith('show_tags')
  ]
  first, before, after = (text.split('\n') for text in said)
  assert first[0] == 'my first document'
  assert any('eig' in line for line in first[1:6])
  assert not any(line.endswith('smoothing filters') for line in before)
  assert any(line.endswith('smoothing filters') for line in after)
  labels = tmp_path / 'runs/quickstart/export/lmtx.json'
  assert json.loads(labels.read_text())['label_folder'] == 'labels_000002'
