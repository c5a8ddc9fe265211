"""The kernels against two products, step by step where there is no GPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_fixtures import TINY, tokens_of
import numpy as np
import pytest

from lmtx_jax.model.attention import Keys, _two_products
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.dropout import Seed
from lmtx_jax.model.flash_attention import flash_attention
from lmtx_jax.model.layers import add_bias

# A GPU's float32 products have fewer digits; bfloat16 is what runs there.
on_a_cpu = pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='float32 is not for a GPU'
)
WIDE = dataclasses.replace(TINY, dim=32, num_heads=2)  # heads of 16
SEED = Seed(*map(np.uint32, (123, 456, 789)))


def two_products(qkv, bias, lengths, rate=0.0, seed=None):
  inside = jnp.arange(qkv.shape[1]) < lengths[:, None]
  out = _two_products(add_bias(qkv, bias), Keys(inside, None, None), rate, seed)
  return out * inside[:, :, None, None]


def made(batch, length, dtype, size=1.0):
  draw = np.random.default_rng(0)
  qkv = draw.standard_normal((batch, length, 3, 2, 16)) * size
  bias = draw.standard_normal((3, 2, 16)) * size
  return jnp.asarray(qkv, dtype), jnp.asarray(bias, jnp.float32)


@pytest.mark.parametrize(
  ('length', 'lengths', 'dtype', 'size', 'seed', 'error'),
  [
    pytest.param(9, (9, 0, 1), 'float32', 1, None, 1e-6, marks=on_a_cpu),
    pytest.param(9, (9, 0, 1), 'float32', 1, SEED, 1e-6, marks=on_a_cpu),
    pytest.param(70, (64, 70, 65), 'float32', 1, SEED, 1e-6, marks=on_a_cpu),
    (70, (70, 3, 1), 'bfloat16', 1, SEED, 1e-2),
    (70, (70, 3, 1), 'bfloat16', 2, SEED, 3e-2),
  ],
)
def test_values_and_gradients(length, lengths, dtype, size, seed, error):
  qkv, bias = made(3, length, dtype, size)
  weights = np.random.default_rng(1).standard_normal(
    (3, length, 2, 16), np.float32
  )

  @functools.partial(jax.jit, static_argnums=0)
  def calculate(attend, *inputs):
    def total(*inputs):
      out = attend(*inputs, jnp.array(lengths), 0.3, seed).astype(jnp.float32)
      return (out * weights).sum(), out

    gradients, out = jax.grad(total, argnums=(0, 1), has_aux=True)(*inputs)
    return out, *gradients

  got = calculate(flash_attention, qkv, bias)
  expected = calculate(two_products, qkv.astype(jnp.float32), bias)
  for a, b in zip(got, expected, strict=True):
    assert np.isfinite(a.astype(np.float32)).all()
    assert jnp.linalg.norm((a - b).ravel()) < error * jnp.linalg.norm(b.ravel())


def test_dropout_is_of_the_whole_batch():
  qkv, bias = made(3, 9, jnp.float32)
  attend = jax.jit(flash_attention, static_argnums=3)
  whole = attend(qkv, bias, np.full(3, 9), 0.5, SEED)
  part = SEED._replace(first=np.uint32(SEED.first + 2 * 9 * 9))
  np.testing.assert_array_equal(
    attend(qkv[1:], bias, np.full(2, 9), 0.5, part), whole[1:]
  )
  assert abs(attend(qkv[1:], bias, np.full(2, 9), 0.5, SEED) - whole[1:]).max()


@on_a_cpu
def test_an_encoder_embeds_and_learns_the_same():
  encoder = BiEncoder(WIDE)
  params = encoder.init(jax.random.key(0))
  ids, _ = tokens_of(encoder, 5, 16)
  lengths = np.array([16, 0, 1, 7, 12])
  weights = np.random.RandomState(1).randn(5, WIDE.dim)

  @functools.partial(jax.jit, static_argnums=0)
  def calculate(attention, params):
    same = dataclasses.replace(encoder, attention=attention)

    def total(params):
      rng = jax.random.key(1)
      return (same.apply(params, ids, lengths, dropout_rng=rng) * weights).sum()

    return same.apply(params, ids, lengths), jax.grad(total)(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5),
    calculate('flash', params),
    calculate('xla', params),
  )
