"""MPNet's relative positions, and all that an encoder with them must keep."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_fixtures import TINY, tokens_of
import numpy as np
import pytest

from lmtx_jax.model import bi_encoder
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.relative_positions import RelativePositions, buckets

CONFIG = dataclasses.replace(
  TINY,
  max_positions=160,
  first_position=2,
  relative_buckets=32,
  type_vocab_size=0,
)
ENCODER = BiEncoder(CONFIG)
PARAMS = jax.jit(ENCODER.init)(jax.random.key(0))
NO_DROPOUT = dataclasses.replace(
  CONFIG, dropout=0.0, attention_dropout=0.0, projection_dropout=0.0
)


@pytest.mark.parity
def test_buckets_are_those_of_transformers():
  import torch
  from transformers.models.mpnet import modeling_mpnet as mpnet

  distance = np.arange(-600, 601)
  expected = mpnet.MPNetEncoder.relative_position_bucket(torch.tensor(distance))
  np.testing.assert_array_equal(buckets(distance, 32), expected.numpy())


def test_buckets_by_hand():
  distance = np.array([0, -1, -7, -8, -15, -16, -90, -91, -5000, 1, 7, 16, 200])
  expected = [0, 1, 7, 8, 9, 10, 14, 15, 15, 17, 23, 26, 31]
  assert buckets(distance, 32).tolist() == expected


@pytest.mark.parametrize('length', [1, 2, 9, 150])
def test_the_bias_is_the_row_of_each_distance_and_so_is_its_gradient(length):
  module = RelativePositions(CONFIG)
  table = PARAMS['relative_positions']['table']
  place = np.arange(length)
  rows = buckets(place[None] - place[:, None], 32)  # [query, key]
  weights = np.random.RandomState(0).randn(4, length, length)

  def ours(table):
    return module.apply({'params': {'table': table}}, length)

  def looked_up(table):
    return table[rows].transpose(2, 0, 1)

  np.testing.assert_array_equal(jax.jit(ours)(table), looked_up(table))
  got, expected = (
    jax.grad(lambda table, f=f: (f(table) * weights).sum())(table)
    for f in (ours, looked_up)
  )
  np.testing.assert_allclose(got, expected, atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def embed_by(encoder, params, ids, lengths, dropout_rng=None, first_row=0):
  return encoder.apply(
    params, ids, lengths, dropout_rng=dropout_rng, first_row=first_row
  )


def embed(encoder, ids, lengths, *args):
  return np.asarray(embed_by(encoder, PARAMS, ids, lengths, *args))


def test_what_pads_a_row_never_matters():
  ids, lengths = tokens_of(ENCODER, 4, 9)
  padded = np.full((4, 150), 7, np.int32)
  for i, n in enumerate(lengths):
    padded[i, :n] = ids[i, :n]
  np.testing.assert_allclose(
    embed(ENCODER, padded, lengths), embed(ENCODER, ids, lengths), atol=2e-6
  )


def test_positions_before_the_first_are_unused():
  ids, lengths = tokens_of(ENCODER, 2, 9)
  position = PARAMS['embeddings']['position']
  assert position.shape == (162, TINY.dim)
  embeddings = {
    **PARAMS['embeddings'],
    'position': position.at[:2].add(1.0),
  }
  other = embed_by(ENCODER, {**PARAMS, 'embeddings': embeddings}, ids, lengths)
  np.testing.assert_array_equal(other, embed(ENCODER, ids, lengths))


def test_flash_attention_never_leaves_them_out(monkeypatch):
  encoder = dataclasses.replace(ENCODER, config=NO_DROPOUT)
  ids, lengths = tokens_of(encoder, 3, 12)
  flash = dataclasses.replace(encoder, attention='flash')
  np.testing.assert_array_equal(
    embed(flash, ids, lengths), embed(encoder, ids, lengths)
  )
  table = jnp.zeros((32, 4))
  without = embed_by(
    encoder, {**PARAMS, 'relative_positions': {'table': table}}, ids, lengths
  )
  assert abs(without - embed(encoder, ids, lengths)).max() > 1e-3
  monkeypatch.setattr(bi_encoder, 'best_attention', lambda *_: 'flash')
  assert flash.with_best_attention().attention == 'xla'
  plain = BiEncoder(dataclasses.replace(CONFIG, relative_buckets=0))
  assert plain.with_best_attention().attention == 'flash'


def test_dropout_is_the_same_in_every_split_of_a_batch():
  ids, lengths = tokens_of(ENCODER, 6, 12)
  rng = jax.random.key(3)
  whole = embed(ENCODER, ids, lengths, rng)
  part = embed(ENCODER, ids[2:5], lengths[2:5], rng, 2)
  np.testing.assert_allclose(part, whole[2:5], atol=2e-6)
  assert abs(whole - embed(ENCODER, ids, lengths)).max() > 1e-3
