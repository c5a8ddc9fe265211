"""Token files, and what is read from them, against the real tokenizer."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from tokenizers.pre_tokenizers import BertPreTokenizer

from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus, document_texts
from lmtx_jax.data.tokens import _beginnings, tokenize, tokenize_texts
from lmtx_jax.model.tokenizer import train_word_piece
from lmtx_jax.types import Ragged, Record

STORED = 24  # tokens
RECORDS = [
  Record('a', 'Gaussian quadrature', 'Integrates a function; see also Simpson'),
  Record('b', 'Splines', ''),
  Record('c', '', 'Cubic interpolation of tabulated values, café, naïve'),
  Record('d', '', ''),
  Record('e', ' ', '\n'),
  Record('f', 'A long title ' * 10, 'and a content ' * 10),
  Record('g', 'x' * 150, '中文 text'),
]
TEXT = st.text('abegit ,.-\t\né中7\x00\x1c\u200b\xa0', max_size=40)
# Texts without white space, with places where one could cut them wrong.
UNSPACED = st.lists(
  st.sampled_from(
    [
      *('ab', 'begin', '.', ',', '中', '文', '。', '[SEP]', '[', ']', '[MASK]'),
      *('e\u0301', '\u0301', '=\u0338', '-', 'é', '\x00', '\u200b', 'x' * 99),
    ]
  ),
  max_size=60,
).map(''.join)


class Source(list):
  def __getitems__(self, indices):
    return [self[i]._asdict() for i in indices]


class Unreadable:
  def __getitems__(self, indices):
    raise AssertionError('the cache should have been read')


def corpus(records, source=Source):
  none = Ragged.from_rows([[]] * len(records))
  rows = np.arange(len(records))
  return Corpus('train', 'print', source(records), rows, none, none)


@pytest.fixture(scope='module')
def tokenizer():
  texts = [f'{r.title} {r.content}' for r in RECORDS]
  return train_word_piece([*texts, 'abcdefghi begin getting'] * 3, 220)


def expected(tokenizer, text, max_tokens):
  return tokenizer(text, truncation=True, max_length=max_tokens)['input_ids']


def read(view, rows=None):
  """Rows of a view as lists, without their padding."""
  rows = np.arange(len(view)) if rows is None else rows
  width = int(view.lengths.max(initial=2)) + 3
  ids, lengths = view.batch(rows, width)
  assert ids.dtype == lengths.dtype == np.int32
  assert ids.shape == (len(rows), width)
  assert all(
    (row[n:] == view.special.pad).all()
    for row, n in zip(ids, lengths, strict=True)
  )
  return [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]


@pytest.mark.parametrize('max_tokens', [3, 8, STORED])
@pytest.mark.parametrize('encode_title', [True, False])
def test_files_hold_what_the_tokenizer_says(
  tokenizer, tmp_path, max_tokens, encode_title
):
  made = corpus(RECORDS)
  tokens = tokenize(made, tokenizer, STORED, str(tmp_path))
  config = TextConfig(encode_title=encode_title)
  texts = document_texts(made, config).get(range(len(made)))
  view = tokens.view(max_tokens, title=encode_title)
  rows = read(view)
  assert rows == [expected(tokenizer, text, max_tokens) for text in texts]
  assert all(row[-1] == tokenizer.sep_token_id for row in rows)


def test_titles_alone(tokenizer, tmp_path):
  tokens = tokenize(corpus(RECORDS), tokenizer, STORED, str(tmp_path))
  assert read(tokens.view(9, content=False)) == [
    expected(tokenizer, record.title, 9) for record in RECORDS
  ]


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT, st.integers(3, STORED))
def test_any_text_at_any_length(tokenizer, title, content, max_tokens):
  tokens = tokenize_texts([title], [content], tokenizer, STORED)
  whole = read(tokens.view(max_tokens))
  assert whole == [expected(tokenizer, f'{title}\t{content}', max_tokens)]
  assert read(tokens.view(max_tokens, title=False)) == [
    expected(tokenizer, content, max_tokens)
  ]
  assert read(tokens.view(max_tokens, content=False)) == [
    expected(tokenizer, title, max_tokens)
  ]


def test_taken_rows_keep_their_order(tokenizer):
  titles = [record.title for record in RECORDS]
  view = tokenize_texts(titles, [''] * len(titles), tokenizer, 8).view(8)
  rows = np.array([5, 0, 2])
  assert read(view.take(rows)) == read(view, rows)
  assert read(view, rows)[1] == expected(tokenizer, titles[0], 8)


def test_a_second_call_reads_the_files(tokenizer, tmp_path):
  first = tokenize(corpus(RECORDS), tokenizer, STORED, str(tmp_path))
  unread = corpus(RECORDS, lambda _: Unreadable())
  second = tokenize(unread, tokenizer, STORED, str(tmp_path))
  assert read(second.view(STORED)) == read(first.view(STORED))
  assert isinstance(second.ids.values, np.memmap)


def test_other_lengths_and_other_vocabularies_get_other_files(
  tokenizer, tmp_path
):
  made = corpus(RECORDS)
  tokenize(made, tokenizer, STORED, str(tmp_path))
  longer = tokenize(made, tokenizer, 2 * STORED, str(tmp_path))
  text = f'{RECORDS[5].title}\t{RECORDS[5].content}'
  assert read(longer.view(40))[5] == expected(tokenizer, text, 40)
  other = train_word_piece(['quite other words'], 60)
  tokens = tokenize(made, other, STORED, str(tmp_path))
  assert read(tokens.view(9, content=False))[1] == expected(other, 'Splines', 9)


def test_no_records_and_only_empty_ones(tokenizer, tmp_path):
  for number, records in enumerate(([], [Record('a', '', '')] * 3)):
    folder = str(tmp_path / str(number))
    for _ in range(2):
      tokens = tokenize(corpus(records), tokenizer, STORED, folder)
      assert read(tokens.view(8)) == [expected(tokenizer, '', 8)] * len(records)


def test_a_failed_pass_leaves_nothing(tokenizer, tmp_path):
  with pytest.raises(AssertionError, match='should have been read'):
    tokenize(
      corpus(RECORDS, lambda _: Unreadable()), tokenizer, STORED, str(tmp_path)
    )
  assert folders(tmp_path) == []


def test_a_half_written_folder_is_ignored(tokenizer, tmp_path):
  tokenize(corpus(RECORDS), tokenizer, STORED, str(tmp_path))
  (folder,) = folders(tmp_path)
  # What a kill leaves: a part of the files, under a name of its own.
  unfinished = folder.with_name(f'.unfinished-{folder.name}')
  folder.rename(unfinished)
  (unfinished / 'offsets.npy').unlink()
  tokens = tokenize(corpus(RECORDS), tokenizer, STORED, str(tmp_path))
  assert read(tokens.view(9, content=False))[1] == expected(
    tokenizer, 'Splines', 9
  )
  assert folders(tmp_path) == [folder]
  assert not unfinished.exists()


def test_two_at_once(tokenizer, tmp_path):
  """The second waits for the first, and then reads what it wrote."""
  others = []

  class Raced(Source):
    def __getitems__(self, indices):
      if not others:
        others.append(
          pool.submit(
            tokenize, corpus(RECORDS), tokenizer, STORED, str(tmp_path)
          )
        )
      return super().__getitems__(indices)

  with ThreadPoolExecutor(1) as pool:
    tokens = tokenize(corpus(RECORDS, Raced), tokenizer, STORED, str(tmp_path))
    second = others[0].result(timeout=30)
  alone = tokenize(corpus(RECORDS), tokenizer, STORED, str(tmp_path / 'own'))
  assert read(tokens.view(STORED)) == read(alone.view(STORED))
  assert read(second.view(STORED)) == read(alone.view(STORED))
  assert len(folders(tmp_path)) == 1


def folders(cache):
  """The folders of token files in a cache."""
  return sorted(path for path in (cache / 'tokens').iterdir() if path.is_dir())


@settings(max_examples=200, deadline=None)
@given(
  texts=st.lists(
    st.lists(st.text('ab \t\n.\x00\x1c\u200b', max_size=6), max_size=12).map(
      ' '.join
    ),
    min_size=1,
    max_size=4,
  ),
  max_tokens=st.integers(1, 6),
)
def test_what_is_cut_off_changes_nothing(tokenizer, texts, max_tokens):
  """Words of no token, and long rows of white space, included."""
  found = tokenize_texts([''] * len(texts), texts, tokenizer, max_tokens)
  for i, text in enumerate(texts):
    whole = tokenizer(text, add_special_tokens=False)['input_ids']
    row = found.ids.values[found.ids.offsets[i] : found.ids.offsets[i + 1]]
    assert row.tolist() == whole[:max_tokens]


def test_rows_of_white_space_take_no_time(tokenizer):
  """A careless pattern would try every way to split them."""
  texts = [' ' * 5000, 'a' + ' ' * 5000 + 'b']
  found = tokenize_texts(['', ''], texts, tokenizer, 24)
  assert found.ids.lengths.tolist() == [0, 2]


@settings(max_examples=300, deadline=None)
@given(UNSPACED, st.integers(1, 6))
def test_what_is_cut_off_of_unspaced_text_changes_nothing(
  tokenizer, text, max_tokens
):
  found = tokenize_texts([''], [text], tokenizer, max_tokens)
  whole = tokenizer(text, add_special_tokens=False)['input_ids']
  assert found.ids.values.tolist() == whole[:max_tokens]


class SeeingTokenizer:
  """Notes what it is given."""

  def __init__(self, backend):
    self.backend, self.seen = backend, []
    self.pre_tokenizer, self.normalizer = (
      backend.pre_tokenizer,
      backend.normalizer,
    )
    self.get_added_tokens_decoder = backend.get_added_tokens_decoder

  def encode_batch_fast(self, texts, add_special_tokens):
    self.seen += [len(text) for text in texts if text]
    return self.backend.encode_batch_fast(texts, add_special_tokens=False)


@pytest.mark.parametrize(
  ('text', 'read'),
  [
    ('ab ' * 1000, [29]),
    ('.' * 1000, [30]),
    ('中文' * 500, [30]),
    ('[]' * 500, [30]),
    ('a b', [3]),
    ('\x00 ' * 50, [29, 100]),
    ('x' * 200 + ' a' * 500, [240]),
    ('a' * 300, [300]),
  ],
)
def test_a_long_text_is_not_read_to_its_end(tokenizer, text, read):
  backend = tokenizer.backend_tokenizer
  assert isinstance(backend.pre_tokenizer, BertPreTokenizer)
  seeing = SeeingTokenizer(backend)
  _beginnings(seeing, [text], 5)
  assert seeing.seen == read
