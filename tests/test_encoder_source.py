"""What --encoder and the flags beside it start a run with."""

import json

import jax
import numpy as np
import pytest
from run_fixtures import TINY, call, made_corpus, succeed

from lmtx_jax import cli
from lmtx_jax.config import TRAINING, Config
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.encoder_source import load_encoder
from lmtx_jax.files import remove
from lmtx_jax.model import pretrained
from lmtx_jax.run_dir import RunDir
from lmtx_jax.types import UserError


class Source:
  """Loads encoders on the made corpus, each run in a folder of its own."""

  def __init__(self, data_dir, cache, tmp_path):
    self._flags = ['main', f'--data_dir={data_dir}', f'--data_cache={cache}']
    self._flags += TINY
    self._tmp_path = tmp_path
    self._runs = {}

  def load(self, *flags, run='run'):
    values = cli.parse([*self._flags, *flags], TRAINING)
    config = Config(*(cli.build(part, values) for part in TRAINING))
    dataset = load_dataset(config.source)
    if run not in self._runs:
      self._runs[run] = RunDir(str(self._tmp_path / run))
    return load_encoder(config, dataset.train, dataset.labels, self._runs[run])


@pytest.fixture
def source(data_dir, cache, tmp_path):
  return Source(data_dir, cache, tmp_path)


@pytest.fixture
def folder(source, tmp_path):
  """A small transformer on disk, whose embeddings have no unit norm."""
  made = source.load('--similarity=dot', run='first')
  pretrained.save(tmp_path / 'model', made, made.params, max_seq_length=24)
  return tmp_path / 'model'


@pytest.fixture(scope='session')
def vectors(tmp_path_factory):
  """Word vectors of the made corpus' words."""
  words = {
    word.strip('.')
    for rows in made_corpus().values()
    for row in rows
    for word in f'{row["title"]} {row["content"]}'.split()
  }
  draw = np.random.RandomState(0)
  file = tmp_path_factory.mktemp('vectors') / 'vectors.txt'
  with open(file, 'w') as f:
    for word in sorted(words):
      numbers = ' '.join(f'{x:.4f}' for x in draw.randn(16))
      f.write(f'{word} {numbers}\n')
  return file


def test_similarity_says_whether_embeddings_have_unit_norm(source, folder):
  for run, encoder in (('a', 'scratch'), ('b', folder)):
    digests = set()
    for flag, normalize in (('cosine', True), ('dot', False)):
      loaded = source.load(
        f'--encoder={encoder}', f'--similarity={flag}', run=f'{run}-{flag}'
      )
      assert loaded.encoder.normalize == normalize
      digests.add(loaded.digest)
    assert len(digests) == 2


def test_a_projection_is_drawn_by_the_seed(source, folder):
  flags = (f'--encoder={folder}', '--projection_dim=12')
  first = source.load(*flags)
  assert first.encoder.dim == 12
  assert first.encoder.dense_activation == 'tanh'
  assert first.params['dense']['kernel'].shape == (32, 12)
  assert source.load(*flags, run='again').digest == first.digest
  other = source.load(*flags, '--seed=1', run='other')
  assert other.digest != first.digest
  plain = source.load(f'--encoder={folder}', run='plain')
  rest = {k: v for k, v in first.params.items() if k != 'dense'}
  jax.tree.map(np.testing.assert_array_equal, rest, plain.params)


@pytest.mark.parametrize('kind', ['scratch', 'folder'])
def test_a_resumed_run_has_the_layer_of_its_beginning(
  source, folder, kind, monkeypatch, tmp_path
):
  name = folder if kind == 'folder' else kind
  flags = (f'--encoder={name}', '--projection_dim=12')
  first = source.load(*flags)
  assert first.encoder.dim == 12
  # As if another version of JAX drew otherwise.
  draw = jax.random.uniform
  monkeypatch.setattr(
    jax.random, 'uniform', lambda *a, **k: draw(*a, **k) * 0.5
  )
  assert source.load(*flags).digest == first.digest
  remove(str(tmp_path / 'run' / 'scratch'))
  assert source.load(*flags).digest != first.digest


def test_a_second_dense_layer_is_refused(source, tmp_path):
  made = source.load('--projection_dim=12')
  pretrained.save(tmp_path / 'model', made, made.params, max_seq_length=24)
  name = f'--encoder={tmp_path / "model"}'
  assert source.load(name).encoder.dim == 12
  with pytest.raises(UserError, match=r'layer of 12 already.*projection_dim'):
    source.load(name, '--projection_dim=8')


def test_a_file_is_read_as_word_vectors(source, vectors):
  loaded = source.load(f'--encoder={vectors}', '--max_doc_tokens=9000')
  assert loaded.encoder.dim == 16
  assert loaded.encoder.normalize
  assert loaded.params['word_vectors'].shape[0] == len(loaded.tokenizer)


def test_what_word_vectors_do_not_go_with_is_refused(source, vectors):
  with pytest.raises(UserError, match=r'--similarity=dot.*cosine'):
    source.load(f'--encoder={vectors}', '--similarity=dot')
  with pytest.raises(UserError, match=r'leave out --projection_dim'):
    source.load(f'--encoder={vectors}', '--projection_dim=8')


def test_a_run_and_a_bundle_of_word_vectors(vectors, tiny, tmp_path):
  run, file = tmp_path / 'run', tmp_path / 'vectors.txt'
  lines = vectors.read_text().splitlines()
  file.write_text('\n'.join(lines))
  flags = (*tiny, f'--encoder={file}', '--num_cycles=0', '--teacher=oracle')
  succeed('main', *flags, f'--run_dir={run}')
  summary = json.loads((run / 'summary.json').read_text())
  # A label's title is two words, which some of its documents hold.
  assert summary['test']['P@1'] > 25  # by chance it is 8
  data = [flag for flag in tiny if flag.startswith('--data')]
  scores = tmp_path / 'scores.json'
  bundle = f'--bundle={run / "export"}'
  succeed('evaluate', bundle, *data, f'--output={scores}')
  again = json.loads(scores.read_text())['scores']
  assert again['P@1'] == pytest.approx(summary['test']['P@1'], abs=0.01)
  # Another vector is another encoder, which a run does not go on with.
  file.write_text('\n'.join([lines[0] + '9', *lines[1:]]))
  result = call('main', *flags, f'--run_dir={run}')
  assert 'is a run with another encoder than' in result.error
