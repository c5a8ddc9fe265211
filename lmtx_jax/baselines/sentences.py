"""Sentences, and occurrences of a title, found among token ids."""

from __future__ import annotations

import numpy as np

from lmtx_jax.data.tokens import Tokens
from lmtx_jax.types import Ragged

_BLOCK = 4096  # documents looked at a time
# What a token is, as far as sentences go.
_OTHER, _WORD, _LETTER, _REST, _DOT, _MARK = range(6)


def token_kinds(tokenizer) -> np.ndarray:
  """What each token of a WordPiece tokenizer may be in a sentence.

  Returns:
    `[vocab_size]` uint8, for `sentence_starts` and `title_occurrences`.
  """
  vocab = tokenizer.get_vocab()
  kinds = np.full(max(vocab.values()) + 1, _OTHER, np.uint8)
  for token, index in vocab.items():
    kinds[index] = _kind(token)
  return kinds


def _kind(token: str) -> int:
  if token.startswith('##'):
    return _REST
  if token[:1].isalpha():
    # A script without capitals writes words of one letter.
    return _LETTER if len(token) == 1 and token.upper() != token else _WORD
  return {'.': _DOT, '!': _MARK, '?': _MARK}.get(token, _OTHER)


def begins_sentence(kinds: np.ndarray) -> np.ndarray:
  """Where a token follows on the end of a sentence.

  That is behind '.', '!' or '?', where a word begins that is no number ('3.5',
  'No. 12'), and unless one letter and '.' stand before it ('J. Smith', 'U.S.
  law', 'e.g. this'). Other abbreviations ('Dr. Smith', 'etc. and') do end a
  sentence, as do the dots of 'example.com', for tokens do not tell spaces; a
  sentence that ends in one letter ('vitamin C.'), or in a quotation mark or a
  bracket behind its dot, goes on into the next one.

  Args:
    kinds: `[..., n]` uint8, of tokens that stand side by side.

  Returns:
    `[..., n]` bool; the first token is never one.
  """
  found = np.zeros(kinds.shape, bool)
  before, after = kinds[..., :-1], kinds[..., 1:]
  ends = (before == _DOT) | (before == _MARK)
  ends[..., 1:] &= (kinds[..., :-2] != _LETTER) | (before[..., 1:] == _MARK)
  found[..., 1:] = ends & ((after == _WORD) | (after == _LETTER))
  return found


def sentence_starts(documents: Tokens, kinds: np.ndarray) -> Ragged:
  """Where sentences of all contents begin, see `begins_sentence`.

  Args:
    documents: read some at a time; 4 bytes a sentence are kept.
    kinds: `[vocab_size]`, of `token_kinds`.

  Returns:
    row `d` holds int32 places within row `d` of `documents.ids`, ascending,
    the first where the content begins; none where there is no content.
  """
  offsets, title_sizes = documents.ids.offsets, documents.title_sizes
  places, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
  for start in range(0, len(title_sizes), _BLOCK):
    stop = min(start + _BLOCK, len(title_sizes))
    offset = offsets[start : stop + 1] - offsets[start]
    content = offset[:-1] + title_sizes[start:stop]
    kind = kinds[documents.ids.values[offsets[start] : offsets[stop]]]
    kind[~_inside(content, offset[1:], len(kind))] = _OTHER
    first = content[content < offset[1:]]
    kind[first[kind[first] >= _DOT]] = _OTHER  # nothing has ended yet
    begins = begins_sentence(kind)
    begins[first] = True
    found = np.flatnonzero(begins)
    edges = np.searchsorted(found, offset)
    counts.append(np.diff(edges))
    places.append((found - np.repeat(offset[:-1], counts[-1])).astype(np.int32))
  ends = np.cumsum(np.concatenate(counts))
  return Ragged(np.concatenate(places), np.concatenate([[0], ends]))


def _inside(starts: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
  """`[size]` bool, what lies in one of the spans, or in several."""
  change = np.bincount(starts, minlength=size + 1)
  change -= np.bincount(ends, minlength=size + 1)
  return np.cumsum(change[:size]) > 0


def title_occurrences(
  contents: np.ndarray, sizes: np.ndarray, titles: Ragged, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where titles stand in contents, as whole words.

  Spelled by the same tokens, that is: a tokenizer that lower-cases finds them
  in either case. They may overlap.

  Args:
    contents: `[batch, width]` token ids, padded with anything.
    sizes: `[batch]` tokens of each.
    titles: `batch` rows of token ids; an empty one occurs nowhere.
    kinds: `[vocab_size]`, of `token_kinds`.

  Returns:
    `[n]` rows, `[n]` first columns and `[n]` columns behind the last.
  """
  lengths = titles.lengths
  width = contents.shape[1]
  first = np.full(len(contents), -1, np.int64)
  some = lengths > 0
  first[some] = titles.values[titles.offsets[:-1][some]]
  fits = np.arange(width)[None, :] + lengths[:, None] <= sizes[:, None]
  row, start = np.nonzero((contents == first[:, None]) & fits)
  # Few are left, so the titles are laid beside each of them.
  step = np.arange(lengths.max(initial=0))[None, :]
  inside = step < lengths[row][:, None]  # [candidates, longest title]
  theirs = np.where(inside, titles.offsets[:-1][row][:, None] + step, 0)
  mine = np.where(inside, start[:, None] + step, 0)
  same = titles.values[theirs] == contents[row[:, None], mine]
  end = start + lengths[row]
  after = np.minimum(end, width - 1)
  goes_on = (kinds[contents[row, after]] == _REST) & (end < sizes[row])
  found = (same | ~inside).all(axis=1) & ~goes_on
  return row[found], start[found], end[found]
