"""Tokenizers: load, save, and a WordPiece vocabulary from texts."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
import itertools
import os
from typing import TYPE_CHECKING

import tokenizers

from lmtx_jax.model.json_files import read_json, write_json
from lmtx_jax.types import UserError

if TYPE_CHECKING:  # slow to import
  from transformers import PreTrainedTokenizerFast

FRAME = {
  'pad_token': '[PAD]',
  'unk_token': '[UNK]',
  'cls_token': '[CLS]',
  'sep_token': '[SEP]',
}
_SPECIAL = {**FRAME, 'mask_token': '[MASK]'}
_INPUTS = ['input_ids', 'attention_mask']  # what DistilBERT reads
_ALPHABET = 1000  # characters of a new vocabulary at most
# What a tokenizer notes about the machine or the last call, not about itself.
_TRANSIENT = (
  'name_or_path',
  'is_local',
  'local_files_only',
  'max_length',
  'pad_to_multiple_of',
  'stride',
  'truncation_side',
  'truncation_strategy',
)


def load_tokenizer(folder: str) -> PreTrainedTokenizerFast:
  """Reads the tokenizer of a folder, set to neither pad nor truncate.

  Raises:
    UserError: there is none, or no fast one.
  """
  from transformers import AutoTokenizer

  try:
    tokenizer = AutoTokenizer.from_pretrained(folder)
  except Exception as e:  # the Rust reader raises a bare Exception
    reason = ' '.join(f'{type(e).__name__}: {e}'.split())
    raise UserError(f'{folder}: the tokenizer does not load: {reason}') from e
  if not tokenizer.is_fast:
    raise UserError(f'{folder}: there is no fast tokenizer (tokenizer.json)')
  # Some files carry the length of their last use.
  tokenizer.backend_tokenizer.no_truncation()
  tokenizer.backend_tokenizer.no_padding()
  return tokenizer


def save_tokenizer(
  tokenizer: PreTrainedTokenizerFast,
  folder: str,
  max_seq_length: int,
  *,
  truncation: int = 0,
) -> None:
  """Writes a tokenizer into a folder, without a trace of where it was.

  Args:
    tokenizer: what to write.
    folder: exists.
    max_seq_length: tokens, where others will cut a text.
    truncation: tokens, where the tokenizer itself will; 0: it will not.
  """
  tokenizer.save_pretrained(folder)
  config = read_json(os.path.join(folder, 'tokenizer_config.json'))
  config = {k: v for k, v in config.items() if k not in _TRANSIENT}
  config['model_max_length'] = max_seq_length
  if config['tokenizer_class'] == 'TokenizersBackend':
    # The name that older versions of transformers know it by, too.
    config['tokenizer_class'] = 'PreTrainedTokenizerFast'
  write_json(config, folder, 'tokenizer_config.json')
  write_json(
    dict(tokenizer.special_tokens_map), folder, 'special_tokens_map.json'
  )
  backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
  backend.no_truncation()
  backend.no_padding()
  if truncation:
    backend.enable_truncation(truncation)
  backend.save(os.path.join(folder, 'tokenizer.json'))


def word_level(
  words: Iterable[str], *, lowercase: bool
) -> PreTrainedTokenizerFast:
  """A tokenizer of whole words, which BERT's rules cut a text into.

  Args:
    words: the vocabulary, numbered from `len(FRAME)` on; those before are
      `FRAME`, the special ones.
    lowercase: a text's capital letters are made small.
  """
  vocab = {word: i for i, word in enumerate((*FRAME.values(), *words))}
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocab, unk_token=FRAME['unk_token'])
  )
  backend.normalizer = tokenizers.normalizers.BertNormalizer(
    handle_chinese_chars=False, strip_accents=False, lowercase=lowercase
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  backend.post_processor = _framing(vocab)
  return _wrapped(backend, FRAME)


def _wrapped(
  backend: tokenizers.Tokenizer, special: Mapping[str, str]
) -> PreTrainedTokenizerFast:
  from transformers import PreTrainedTokenizerFast

  return PreTrainedTokenizerFast(
    tokenizer_object=backend, model_input_names=_INPUTS, **special
  )


def _framing(vocab: Mapping[str, int]) -> tokenizers.processors.PostProcessor:
  """BERT's special words around a text, and between two."""
  return tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    pair='[CLS] $A [SEP] $B [SEP]',
    special_tokens=[(word, vocab[word]) for word in ('[CLS]', '[SEP]')],
  )


def train_word_piece(
  texts: Iterable[str], vocab_size: int
) -> PreTrainedTokenizerFast:
  """BERT's lower-casing tokenizer with a vocabulary of these texts.

  The trainer numbers pieces as its hash maps happen to lie, and its ties fall
  by number; so all characters are numbered before it starts.
  """
  normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  texts = [normalizer.normalize_str(text) for text in texts]
  counts = collections.Counter(itertools.chain.from_iterable(texts))
  counts.pop(' ', None)
  by_count = sorted(counts, key=lambda char: (-counts[char], char))
  alphabet = sorted(by_count[: min(_ALPHABET, vocab_size // 4)])
  learner = tokenizers.Tokenizer(tokenizers.models.WordPiece())
  learner.pre_tokenizer = pre_tokenizer
  trainer = tokenizers.trainers.WordPieceTrainer(
    vocab_size=vocab_size,
    special_tokens=[*_SPECIAL.values(), *(f'##{char}' for char in alphabet)],
    initial_alphabet=alphabet,
    limit_alphabet=len(alphabet),
    show_progress=False,
  )
  learner.train_from_iterator(texts, trainer)

  vocab = learner.get_vocab()
  unknown = _SPECIAL['unk_token']
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(vocab, unk_token=unknown)
  )
  backend.normalizer = normalizer
  backend.pre_tokenizer = pre_tokenizer
  backend.decoder = tokenizers.decoders.WordPiece()
  backend.post_processor = _framing(vocab)
  return _wrapped(backend, _SPECIAL)
