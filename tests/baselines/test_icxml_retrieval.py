"""Retrieval for ICXML is that of a bundle."""

import numpy as np
import pytest

from lmtx_jax.baselines.icxml_retrieval import make_retrieve
from lmtx_jax.bundle import Bundle
from lmtx_jax.types import Record


@pytest.fixture
def tagger(bundle):
  return Bundle(str(bundle))


@pytest.fixture
def retrieve(tagger):
  widths = np.union1d([8], tagger.doc_widths)
  return make_retrieve(
    tagger.encoder,
    tagger.index,
    tagger.tokenizer,
    widths,
    tagger.max_doc_tokens,
  )


def test_labels_of_titles(tagger, retrieve):
  texts = [name.title for name in tagger.labels.get(range(9))]
  texts += ['a', 'something else entirely, and longer than a title is' * 9]
  found = retrieve(texts, 10)
  assert found.shape == (11, 10) and found.dtype == np.int32
  expected = tagger.tag([Record('', text, '') for text in texts], 10)
  np.testing.assert_array_equal(found, expected.labels)


def test_more_than_there_are(tagger, retrieve):
  num_labels = len(tagger.labels)
  found = retrieve(['a'], num_labels + 3)
  assert sorted(found[0].tolist()) == [-1] * 3 + [*range(num_labels)]


def test_nothing(retrieve):
  assert retrieve([], 10).shape == (0, 10)
