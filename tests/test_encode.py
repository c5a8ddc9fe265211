"""Embeddings come back in the order of the inputs, whatever the batches."""

import jax
import numpy as np
import pytest

from lmtx_jax import encode as encode_lib
from lmtx_jax.data.tokens import Special, TokenView
from lmtx_jax.encode import Encoder
from lmtx_jax.model import pretrained
from lmtx_jax.types import Ragged

TEXTS = [
  ' '.join(['cubic', 'spline', 'of', 'knots', 'and', 'values'][: i % 7] * 2)
  for i in range(30)
]


@pytest.fixture(scope='module')
def made():
  return pretrained.scratch(
    TEXTS,
    num_layers=1,
    dim=16,
    num_heads=2,
    vocab_size=200,
    max_tokens=24,
    seed=0,
  )


@pytest.fixture(scope='module')
def inputs(made):
  rows = made.tokenizer(TEXTS, add_special_tokens=False)['input_ids']
  ragged = Ragged.from_rows(rows)
  t = made.tokenizer
  special = Special(t.cls_token_id, t.sep_token_id, t.pad_token_id)
  return TokenView(ragged.values, ragged.offsets[:-1], ragged.lengths, special)


@pytest.fixture(scope='module')
def one_by_one(made, inputs):
  apply = jax.jit(made.encoder.apply)
  out = []
  for row in range(len(inputs)):
    ids, lengths = inputs.batch(np.array([row]), 16)
    out.append(apply(made.params, ids, lengths)[0])
  return np.stack(out)


@pytest.mark.parametrize(
  ('widths', 'batch_tokens', 'in_flight'),
  [([16], 64, 2), ([8, 16], 48, 2), ([8, 16], 1, 0), ([16], 10**6, 2)],
)
def test_every_text_as_if_alone(
  made, inputs, one_by_one, monkeypatch, widths, batch_tokens, in_flight
):
  monkeypatch.setattr(encode_lib, '_IN_FLIGHT', in_flight)
  found = Encoder(made.encoder, made.params, batch_tokens).encode(
    inputs, np.array(widths)
  )
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, one_by_one, rtol=0, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_into_a_file(made, inputs, one_by_one, tmp_path):
  out = np.lib.format.open_memmap(
    tmp_path / 'x.npy', 'w+', np.float32, (len(inputs), 16)
  )
  encoder = Encoder(made.encoder, made.params, 64)
  assert encoder.encode(inputs, np.array([16]), out, 'embed') is out
  out.flush()
  np.testing.assert_allclose(np.load(tmp_path / 'x.npy'), one_by_one, atol=1e-6)


def test_no_texts(made, inputs):
  none = inputs.take(np.zeros(0, np.int64))
  found = Encoder(made.encoder, made.params, 64).encode(none, np.array([16]))
  assert found.shape == (0, 16)
