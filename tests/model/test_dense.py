"""The dense layer behind the pooling."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
from model_fixtures import TINY, tiny_texts, tokens_of
import numpy as np
import pytest
import safetensors.numpy

from lmtx_jax.model import pretrained
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.types import UserError

PLAIN = BiEncoder(TINY, normalize=False)
PARAMS = jax.jit(PLAIN.init)(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def embed(encoder, params, ids, lengths, dropout_rng=None):
  return encoder.apply(params, ids, lengths, dropout_rng=dropout_rng)


def with_layer(dim=5, activation='tanh', bias=True):
  encoder = PLAIN.with_dense(dim, activation, bias=bias)
  dense = encoder.init_dense(jax.random.key(1))
  return encoder, {**PARAMS, 'dense': dense}


@pytest.mark.parametrize('activation', ['tanh', 'identity'])
@pytest.mark.parametrize('bias', [True, False])
def test_stands_between_pooling_and_normalisation(activation, bias):
  encoder, params = with_layer(5, activation, bias)
  ids, lengths = tokens_of(encoder, 4, 9)
  expected = embed(PLAIN, PARAMS, ids, lengths) @ params['dense']['kernel']
  assert ('bias' in params['dense']) == bias
  if bias:
    expected += params['dense']['bias']
  expected = np.tanh(expected) if activation == 'tanh' else expected
  got = embed(encoder, params, ids, lengths)
  np.testing.assert_allclose(got, expected, atol=2e-6)
  unit = dataclasses.replace(encoder, normalize=True)
  np.testing.assert_allclose(
    embed(unit, params, ids, lengths),
    expected / np.linalg.norm(expected, axis=1, keepdims=True),
    atol=2e-6,
  )
  assert encoder.dim == 5


def test_an_encoder_with_it_starts_with_it():
  encoder, params = with_layer(7)
  made = jax.jit(encoder.init)(jax.random.key(0))
  shapes = jax.tree.map(jnp.shape, made)
  assert shapes == jax.tree.map(jnp.shape, params)
  for leaf in jax.tree.leaves(made['dense']):
    assert leaf.dtype == jnp.float32
    assert 0.5 < abs(leaf).max() * TINY.dim**0.5 <= 1
  again = encoder.init_dense(jax.random.key(1))
  assert (again['kernel'] == params['dense']['kernel']).all()
  other = encoder.init_dense(jax.random.key(2))
  assert (other['kernel'] != params['dense']['kernel']).any()


def test_an_empty_text_is_zeros():
  encoder, params = with_layer()
  ids, _ = tokens_of(encoder, 2, 6)
  got = embed(encoder, params, ids, jnp.array([0, 6]))
  assert not got[0].any()
  assert got[1].any()


def test_dropout_is_before_it_never_after():
  config = dataclasses.replace(
    TINY, dropout=0.0, attention_dropout=0.0, projection_dropout=0.0
  )
  encoder, params = with_layer()
  encoder = dataclasses.replace(encoder, config=config)
  ids, lengths = tokens_of(encoder, 3, 9)
  np.testing.assert_array_equal(
    embed(encoder, params, ids, lengths, jax.random.key(0)),
    embed(encoder, params, ids, lengths),
  )


def test_is_part_of_an_encoder_as_a_key():
  encoder, _ = with_layer()
  assert encoder != PLAIN
  assert encoder != PLAIN.with_dense(5, 'identity')
  assert hash(encoder) == hash(PLAIN.with_dense(5, 'tanh'))
  with pytest.raises(UserError, match=r'dense layer of 5 already.*projection'):
    encoder.with_dense(6)


@pytest.fixture(scope='module')
def made():
  plain = pretrained.scratch(
    tiny_texts(),
    num_layers=1,
    dim=16,
    num_heads=2,
    vocab_size=80,
    max_tokens=20,
    seed=3,
  )
  encoder = plain.encoder.with_dense(6)
  dense = jax.tree.map(np.asarray, encoder.init_dense(jax.random.key(1)))
  return dataclasses.replace(
    plain, encoder=encoder, params=plain.params | {'dense': dense}
  )


@pytest.fixture
def folder(made, tmp_path):
  pretrained.save(tmp_path, made, made.params, max_seq_length=20)
  return tmp_path


def test_is_saved_and_loaded(made, folder):
  again = pretrained.load(str(folder))
  assert again.encoder == made.encoder
  jax.tree.map(np.testing.assert_array_equal, again.params, made.params)
  assert again.digest == made.digest
  modules = json.loads((folder / 'modules.json').read_text())
  assert [m['path'] for m in modules] == [
    *('', '1_Pooling', '2_Dense', '3_Normalize')
  ]


def test_digest_covers_it(made):
  dense = made.params['dense']
  changed = {**made.params, 'dense': {**dense, 'bias': dense['bias'] + 1}}
  other = dataclasses.replace(made, params=changed)
  identity = dataclasses.replace(made.encoder, dense_activation='identity')
  wide = dataclasses.replace(made.encoder, normalize=False)
  digests = {
    made.digest,
    other.digest,
    dataclasses.replace(made, encoder=identity).digest,
    dataclasses.replace(made, encoder=wide).digest,
  }
  assert len(digests) == 4


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'activation_function': 'torch.nn.modules.activation.ReLU'},
      r'ReLU.*not supported, only torch.nn.modules.activation.Tanh',
    ),
    ({'use_residual': True}, 'use_residual True is not supported'),
    ({'module_input_name': 'token_embeddings'}, "'token_embeddings' is not"),
    ({'in_features': 12}, 'from 12 to 6 features.*encoder of 16'),
    ({'out_features': 4}, r'no tensor linear.weight of shape \(4, 16\)'),
  ],
)
def test_another_layer_is_refused_by_name(folder, changes, message):
  file = folder / '2_Dense' / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))
  with pytest.raises(UserError, match=message) as error:
    pretrained.load(str(folder))
  assert '2_Dense' in str(error.value)


def test_a_layer_without_its_bias_tensor_is_refused(folder):
  file = folder / '2_Dense' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  del tensors['linear.bias']
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(UserError, match=r'no tensor linear.bias of shape \(6,\)'):
    pretrained.load(str(folder))


def test_a_pickled_layer_is_never_read(folder):
  (folder / '2_Dense' / 'model.safetensors').unlink()
  (folder / '2_Dense' / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(UserError, match=r'2_Dense.*is a pickle'):
    pretrained.load(str(folder))


@pytest.mark.parametrize('order', [(0, 1, 3, 2), (0, 1, 2, 2), (1, 0), (0, 2)])
def test_only_the_usual_order_is_read(folder, order):
  file = folder / 'modules.json'
  modules = json.loads(file.read_text())
  file.write_text(json.dumps([modules[i] for i in order]))
  if order == (0, 2):  # without a module, pooling is the mean
    assert pretrained.load(str(folder)).encoder.dim == 6
    return
  with pytest.raises(UserError, match=r'in this order and each once'):
    pretrained.load(str(folder))
