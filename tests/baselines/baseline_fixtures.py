"""Texts made word by word, and what is read out of batches of them."""

import numpy as np

from lmtx_jax.data.tokens import Special, Tokens, TokenView
from lmtx_jax.types import Ragged

SPECIAL = Special(first=1, last=2, pad=0)


class FakeTokenizer:
  """A vocabulary that grows with the words it is shown; spaces divide them."""

  def __init__(self):
    self._vocab = {'[PAD]': 0, '[CLS]': 1, '[SEP]': 2}
    self('. ! ?')

  def __call__(self, text):
    return [
      self._vocab.setdefault(word, len(self._vocab)) for word in text.split()
    ]

  def get_vocab(self):
    return dict(self._vocab)

  def text(self, ids):
    words = {index: word for word, index in self._vocab.items()}
    return ' '.join(words[i] for i in ids)


def documents(tokenizer, texts) -> Tokens:
  """Of (title, content)."""
  titles = [tokenizer(title) for title, _ in texts]
  contents = [tokenizer(content) for _, content in texts]
  rows = [a + b for a, b in zip(titles, contents, strict=True)]
  sizes = np.array([len(title) for title in titles], np.int64)
  return Tokens(Ragged.from_rows(rows), sizes, SPECIAL)


def view(tokenizer, texts) -> TokenView:
  rows = Ragged.from_rows([tokenizer(text) for text in texts])
  return TokenView(rows.values, rows.offsets[:-1], rows.lengths, SPECIAL)


def words_of(tokenizer, batch, side):
  """The texts of one side, and that they are framed as inputs are."""
  ids, lengths = batch[f'{side}_ids'], batch[f'{side}_lengths']
  assert ids.dtype == lengths.dtype == np.int32
  column = np.arange(ids.shape[1])[None, :]
  assert np.all(ids[:, 0] == SPECIAL.first)
  assert np.all(ids[np.arange(len(ids)), lengths - 1] == SPECIAL.last)
  assert np.all(ids[column >= lengths[:, None]] == SPECIAL.pad)
  return [
    tokenizer.text(row[1 : n - 1]) for row, n in zip(ids, lengths, strict=True)
  ]


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def check_pure(make):
  """A step has one batch, whoever is asked for it and in whatever order."""
  pairs = make()
  in_order = [pairs.batch(step) for step in range(pairs.num_steps)]
  assert len(in_order) > 3
  for step in np.random.RandomState(0).permutation(pairs.num_steps):
    assert equal(pairs.batch(step), in_order[step])
    assert equal(make().batch(step), in_order[step])
  per_epoch = pairs.num_pairs // pairs.batch_size
  assert pairs.num_steps > per_epoch
  assert not equal(in_order[0], in_order[per_epoch])  # drawn anew
  assert not equal(in_order[0], make(seed=(1, 4)).batch(0))


def shapes_of(pairs):
  """The shapes of each side, of all steps: what is compiled."""
  return {
    (name, x.shape)
    for step in range(pairs.num_steps)
    for name, x in pairs.batch(step).items()
    if name.endswith('_ids')
  }


def lengthy(tokenizer, num_docs, seed=0):
  """Documents of lengths as they are found, of 2 to 40 sentences."""
  rng = np.random.default_rng(seed)
  texts = []
  for doc in range(num_docs):
    title = ' '.join(f't{doc}' for _ in range(rng.integers(1, 9)))
    sentences = [
      ' '.join(f'w{i}' for i in rng.integers(0, 300, rng.integers(3, 20)))
      for _ in range(2 + int(rng.lognormal(1.0, 0.8)) % 39)
    ]
    texts.append((title, ' . '.join(sentences) + ' .'))
  return documents(tokenizer, texts)
