"""Digests of texts are made once."""

import numpy as np

from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus, label_texts
from lmtx_jax.data.digests import keep_digests
from lmtx_jax.types import Ragged

LABELS = [
  {'uid': str(i), 'title': title, 'content': 'of many'}
  for i, title in enumerate(['Mercury', 'Venus', 'Mercury'])
]


class Source:
  """Counts what is read."""

  def __init__(self, records):
    self.records, self.num_read = records, 0

  def __getitems__(self, indices):
    self.num_read += len(indices)
    return [self.records[i] for i in indices]


def texts_of(records, fingerprint='print', label_text='title'):
  none = Ragged.from_rows([[]] * len(records))
  source, rows = Source(records), np.arange(len(records))
  corpus = Corpus('label', fingerprint, source, rows, none, none)
  return label_texts(corpus, TextConfig(label_text=label_text)), source


def test_a_second_load_reads_no_text(tmp_path):
  plain = texts_of(LABELS)[0].digests
  for count in (3, 0):
    texts, source = texts_of(LABELS)
    keep_digests(texts, 'title', str(tmp_path))
    assert isinstance(texts.digests, np.memmap)
    np.testing.assert_array_equal(texts.digests, plain)
    assert source.num_read == count
  assert plain[0] == plain[2] != plain[1]


def test_other_texts_have_other_digests(tmp_path):
  def kept(*args, kind='title'):
    texts, _ = texts_of(*args, label_text=kind)
    keep_digests(texts, kind, str(tmp_path))
    return texts.digests

  before = kept(LABELS)
  changed = [LABELS[0], LABELS[1] | {'title': 'Earth'}, LABELS[2]]
  assert (kept(changed, 'changed') == before).tolist() == [True, False, True]
  assert not (kept(LABELS, kind='title_content') == before).any()
  np.testing.assert_array_equal(kept(LABELS), before)
  names = sorted(path.suffix for path in (tmp_path / 'digests').iterdir())
  assert names == ['.lock'] * 3 + ['.npy'] * 3
