"""A made task that a tiny encoder learns in seconds."""

from typing import NamedTuple

import jax
import numpy as np

from lmtx_jax.data.tokens import Special, TokenView
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.transformer import TransformerConfig
from lmtx_jax.types import Ragged

SPECIAL = Special(first=1, last=2, pad=0)
_NUM_LABELS, _NOISE = 24, 20


class Task(NamedTuple):
  """Documents that name their labels among noise, in words of their own."""

  documents: TokenView
  labels: TokenView
  accepted: Ragged
  label_key: np.ndarray


def view(rows, special=SPECIAL) -> TokenView:
  ragged = Ragged.from_rows(rows)
  return TokenView(ragged.values, ragged.offsets[:-1], ragged.lengths, special)


def make_task(num_docs: int, seed: int = 0, longest_label: int = 2) -> Task:
  """Labels 0 and 1 have the same text; documents have 1 or 2 labels.

  Labels have 2 to `longest_label` words, of which two are different.
  """
  draw = np.random.RandomState(seed)
  sizes = np.linspace(2, longest_label, _NUM_LABELS).astype(int)
  labels = [
    np.resize([10 + 2 * i, 11 + 2 * i], size) for i, size in enumerate(sizes)
  ]
  labels[1] = labels[0]
  key = np.arange(_NUM_LABELS, dtype=np.int32)
  key[1] = 0
  first_word = 10 + 2 * _NUM_LABELS
  documents, accepted = [], []
  for _ in range(num_docs):
    own = draw.choice(_NUM_LABELS, draw.randint(1, 3), replace=False)
    noise = draw.randint(first_word + _NUM_LABELS, vocab_size(), 3)
    # As long as all others, so that one shape is compiled.
    words = [*noise, *np.resize(first_word + key[own], 4)]
    documents.append(draw.permutation(words))
    accepted.append(own)
  return Task(view(documents), view(labels), Ragged.from_rows(accepted), key)


def make_rejected(task: Task, seed: int = 0) -> Ragged:
  """Up to 3 labels that a document does not have; none of every fourth."""
  draw = np.random.RandomState(seed)
  rows = []
  for d, accepted in enumerate(task.accepted):
    keys = task.label_key[accepted]
    wrong = np.flatnonzero(~np.isin(task.label_key, keys))
    rows.append(draw.permutation(wrong)[: d % 4])
  return Ragged.from_rows(rows)


def with_texts_again(batch, num_labels: int):
  """A batch whose extra passages are its queries, then its first passages."""
  ids = [batch['query_ids'], batch['passage_ids'][:num_labels]]
  width = max(part.shape[1] for part in ids)
  ids = [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in ids]
  lengths = [batch['query_lengths'], batch['passage_lengths'][:num_labels]]
  extra = {
    'extra_ids': np.concatenate(ids),
    'extra_lengths': np.concatenate(lengths),
  }
  assert len(extra['extra_ids']) == len(batch['query_ids']) + num_labels
  key = 1000 + np.arange(len(extra['extra_lengths']), dtype=np.int32)
  return {**batch, **extra, 'extra_key': key}


def vocab_size() -> int:
  return 10 + 3 * _NUM_LABELS + _NOISE


def tiny_encoder(dropout: float = 0.0, init_std: float = 0.1) -> BiEncoder:
  return BiEncoder(
    TransformerConfig(
      num_layers=1,
      dim=32,
      num_heads=2,
      ffn_dim=64,
      vocab_size=vocab_size(),
      max_positions=32,
      dropout=dropout,
      attention_dropout=dropout,
      init_std=init_std,
    )
  )


def start_params(encoder: BiEncoder):
  return jax.tree.map(np.asarray, encoder.init(jax.random.key(0)))
