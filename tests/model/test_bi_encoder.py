import dataclasses
import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from model_fixtures import TINY, tokens_of
import numpy as np
import pytest

from lmtx_jax.model.bi_encoder import BiEncoder, best_attention
from lmtx_jax.types import UserError

MEAN = BiEncoder(TINY, 'mean', True)
CLS = BiEncoder(TINY, 'cls', False)
PARAMS = MEAN.init(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def embed(encoder, ids, lengths, dropout_rng=None):
  return encoder.apply(PARAMS, ids, lengths, dropout_rng=dropout_rng)


def mean_embeddings(ids, lengths):
  return embed(MEAN, ids, lengths)


@pytest.mark.parametrize('encoder', [MEAN, CLS], ids=['mean', 'cls'])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), width=st.sampled_from([9, 24]))
def test_what_pads_a_row_never_matters(encoder, seed, width):
  ids, lengths = tokens_of(encoder, 3, 9, seed)
  draw = np.random.RandomState(seed + 1)
  padded = draw.randint(0, TINY.vocab_size, (3, width)).astype(np.int32)
  for i, n in enumerate(lengths):
    padded[i, :n] = ids[i, :n]
  np.testing.assert_allclose(
    embed(encoder, padded, lengths), embed(encoder, ids, lengths), atol=2e-6
  )


def test_a_row_alone_embeds_as_in_its_batch():
  ids, lengths = tokens_of(MEAN, 4, 12)
  alone = [
    mean_embeddings(ids[i : i + 1, :n], lengths[i : i + 1])[0]
    for i, n in enumerate(lengths)
  ]
  together = mean_embeddings(ids, lengths)
  np.testing.assert_allclose(together, np.stack(alone), atol=2e-6)


def test_every_token_within_the_length_matters():
  ids, lengths = tokens_of(MEAN, 1, 8)
  start = mean_embeddings(ids, lengths)
  for i in range(8):
    changed = ids.copy()
    changed[0, i] = (ids[0, i] + 1) % TINY.vocab_size
    assert abs(mean_embeddings(changed, lengths) - start).max() > 1e-3


def test_order_of_tokens_matters():
  ids, lengths = tokens_of(MEAN, 1, 8)
  difference = mean_embeddings(ids[:, ::-1], lengths) - mean_embeddings(
    ids, lengths
  )
  assert abs(difference).max() > 1e-3


def test_normalize_is_a_scaling_to_norm_1():
  ids, lengths = tokens_of(MEAN, 5, 10)
  raw = embed(dataclasses.replace(MEAN, normalize=False), ids, lengths)
  unit = mean_embeddings(ids, lengths)
  np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
  np.testing.assert_allclose(
    unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6
  )
  assert abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1


@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_an_empty_text_is_zeros_with_a_finite_gradient(pooling):
  encoder = BiEncoder(TINY, pooling, True)
  ids, _ = tokens_of(encoder, 2, 6)
  lengths = jnp.array([0, 6])

  def total(params):
    return encoder.apply(
      params, ids, lengths, dropout_rng=jax.random.key(1)
    ).sum()

  assert not embed(encoder, ids, lengths)[0].any()
  gradients = jax.tree.leaves(jax.jit(jax.grad(total))(PARAMS))
  assert all(np.isfinite(g).all() for g in gradients)
  assert any(np.abs(g).max() > 0 for g in gradients)


def test_dropout_is_off_by_default_and_follows_its_key():
  ids, lengths = tokens_of(MEAN, 2, 8)

  def draw(seed):
    return np.asarray(embed(MEAN, ids, lengths, jax.random.key(seed)))

  np.testing.assert_array_equal(draw(1), draw(1))
  assert abs(draw(1) - draw(2)).max() > 1e-3
  assert abs(draw(1) - mean_embeddings(ids, lengths)).max() > 1e-3


def test_every_kind_of_dropout_is_applied():
  ids, lengths = tokens_of(MEAN, 2, 8)
  off = mean_embeddings(ids, lengths)
  none = dict(dropout=0.0, attention_dropout=0.0, projection_dropout=0.0)
  for rate in none:
    config = dataclasses.replace(TINY, **{**none, rate: 0.3})
    encoder = BiEncoder(config)
    on = embed(encoder, ids, lengths, jax.random.key(0))
    assert abs(on - off).max() > 1e-3, rate


def test_bfloat16_is_near_float32_and_returns_float32():
  ids, lengths = tokens_of(MEAN, 4, 12)
  half = embed(dataclasses.replace(MEAN, dtype='bfloat16'), ids, lengths)
  assert half.dtype == jnp.float32
  cosines = (half * mean_embeddings(ids, lengths)).sum(axis=1)
  assert cosines.min() > 0.999
  assert cosines.max() < 1.00001


def test_too_long_a_text_names_the_flag():
  ids, lengths = tokens_of(MEAN, 1, TINY.max_positions + 1)
  with pytest.raises(UserError, match=r'25 tokens.*24 positions.*max_doc'):
    MEAN.apply(PARAMS, ids, lengths)


def test_a_bi_encoder_is_a_key():
  assert hash(MEAN) == hash(BiEncoder(dataclasses.replace(TINY), 'mean', True))
  assert MEAN != CLS
  assert MEAN.dim == TINY.dim


def test_weights_cast_ahead_embed_the_same():
  ids, lengths = tokens_of(MEAN, 4, 12)
  half = dataclasses.replace(MEAN, dtype='bfloat16')
  cast = half.for_inference(PARAMS)
  dtypes = {
    '/'.join(key.key for key in path): x.dtype
    for path, x in jax.tree.leaves_with_path(cast)
  }
  assert dtypes['layer_0/ffn_in/kernel'] == jnp.bfloat16
  assert dtypes['layer_0/ffn_in/bias'] == jnp.float32
  assert dtypes['embeddings/word'] == jnp.float32
  apply = jax.jit(half.apply)
  np.testing.assert_array_equal(
    apply(cast, ids, lengths), apply(PARAMS, ids, lengths)
  )
  jax.tree.map(
    np.testing.assert_array_equal, MEAN.for_inference(PARAMS), PARAMS
  )


@pytest.mark.parametrize(
  ('platform', 'capability', 'dtype', 'head_dim', 'best'),
  [
    ('gpu', '9.0', 'bfloat16', 64, 'flash'),
    ('gpu', '12.0', 'bfloat16', 32, 'flash'),
    ('gpu', '9.0', 'float32', 64, 'xla'),
    ('gpu', '7.5', 'bfloat16', 64, 'xla'),
    ('gpu', 'gfx942', 'bfloat16', 64, 'xla'),
    ('gpu', '9.0', 'bfloat16', 20, 'xla'),
    ('gpu', '9.0', 'bfloat16', 8, 'xla'),
    ('gpu', '9.0', 'bfloat16', 96, 'xla'),
    ('gpu', '9.0', 'bfloat16', 128, 'xla'),
    ('cpu', '', 'bfloat16', 64, 'xla'),
    ('tpu', '', 'bfloat16', 64, 'xla'),
  ],
)
def test_best_attention(platform, capability, dtype, head_dim, best):
  assert best_attention(platform, capability, dtype, head_dim) == best


def test_the_best_attention_here_runs():
  encoder = dataclasses.replace(MEAN, dtype='bfloat16').with_best_attention()
  ids, lengths = tokens_of(encoder, 2, 16)
  assert np.isfinite(embed(encoder, ids, lengths)).all()
