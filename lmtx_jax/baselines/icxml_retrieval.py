"""Short texts to the labels nearest to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lmtx_jax.data.tokens import tokenize_texts
from lmtx_jax.encode import Encoder
from lmtx_jax.mips import MipsIndex
from lmtx_jax.shortlist import tag_documents
from lmtx_jax.types import Ragged

# Texts and k to labels `[num_texts, k]` int32, best first, -1 where there are
# no more.
Retrieve = Callable[[list[str], int], np.ndarray]


def make_retrieve(
  encoder: Encoder,
  index: MipsIndex,
  tokenizer: Any,
  widths: np.ndarray,
  max_tokens: int,
) -> Retrieve:
  """Retrieval with the encoder that documents are embedded with.

  Args:
    encoder: of documents and labels alike.
    index: of the label embeddings.
    tokenizer: the encoder's.
    widths: lengths to pad to, ascending; the last is `max_tokens` at least.
    max_tokens: longest text that is embedded.
  """

  def retrieve(texts: list[str], k: int) -> np.ndarray:
    if not texts:
      return np.zeros((0, k), np.int32)
    tokens = tokenize_texts(texts, [''] * len(texts), tokenizer, max_tokens)
    nothing = Ragged.from_rows([[] for _ in texts])
    inputs = tokens.view(max_tokens)
    return tag_documents(encoder, index, inputs, widths, nothing, k).labels

  return retrieve
