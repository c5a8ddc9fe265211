"""Cosines of the words of two texts, slow and obvious."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import math
import re

from label_fixtures import label_corpus
import numpy as np

from lmtx_jax.data.corpus import Texts


def in_memory(texts: Sequence[str]) -> Texts:
  """Texts that are read as from a corpus."""
  return Texts(label_corpus([('', text) for text in texts]), lambda r: r.title)


class SlowWords:
  """TF-IDF of words; `counted` are the texts whose words were counted."""

  def __init__(self, counted: Sequence[str]):
    self._num_texts = len(counted)
    self._num_with = collections.Counter(
      word for text in counted for word in set(_words(text))
    )

  def cosines(self, docs: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """`[num_docs, num_labels]`, over the words that the labels have."""
    known = {word for label in labels for word in _words(label)}
    rows = [self._vector(doc, known) for doc in docs]
    columns = [self._vector(label, known) for label in labels]
    return np.array(
      [
        [sum(row[w] * column.get(w, 0) for w in row) for column in columns]
        for row in rows
      ]
    )

  def _vector(self, text: str, known: set[str]) -> dict[str, float]:
    weights = {
      word: (1 + math.log(count)) * self._idf(word)
      for word, count in collections.Counter(_words(text)).items()
      if word in known
    }
    norm = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {word: weight / norm for word, weight in weights.items()}

  def _idf(self, word: str) -> float:
    return 1 + math.log((1 + self._num_texts) / (1 + self._num_with[word]))


def _words(text: str) -> list[str]:
  return re.findall(r'\b\w\w+\b', text.lower())
