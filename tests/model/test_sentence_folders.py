"""Folders that sentence-transformers wrote: its embeddings within 1e-5."""

import itertools
import os

import jax
import numpy as np
import pytest

from lmtx_jax.model import pretrained

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
sentence_transformers = pytest.importorskip('sentence_transformers')
modules = pytest.importorskip('sentence_transformers.models')
pytestmark = pytest.mark.parity

WORDS = [f'w{i}' for i in range(60)]
SHAPE = dict(
  hidden_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  intermediate_size=96,
)
CASES = {
  'bert': ('Bert', SHAPE),
  'distilbert': (
    'DistilBert',
    dict(dim=48, n_layers=2, n_heads=4, hidden_dim=96),
  ),
  'mpnet': ('MPNet', SHAPE | dict(layer_norm_eps=1e-5)),
}
SPECIAL = {
  'Bert': ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'],
  'MPNet': ['<s>', '<pad>', '</s>', '<unk>', '[UNK]', '<mask>'],
}
# One token, an unknown one, capitals, and more tokens than buckets tell apart.
TEXTS = ['w1', 'zz', 'W3 w4 zz w59', 'w7 ' * 11, ' '.join(WORDS * 3)]
LAYERS = {
  'none': None,
  'tanh': dict(out_features=20),
  'identity': dict(
    out_features=60, bias=False, activation_function=torch.nn.Identity()
  ),
}


def write_transformer(name, folder):
  """A transformers folder of random weights, all of them away from 0 and 1."""
  kind, shape = CASES[name]
  special = SPECIAL.get(kind, SPECIAL['Bert'])
  vocab = os.path.join(folder, 'vocab.txt')
  with open(vocab, 'w') as f:
    f.write('\n'.join([*special, *WORDS]) + '\n')
  tokenizer = 'MPNet' if kind == 'MPNet' else 'Bert'
  tokenizer = getattr(transformers, f'{tokenizer}Tokenizer')(vocab=vocab)
  tokenizer.save_pretrained(folder)
  config = getattr(transformers, f'{kind}Config')(
    vocab_size=len(tokenizer),
    max_position_embeddings=202,
    initializer_range=0.15,
    **shape,
  )
  torch.manual_seed(1)
  model = getattr(transformers, f'{kind}Model')(config)
  for parameter in model.parameters():
    parameter.data += 0.05 * torch.randn_like(parameter)
  model.save_pretrained(folder)


@pytest.fixture(scope='module', params=CASES)
def transformer(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  write_transformer(request.param, folder)
  return modules.Transformer(str(folder))


def embed(model, texts, width):
  rows = model.tokenizer(
    texts, padding='max_length', max_length=width, return_tensors='np'
  )
  return jax.jit(model.encoder.apply)(
    model.params,
    rows['input_ids'].astype(np.int32),
    rows['attention_mask'].sum(axis=1).astype(np.int32),
  )


@pytest.mark.parametrize(
  ('pooling', 'layer'), list(itertools.product(['mean', 'cls'], LAYERS))
)
def test_folder(transformer, pooling, layer, tmp_path):
  parts = [transformer, modules.Pooling(48, pooling_mode=pooling)]
  if LAYERS[layer]:
    parts.append(modules.Dense(48, **LAYERS[layer]))
  if layer != 'tanh':
    parts.append(modules.Normalize())
  theirs = sentence_transformers.SentenceTransformer(
    modules=parts, device='cpu'
  )
  theirs.save(str(tmp_path / 'theirs'), create_model_card=False)
  ours = pretrained.load(str(tmp_path / 'theirs'))
  digest = ours.digest
  expected = theirs.encode(TEXTS)
  assert ours.encoder.dim == expected.shape[1]
  assert ours.encoder.pooling == pooling
  assert ours.encoder.normalize == (layer != 'tanh')
  got = embed(ours, TEXTS, 195)  # wider than the longest text
  assert abs(got - expected).max() < 1e-5

  pretrained.save(tmp_path / 'ours', ours, ours.params, max_seq_length=200)
  again = sentence_transformers.SentenceTransformer(
    str(tmp_path / 'ours'), device='cpu'
  )
  assert abs(again.encode(TEXTS) - expected).max() < 1e-5
  loaded = pretrained.load(str(tmp_path / 'ours'))
  assert loaded.encoder == ours.encoder
  assert loaded.digest == digest


@pytest.mark.parametrize('name', CASES)
def test_pooling_of_a_plain_folder_can_be_asked_for(name, tmp_path):
  write_transformer(name, tmp_path)
  model = transformers.AutoModel.from_pretrained(tmp_path).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  ours = pretrained.load(str(tmp_path), pooling='cls')
  for text, got in zip(TEXTS, embed(ours, TEXTS, 195), strict=True):
    row = tokenizer(text, return_tensors='pt')
    with torch.no_grad():
      first = model(**row).last_hidden_state[0, 0]
    assert abs(got - (first / first.norm()).numpy()).max() < 1e-5
  assert pretrained.load(str(tmp_path)).encoder.pooling == 'mean'
