"""Digests of all texts of a corpus: made once, kept in a memory-mapped file."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from lmtx_jax.data.corpus import Texts
from lmtx_jax.files import locked, staged

_FORMAT = 1  # raised when the digest of a text changes


def keep_digests(texts: Texts, kind: str, cache_dir: str) -> None:
  """Has `texts.digests` read from a file, written by the first who asks.

  Millions of texts are then not read and hashed at each start.

  Args:
    texts: of a corpus.
    kind: names how the texts are composed of the records.
    cache_dir: folder for such files, shared by runs.
  """
  key = hashlib.sha256(
    f'{_FORMAT} {texts.corpus.fingerprint} {kind}'.encode()
  ).hexdigest()[:32]
  path = os.path.join(os.path.expanduser(cache_dir), 'digests', f'{key}.npy')
  if not os.path.exists(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with locked(f'{path}.lock'):
      if not os.path.exists(path):  # nobody was first
        with staged(path) as temporary:
          np.save(temporary, texts.digests)
  texts.digests = np.load(path, mmap_mode='r')
