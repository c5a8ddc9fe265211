"""Token ids: made once for a corpus, kept in memory-mapped files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re

from absl import logging
import numpy as np
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tqdm import tqdm

from lmtx_jax import processes
from lmtx_jax.data.corpus import Corpus
from lmtx_jax.files import locked, staged
from lmtx_jax.types import Ragged

_FORMAT = 1  # raised when the files' meaning changes
_BLOCK = 2048  # records handed to the tokenizer at a time
_CHARS_A_TOKEN = 6  # more than most texts have
# Some of what BERT's tokenizer isolates: ASCII's and the most common others.
_PUNCTUATION = (
  r'!-/:-@\[-`{-~\u060c\u061b\u061f\u06d4\u0964\u0965\u2010-\u2027'
  r'\u3001-\u3003\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f'
)
_IDEOGRAPHS = r'\u4e00-\u9fa5'


@dataclasses.dataclass(frozen=True)
class Special:
  """Token ids that every input is framed with.

  Attributes:
    first: id before the text ([CLS]).
    last: id after the text ([SEP]).
    pad: id of padding.
  """

  first: int
  last: int
  pad: int


@dataclasses.dataclass(frozen=True)
class TokenView:
  """Spans of one flat token array, each read as one input of the encoder.

  Attributes:
    values: `[total]` token ids, memory-mapped.
    starts: `[n]` int64, where each span begins.
    sizes: `[n]` int64, tokens of each span, without the two special ones.
    special: what frames a span.
  """

  values: np.ndarray
  starts: np.ndarray
  sizes: np.ndarray
  special: Special

  def __len__(self) -> int:
    return len(self.starts)

  @property
  def lengths(self) -> np.ndarray:
    """`[n]` int64 input lengths, special tokens included."""
    return self.sizes + 2

  def take(self, rows: np.ndarray) -> TokenView:
    """The spans at `rows`."""
    return dataclasses.replace(
      self, starts=self.starts[rows], sizes=self.sizes[rows]
    )

  def batch(
    self, rows: np.ndarray, width: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the encoder.

    Args:
      rows: `[batch]` spans to read.
      width: tokens to pad to; at least the longest length.

    Returns:
      token ids `[batch, width]` int32, and lengths `[batch]` int32.
    """
    sizes = self.sizes[rows]
    column = np.arange(width - 1)
    inside = column[None, :] < sizes[:, None]  # [batch, width - 1]
    position = np.where(inside, self.starts[rows][:, None] + column[None, :], 0)
    ids = np.full((len(rows), width), self.special.pad, np.int32)
    ids[:, 0] = self.special.first
    if len(self.values):
      ids[:, 1:] = np.where(inside, self.values[position], self.special.pad)
    ids[np.arange(len(rows)), sizes + 1] = self.special.last
    return ids, (sizes + 2).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Tokens:
  """The token ids of a corpus: of each record, its title's then its content's.

  Attributes:
    ids: row `i` holds title and content of record `i`, without special ones.
    title_sizes: `[n]` int64, how many tokens of a row are the title's.
    special: what frames an input.
  """

  ids: Ragged
  title_sizes: np.ndarray
  special: Special

  def view(
    self, max_tokens: int, *, title: bool = True, content: bool = True
  ) -> TokenView:
    """What the encoder reads of each record.

    Args:
      max_tokens: longest input, special tokens included.
      title: whether the title is part of it.
      content: whether the content is part of it.
    """
    starts, ends = self.ids.offsets[:-1], self.ids.offsets[1:]
    middle = starts + self.title_sizes
    begin = starts if title else middle
    end = ends if content else middle
    sizes = np.minimum(end - begin, max_tokens - 2)
    return TokenView(self.ids.values, begin, sizes, self.special)


def special_of(tokenizer) -> Special:
  """The framing ids of a transformers tokenizer."""
  return Special(
    tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
  )


def tokenize(
  corpus: Corpus, tokenizer, max_tokens: int, cache_dir: str
) -> Tokens:
  """Tokenises a corpus, or opens what an earlier call left.

  Title and content are tokenised apart, at most `max_tokens` of each, so that
  any text made of them, of any smaller length, can be read from one file.

  Args:
    corpus: documents or labels.
    tokenizer: a fast transformers tokenizer.
    max_tokens: longest input that will be asked for.
    cache_dir: folder for token files, shared by runs.
  """
  backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
  backend.no_padding()
  backend.no_truncation()
  key = hashlib.sha256(
    f'{_FORMAT} {corpus.fingerprint} {max_tokens} {backend.to_str()}'.encode()
  ).hexdigest()[:32]
  folder = os.path.join(os.path.expanduser(cache_dir), 'tokens', key)
  small = backend.get_vocab_size() <= np.iinfo(np.uint16).max
  dtype = np.uint16 if small else np.int32
  if not os.path.isdir(folder):
    backend.enable_truncation(max_tokens)
    _write(folder, corpus, backend, dtype, max_tokens)
  values_file = os.path.join(folder, 'ids.bin')
  empty = os.path.getsize(values_file) == 0
  values = (
    np.zeros(0, dtype) if empty else np.memmap(values_file, dtype, mode='r')
  )
  offsets = np.load(os.path.join(folder, 'offsets.npy'))
  title_sizes = np.load(os.path.join(folder, 'title_sizes.npy'))
  return Tokens(Ragged(values, offsets), title_sizes, special_of(tokenizer))


