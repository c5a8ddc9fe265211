"""Attention by two products, in groups of texts on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmtx_jax.model import attention
from lmtx_jax.model.attention import Keys
from lmtx_jax.model.dropout import Seed

SEED = Seed(*map(np.uint32, (1, 2, 2**32 - 5)))


def made(batch, dtype=jnp.float32, dim=8, size=1.0):
  draw = np.random.default_rng(0)
  qkv = draw.standard_normal((batch, 7, 3, 2, dim)) * size
  mask = np.arange(7) < draw.integers(0, 8, batch)[:, None]
  relative = draw.standard_normal((2, 7, 7), np.float32)
  return jnp.asarray(qkv, dtype), Keys(mask, None, relative)


def softmax(qkv, keys):
  q, k, v = qkv.astype(jnp.float32).transpose(2, 0, 3, 1, 4)
  scores = jnp.einsum('bhqd,bhkd->bhqk', q, k) * q.shape[-1] ** -0.5
  scores = scores + keys.relative
  weights = jax.nn.softmax(scores, where=keys.mask[:, None, None, :], axis=-1)
  return jnp.einsum('bhqk,bhkd->bqhd', weights, v)


@pytest.mark.parametrize('batch', [1, 3, 9])
def test_groups_do_not_matter(batch, monkeypatch):
  qkv, keys = made(batch)
  weights = np.random.default_rng(1).standard_normal(
    (batch, 7, 2, 8), np.float32
  )

  def calculate():
    def total(qkv):
      out = attention._two_products(qkv, keys, 0.3, SEED)
      return (out * weights).sum(), out

    return jax.grad(total, has_aux=True)(qkv)

  monkeypatch.setattr(attention, '_LEAST_GROUPS', 1)
  monkeypatch.setattr(attention, 'num_cores', lambda: 1)
  whole = calculate()
  monkeypatch.setattr(attention, 'num_cores', lambda: 4)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    calculate(),
    whole,
  )


def test_it_is_softmax():
  qkv, keys = made(5)
  real = keys.mask.any(axis=1)
  got = attention._two_products(qkv, keys, 0.0, None)
  assert np.isfinite(got).all()
  np.testing.assert_allclose(got[real], softmax(qkv, keys)[real], atol=1e-5)


@pytest.mark.parametrize('dim', [32, 64])
def test_bfloat16_rounds_no_scores(dim):
  qkv, keys = made(40, jnp.bfloat16, dim, size=3.0)
  real = keys.mask.any(axis=1)
  got = attention._two_products(qkv, keys, 0.0, None)[real]
  exact = softmax(qkv, keys)[real]
  error = jnp.linalg.norm((got - exact).ravel())
  assert error < 3e-3 * jnp.linalg.norm(exact.ravel())
