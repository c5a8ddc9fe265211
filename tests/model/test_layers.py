"""What has a gradient of its own, against JAX's."""

import jax
import jax.numpy as jnp
from model_fixtures import TINY
import numpy as np
import pytest

from lmtx_jax.model.dropout import Seed, drop
from lmtx_jax.model.layers import LayerNorm, activated, gelu

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((7, 5, 16), np.float32) * 3 + 1
WEIGHTS = DRAW.standard_normal(X.shape, np.float32)


def gradients(function, *args):
  total = lambda *args: (function(*args) * WEIGHTS).sum()  # noqa: E731
  return jax.grad(total, argnums=tuple(range(len(args))))(*args)


def test_layer_norm():
  norm = LayerNorm(TINY, jnp.float32)
  scale, bias = DRAW.standard_normal((2, 16), np.float32)

  def ours(x, scale, bias):
    return norm.apply({'params': {'scale': scale, 'bias': bias}}, x)

  def plain(x, scale, bias):
    x -= x.mean(axis=-1, keepdims=True)
    variance = (x**2).mean(axis=-1, keepdims=True) + TINY.layer_norm_eps
    return x / jnp.sqrt(variance) * scale + bias

  args = (X, scale, bias)
  np.testing.assert_allclose(ours(*args), plain(*args), atol=1e-5)
  for a, b in zip(gradients(ours, *args), gradients(plain, *args), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_layer_norm_in_bfloat16_keeps_digits_in_float32():
  norm = LayerNorm(TINY, jnp.bfloat16)
  params = norm.init(jax.random.key(0), X)
  x = jnp.asarray(X + 1000, jnp.bfloat16)
  got = norm.apply(params, x)
  assert got.dtype == jnp.bfloat16
  exact = LayerNorm(TINY, jnp.float32).apply(params, x.astype(jnp.float32))
  np.testing.assert_allclose(got.astype(np.float32), exact, atol=2e-2)


@pytest.mark.parametrize('rate', [0.1, 0.6])
def test_dropout_leads_back_what_it_leaves(rate):
  seed = Seed(*map(np.uint32, (1, 2, 3)))
  x = DRAW.standard_normal((40, 50, 16), np.float32)
  y = drop(x, rate, seed)
  kept = np.asarray(y != 0)
  assert abs(kept.mean() - (1 - rate)) < 0.01
  np.testing.assert_allclose(y, np.where(kept, x / (1 - rate), 0), rtol=1e-6)
  (gradient,) = jax.vjp(lambda x: drop(x, rate, seed), x)[1](x)
  np.testing.assert_array_equal(gradient, y)


def test_an_activation_adds_the_bias_in_float32():
  product = jnp.asarray(X, jnp.bfloat16)
  bias = DRAW.standard_normal(16, np.float32) / 100
  got = activated(product, bias, 'gelu')
  assert got.dtype == jnp.bfloat16
  exact = gelu(product.astype(jnp.float32) + bias)
  np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def test_an_activation_adds_the_bias():
  product, bias = X, DRAW.standard_normal(16, np.float32)
  ours = lambda product, bias: activated(product, bias, 'gelu')  # noqa: E731
  plain = lambda product, bias: gelu(product + bias)  # noqa: E731
  np.testing.assert_allclose(ours(product, bias), plain(product, bias))
  for a, b in zip(
    gradients(ours, product, bias),
    gradients(plain, product, bias),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
