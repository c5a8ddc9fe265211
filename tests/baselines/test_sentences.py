"""Sentences and titles among token ids."""

from baseline_fixtures import FakeTokenizer, documents
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax.baselines import sentences
from lmtx_jax.baselines.sentences import (
  sentence_starts,
  title_occurrences,
  token_kinds,
)
from lmtx_jax.data.tokens import tokenize_texts
from lmtx_jax.model.tokenizer import train_word_piece
from lmtx_jax.types import Ragged


def split(texts):
  """The sentences of each content."""
  tokenizer = FakeTokenizer()
  tokens = documents(tokenizer, texts)
  starts = sentence_starts(tokens, token_kinds(tokenizer))
  assert len(starts) == len(texts)
  return [
    [tokenizer.text(part) for part in np.split(row, place)[1:]]
    for row, place in zip(tokens.ids, starts, strict=True)
  ]


@pytest.mark.parametrize(
  'content',
  [
    'one two',
    'one two . | three .',
    'what ? | yes ! | good . . . | end',
    'at 3 . 5 percent . | of no . 12 only',  # numbers
    'j . smith of the u . s . army left . | he came back',
    'is it plan b ? | no ! | fine',  # a letter, but no dot
    'dr . | smith , etc . | and so on',  # what it does not know
    'see example . | com for more',
    'he said " no . " then left',
    'vitamin c . helps',
    '. one . | two',  # nothing has ended
    '? one',
    'play ##s . | go ##es on',
    'cut . ##off',  # no word begins
    '人 . | 口',  # a word of one letter
    '.',
  ],
)
def test_where_sentences_end(content):
  whole = content.replace(' |', '')
  wanted = content.split(' | ')
  assert split([('title', whole)]) == [wanted]
  # Neither the title nor a neighbour has a say in it.
  for title in ('', 'j .', 'a b .', 'x'):
    texts = [(title, whole), ('', 'a . b'), (title, whole), ('q', '')]
    assert split(texts) == [wanted, ['a . b'], wanted, []]


WORDS = st.sampled_from(['word', 'b', '.', '?', '7', '##s', ','])
TEXT = st.lists(WORDS, max_size=12).map(' '.join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_documents_are_split_one_by_one(texts):
  """And of each, the sentences together are the content."""
  found = split(texts)
  for (title, content), mine in zip(texts, found, strict=True):
    assert ' '.join(mine) == content
    assert all(mine)
    assert split([('', content)]) == split([(title, content)]) == [mine]


def test_blocks_do_not_matter(monkeypatch):
  texts = [('t' * (i % 2), 'a b . c d . e') for i in range(20)]
  texts[7] = texts[8] = ('', '')
  whole = split(texts)
  monkeypatch.setattr(sentences, '_BLOCK', 3)
  assert split(texts) == whole


def test_no_documents():
  assert split([]) == []


def test_a_real_tokenizer():
  text = (
    'The cats ran. They were quick! Why? Dr. No said 3.5 miles, in the U.S.A.'
    ' that is far.'
  )
  tokenizer = train_word_piece([text] * 9, 300)
  tokens = tokenize_texts(['Cats'], [text], tokenizer, 99)
  starts = sentence_starts(tokens, token_kinds(tokenizer))
  parts = np.split(tokens.ids[0], starts[0])[1:]
  assert [tokenizer.decode(part) for part in parts] == [
    'the cats ran.',
    'they were quick!',
    'why?',
    'dr.',
    'no said 3. 5 miles, in the u. s. a. that is far.',
  ]


# --- titles ------------------------------------------------------------------


def occurrences(pairs):
  """The places of each (title, content): a list of spans."""
  tokenizer = FakeTokenizer()
  titles = Ragged.from_rows([tokenizer(title) for title, _ in pairs])
  contents = [tokenizer(content) for _, content in pairs]
  sizes = np.array([len(c) for c in contents])
  # Padded with what could be part of a title.
  table = np.array([np.resize([*c, 0], max(sizes) + 2) for c in contents])
  for row, (title, _) in zip(table, pairs, strict=True):
    row[-1] = row[-2] = tokenizer(title)[0] if title else 0
  for row, content in zip(table, contents, strict=True):
    row[: len(content)] = content
  row, first, end = title_occurrences(
    table, sizes, titles, token_kinds(tokenizer)
  )
  return [
    [
      (int(a), int(b))
      for r, a, b in zip(row, first, end, strict=True)
      if r == i
    ]
    for i in range(len(pairs))
  ]


def test_where_titles_stand():
  assert occurrences(
    [
      ('big cat', 'a big cat and a big dog , big cat'),
      ('cat', 'cat cat ##s cat'),  # not in 'cats'
      ('a a', 'a a a'),  # they overlap
      ('', 'a b'),
      ('longer than it', 'longer than'),
      ('x', ''),
      ('cat ##s', 'cat ##s ##y cat ##s'),
      ('dog', 'cat'),
    ]
  ) == [[(1, 3), (8, 10)], [(0, 1), (3, 4)], [(0, 2), (1, 3)], [], [], [],
        [(3, 5)], []]  # fmt: skip


PIECE = st.sampled_from(['a', 'b', '##s'])
PIECES = st.lists(PIECE, max_size=10)


@settings(max_examples=200, deadline=None)
@given(
  st.lists(
    st.tuples(st.lists(PIECE, max_size=3), PIECES), min_size=1, max_size=6
  )
)
def test_titles_are_found_as_a_search_finds_them(pairs):
  found = occurrences([(' '.join(t), ' '.join(c)) for t, c in pairs])
  for (title, content), mine in zip(pairs, found, strict=True):
    n = len(title)
    assert mine == [
      (i, i + n)
      for i in range(len(content) - n + 1)
      if n
      and content[i : i + n] == title
      and content[i + n : i + n + 1] != ['##s']
    ]
