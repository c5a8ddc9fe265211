import jax
import jax.numpy as jnp
import pytest

from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.transformer import TransformerConfig
from tests.benchmarks.flops import forward_flops

# Matrix products are nearly all of its work; no two sizes are alike.
WIDE = TransformerConfig(
  num_layers=3,
  dim=512,
  num_heads=2,
  ffn_dim=1280,
  vocab_size=40,
  max_positions=256,
  activation='relu',
)


@pytest.mark.parametrize(('rows', 'width'), [(8, 16), (3, 256)])
def test_the_compiler_counts_the_same(rows, width):
  encoder = BiEncoder(WIDE)
  params = jax.eval_shape(encoder.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((rows, width), jnp.int32)
  lengths = jax.ShapeDtypeStruct((rows,), jnp.int32)
  compiled = jax.jit(encoder.apply).lower(params, ids, lengths).compile()
  counted = compiled.cost_analysis()['flops']
  assert counted == pytest.approx(forward_flops(WIDE, [width] * rows), rel=0.02)


def test_a_gradient_costs_two_forward_passes_more():
  encoder = BiEncoder(WIDE)
  params = jax.eval_shape(encoder.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((8, 32), jnp.int32)
  lengths = jax.ShapeDtypeStruct((8,), jnp.int32)
  gradient = jax.grad(lambda *args: encoder.apply(*args)[:, 0].sum())
  compiled = jax.jit(gradient).lower(params, ids, lengths).compile()
  counted = compiled.cost_analysis()['flops']
  assert counted == pytest.approx(3 * forward_flops(WIDE, [32] * 8), rel=0.04)