class TextTokenizer:
  """Tokenises a few records in memory, as `tokenize` does a corpus.

  Whoever does so again and again keeps one: to make it takes longer than to
  tokenise a document. Threads may share it.

  Attributes:
    special: what frames an input.
  """

  def __init__(self, tokenizer, max_tokens: int):
    """Takes a fast transformers tokenizer, and the longest input there is."""
    self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    self._backend.no_padding()
    self._backend.enable_truncation(max_tokens)
    self._max_tokens = max_tokens
    self.special = special_of(tokenizer)

  def __call__(self, titles: list[str], contents: list[str]) -> Tokens:
    """The tokens of records, whose titles and contents go together."""
    rows, title_sizes = _encode(
      self._backend, titles, contents, self._max_tokens
    )
    return Tokens(Ragged.from_rows(rows), title_sizes, self.special)


def tokenize_texts(
  titles: list[str], contents: list[str], tokenizer, max_tokens: int
) -> Tokens:
  """As a TextTokenizer that is used once."""
  return TextTokenizer(tokenizer, max_tokens)(titles, contents)


def _encode(
  backend: Tokenizer, titles: list[str], contents: list[str], max_tokens: int
) -> tuple[list[list[int]], np.ndarray]:
  """Token ids a record, and how many of them are its title's."""
  ids = _beginnings(backend, titles + contents, max_tokens)
  head, tail = ids[: len(titles)], ids[len(titles) :]
  rows = [a + b for a, b in zip(head, tail, strict=True)]
  return rows, np.array([len(a) for a in head], np.int64)


def _beginnings(
  backend: Tokenizer, texts: list[str], max_tokens: int
) -> list[list[int]]:
  """The first `max_tokens` ids of each text; the rest of it is not looked at.

  A text is cut where a word ends whatever follows. Where its beginning turns
  out to hold too few tokens, a longer one is read, at last the whole text.
  """
  ids: list[list[int]] = [[]] * len(texts)
  boundary = _boundary(backend)
  rows, size = range(len(texts)), _CHARS_A_TOKEN * max_tokens
  while rows:
    parts = {i: _beginning(texts[i], size, boundary) for i in rows}
    found = _ids(backend, list(parts.values()))
    for i, row in zip(rows, found, strict=True):
      ids[i] = row
    rows = [
      i
      for i in rows
      if len(parts[i]) < len(texts[i]) and len(ids[i]) < max_tokens
    ]
    size *= 8
  return ids


def _beginning(text: str, size: int, boundary: str) -> str:
  """At most `size` characters, before a boundary; '' where there is none."""
  if not boundary or len(text) <= size:
    return text
  found = re.compile(f'.{{0,{size}}}(?={boundary})', re.DOTALL).match(text)
  return found[0] if found else ''


def _boundary(backend: Tokenizer) -> str:
  """Pattern of characters before which a word ends; '' if none are known.

  BERT's pre-tokenizer cuts at white space and around punctuation, its
  normalizer puts space around ideographs, and none of them changes a word
  before it. Only what no added token goes on with will do: the tokenizer takes
  '[SEP]' whole.
  """
  if not isinstance(backend.pre_tokenizer, BertPreTokenizer):
    return ''
  known = ' \\t\\n'
  if isinstance(backend.normalizer, BertNormalizer):
    known += _PUNCTUATION
    if backend.normalizer.handle_chinese_chars:
      known += _IDEOGRAPHS
  added = backend.get_added_tokens_decoder().values()
  taken = {char for token in added for char in token.content[1:]}
  unless = f'(?![{re.escape("".join(sorted(taken)))}])' if taken else ''
  return f'{unless}[{known}]'


def _ids(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
  encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
  return [item.ids for item in encoded]


def _write(
  folder: str, corpus: Corpus, backend: Tokenizer, dtype, max_tokens: int
) -> None:
  """Writes the token files, unless another process is first."""
  os.makedirs(os.path.dirname(folder), exist_ok=True)
  with locked(f'{folder}.lock'):
    if os.path.isdir(folder):
      return
    with staged(folder) as staging:
      os.mkdir(staging)
      _write_files(staging, corpus, backend, dtype, max_tokens)


def _write_files(
  staging: str, corpus: Corpus, backend: Tokenizer, dtype, max_tokens: int
) -> None:
  sizes, title_sizes = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
  with (
    open(os.path.join(staging, 'ids.bin'), 'wb') as f,
    tqdm(
      total=len(corpus),
      desc=f'tokenise {corpus.name}',
      unit='text',
      disable=not processes.is_lead(),
    ) as bar,
  ):
    for start in range(0, len(corpus), _BLOCK):
      records = corpus.records(range(start, min(start + _BLOCK, len(corpus))))
      rows, title_size = _encode(
        backend,
        [r.title for r in records],
        [r.content for r in records],
        max_tokens,
      )
      for row in rows:
        f.write(np.asarray(row, dtype).tobytes())
      sizes.append(np.array([len(row) for row in rows], np.int64))
      title_sizes.append(title_size)
      bar.update(len(records))
  offsets = np.cumsum(np.concatenate(sizes))
  np.save(os.path.join(staging, 'offsets.npy'), offsets)
  np.save(os.path.join(staging, 'title_sizes.npy'), np.concatenate(title_sizes))
  logging.info('%s: %d tokens', corpus.name, offsets[-1])
