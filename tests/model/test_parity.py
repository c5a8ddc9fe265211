"""The same weights in PyTorch and here: embeddings within 1e-5."""

import os

import jax
from model_fixtures import mini_lm, tokens_of
import numpy as np
import pytest

from lmtx_jax.model import pretrained

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity

_VOCAB = 5 + 60

BERT = dict(
  vocab_size=_VOCAB,
  hidden_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  intermediate_size=96,
  max_position_embeddings=40,
  initializer_range=0.15,
)
DISTILBERT = dict(
  vocab_size=_VOCAB,
  dim=48,
  n_layers=2,
  n_heads=4,
  hidden_dim=96,
  max_position_embeddings=40,
  initializer_range=0.15,
)
MPNET = BERT | dict(max_position_embeddings=42)  # two of them are unused
CASES = {
  'bert': ('Bert', BERT),
  'bert_tanh_gelu_eps_12_heads_one_type': (
    'Bert',
    BERT
    | dict(
      hidden_act='gelu_new',
      layer_norm_eps=1e-3,
      num_attention_heads=12,
      type_vocab_size=1,
    ),
  ),
  'distilbert': ('DistilBert', DISTILBERT),
  'distilbert_sinusoidal_deep': (
    'DistilBert',
    DISTILBERT | dict(sinusoidal_pos_embds=True, n_layers=3),
  ),
  'mpnet': ('MPNet', MPNET),
  'mpnet_12_heads_eps': (
    'MPNet',
    MPNET | dict(num_attention_heads=12, layer_norm_eps=1e-3),
  ),
}


def torch_embeddings(model, ids, lengths, pooling, normalize):
  """An independent calculation by the model that transformers has."""
  mask = torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]
  with torch.no_grad():
    hidden = model.eval()(
      input_ids=torch.tensor(ids, dtype=torch.long), attention_mask=mask.long()
    ).last_hidden_state
  if pooling == 'cls':
    pooled = hidden[:, 0]
  else:
    pooled = torch.stack(
      [h[:n].mean(0) for h, n in zip(hidden, lengths, strict=True)]
    )
  if normalize:
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
  return pooled.numpy()


def write_tokenizer(folder):
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  words += [f'w{i}' for i in range(_VOCAB - len(words))]
  file = os.path.join(folder, 'vocab.txt')
  with open(file, 'w') as f:
    f.write('\n'.join(words) + '\n')
  transformers.BertTokenizerFast(vocab=file).save_pretrained(folder)


@pytest.mark.parametrize('name', CASES)
def test_random_weights(name, tmp_path):
  kind, settings = CASES[name]
  config = getattr(transformers, f'{kind}Config')(**settings)
  torch.manual_seed(1)
  model = getattr(transformers, f'{kind}Model')(config)
  for parameter in model.parameters():  # biases and norms away from 0 and 1
    parameter.data += 0.05 * torch.randn_like(parameter)
  model.save_pretrained(tmp_path)
  write_tokenizer(tmp_path)
  ours = pretrained.load(str(tmp_path))
  assert (ours.encoder.pooling, ours.encoder.normalize) == ('mean', True)
  ids, lengths = tokens_of(ours.encoder, 6, 40)
  ids[ids == 1] = 7  # padding, which MPNet gives no position of its own
  lengths[1] = 1
  expected = torch_embeddings(model, ids, lengths, 'mean', True)
  got = jax.jit(ours.encoder.apply)(ours.params, ids, lengths)
  assert abs(got - expected).max() < 1e-5


def test_a_model_with_a_head_loads_as_its_encoder(tmp_path):
  model = transformers.DistilBertForMaskedLM(
    transformers.DistilBertConfig(**DISTILBERT)
  )
  model.save_pretrained(tmp_path)
  write_tokenizer(tmp_path)
  ours = pretrained.load(str(tmp_path))
  ids, lengths = tokens_of(ours.encoder, 3, 20)
  expected = torch_embeddings(model.distilbert, ids, lengths, 'mean', True)
  got = jax.jit(ours.encoder.apply)(ours.params, ids, lengths)
  assert abs(got - expected).max() < 1e-5


@pytest.mark.skipif(mini_lm() is None, reason='all-MiniLM-L6-v2 not installed')
def test_real_weights():
  ours = pretrained.load(mini_lm())
  model = transformers.AutoModel.from_pretrained(mini_lm())
  ids, lengths = tokens_of(ours.encoder, 4, 128)
  expected = torch_embeddings(model, ids, lengths, 'mean', True)
  got = jax.jit(ours.encoder.apply)(ours.params, ids, lengths)
  assert abs(got - expected).max() < 1e-5


def test_gradient_of_random_weights(tmp_path):
  config = transformers.BertConfig(**BERT)
  torch.manual_seed(2)
  model = transformers.BertModel(config).eval()
  model.save_pretrained(tmp_path)
  write_tokenizer(tmp_path)
  ours = pretrained.load(str(tmp_path))
  ids, lengths = tokens_of(ours.encoder, 5, 30)
  weights = np.random.RandomState(3).randn(5, 48).astype(np.float32)

  def loss(params):
    return (ours.encoder.apply(params, ids, lengths) * weights).sum()

  got = jax.jit(jax.grad(loss))(ours.params)
  mask = torch.arange(30)[None] < torch.tensor(lengths)[:, None]
  hidden = model(
    input_ids=torch.tensor(ids, dtype=torch.long), attention_mask=mask.long()
  ).last_hidden_state
  pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
  unit = pooled / pooled.norm(dim=-1, keepdim=True)
  (unit * torch.tensor(weights)).sum().backward()
  tensors = dict(model.named_parameters())
  layer = 'encoder.layer.1.'
  pairs = {
    'embeddings.position_embeddings.weight': got['embeddings']['position'],
    layer + 'attention.self.query.weight': (
      got['layer_1']['attention']['qkv']['kernel'][:, :48].T
    ),
    layer + 'attention.self.key.weight': (
      got['layer_1']['attention']['qkv']['kernel'][:, 48:96].T
    ),
    layer + 'attention.self.value.bias': (
      got['layer_1']['attention']['qkv']['bias'][96:]
    ),
    layer + 'intermediate.dense.weight': (got['layer_1']['ffn_in']['kernel'].T),
    'encoder.layer.0.output.LayerNorm.weight': (
      got['layer_0']['ffn_norm']['scale']
    ),
  }
  for name, value in pairs.items():
    expected = tensors[name].grad.numpy()
    scale = abs(expected).max()
    assert scale > 1e-3, name
    assert abs(value - expected).max() < 1e-5 * max(scale, 1), name
