"""The embedded teacher: judges by the words and letters that texts share.

It knows no language, only five observations of a document and a label, each
from 0 to 1. A text is read as title TAB content; the last word of a title is
its name and what stands before it is its family ("numpy.linalg." and "eigh").

- named in it: the label's name stands in the document, weighted by how rare
  that word is (its idf);
- covered: share of the label's words, weighted by idf, that stand in the
  document;
- alike: cosine of the label and the document's head (title and first
  sentence) as TF-IDF vectors of character 3- to 5-grams, which see through
  inflections and compounds without a stemmer;
- spelled alike: the same cosine of the two names;
- siblings: the titles have the same, non-empty family.

None decides alone (a plain threshold on the words covered is right once in
four on scipy_see_also), together they do: the score is their weighted mean,
and the verdict is yes where it passes `--lexical_threshold`. The weights are
the coefficients of a logistic regression on training pairs of scipy_see_also,
rounded and put in scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import hashlib
import json
import re

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from lmtx_jax.config import TeacherConfig
from lmtx_jax.data.corpus import Texts
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.types import NO, YES, Verdicts

_VERSION = 1  # of the score; verdicts of other versions are not mixed in
_WEIGHTS = {
  'named': 1.0,
  'covered': 1.0,
  'alike': 1.5,
  'spelled': 1.5,
  'sibling': 2.0,
}
_CHUNK = 4096  # pairs answered at a time
_NUM_BUCKETS = 2**20  # words and n-grams are hashed: no vocabulary in memory
_HASHING = dict(
  n_features=_NUM_BUCKETS,
  norm=None,
  alternate_sign=False,
  dtype=np.float32,
)
_WORDS = HashingVectorizer(token_pattern=r'\w+', binary=True, **_HASHING)
_NGRAMS = HashingVectorizer(analyzer='char_wb', ngram_range=(3, 5), **_HASHING)
_NAME = re.compile(r'\w+(?=\W*$)')
_SENTENCE_END = re.compile(r'[.!?]\s|\n\s*\n')


class LexicalTeacher:
  """Says yes to labels that the document's words and letters speak for."""

  yes_threshold = None

  def __init__(
    self, config: TeacherConfig, documents: Sequence[Texts], labels: Texts
  ):
    """Takes the flags and the texts in which words are counted."""
    self._threshold = config.lexical_threshold
    self._prompt = prompts.TEMPLATES[config.prompt]
    self._documents, self._labels = documents, labels

  @functools.cached_property
  def _idf(self) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the words and of the n-grams, each `[_NUM_BUCKETS]` float32.

    From 0 (in every text) to 1 (in none): log((N + 1) / (df + 1)) / log(N + 1).
    """
    num_texts = len(self._labels) + sum(map(len, self._documents))
    counts = np.zeros((2, _NUM_BUCKETS), np.int64)
    for texts in (*self._documents, self._labels):
      for block in texts.blocks():
        heads = [_head(text) for text in block]
        for count, matrix in zip(
          counts,
          (_WORDS.transform(block), _NGRAMS.transform(heads)),
          strict=True,
        ):
          count += np.bincount(matrix.indices, minlength=_NUM_BUCKETS)
    idf = 1 - np.log(counts + 1) / np.log(num_texts + 1)
    words, ngrams = np.maximum(idf, 0).astype(np.float32)
    return words, ngrams

  @functools.cached_property
  def identity(self) -> str:
    """Names the score, its threshold and a digest of the word weights."""
    digest = hashlib.sha256()
    for weights in self._idf:
      digest.update(weights.astype('<f4').tobytes())
    return json.dumps(
      {
        'teacher': 'lexical',
        'version': _VERSION,
        'threshold': self._threshold,
        'idf': digest.hexdigest(),
        'prompt': self._prompt,
      },
      sort_keys=True,
    )

  def usage(self) -> dict[str, float]:
    """Asking costs nothing."""
    return {}

  def judge(self, pairs: Pairs) -> Iterator[tuple[np.ndarray, Verdicts]]:
    """See `Teacher.judge`."""
    for start in range(0, len(pairs), _CHUNK):
      part = pairs.take(slice(start, start + _CHUNK))
      score = self.scores(part)
      yes = score > self._threshold
      # Odds of score to threshold: above one half exactly where it is passed.
      p_yes = score / np.maximum(score + self._threshold, 1e-9)
      yield (
        np.arange(start, start + len(part)),
        Verdicts(
          np.where(yes, YES, NO).astype(np.int8), p_yes.astype(np.float32)
        ),
      )

  def scores(self, pairs: Pairs) -> np.ndarray:
    """`[num_pairs]` float64 in [0, 1], the weighted mean of what was seen."""
    seen = self.observe(pairs)
    total = sum(weight * seen[name] for name, weight in _WEIGHTS.items())
    return total / sum(_WEIGHTS.values())

  def observe(self, pairs: Pairs) -> dict[str, np.ndarray]:
    """The five observations, each `[num_pairs]` float64 in [0, 1]."""
    word_idf, ngram_idf = self._idf
    doc_rows, doc = np.unique(pairs.doc_index, return_inverse=True)
    label_rows, label = np.unique(pairs.label_index, return_inverse=True)
    doc_texts = pairs.documents.get(doc_rows)
    label_texts = pairs.labels.get(label_rows)
    family_ids = {'': 0}
    doc_families, doc_names = _split_titles(doc_texts, family_ids)
    label_families, label_names = _split_titles(label_texts, family_ids)

    doc_words = _WORDS.transform(doc_texts)
    label_words = _WORDS.transform(label_texts)
    shared = doc_words[doc].multiply(label_words[label]) @ word_idf
    named = doc_words[doc].multiply(_WORDS.transform(label_names)[label])

    def cosine(doc_parts: list[str], label_parts: list[str]) -> np.ndarray:
      docs, labels = (
        _tf_idf(doc_parts, ngram_idf),
        _tf_idf(label_parts, ngram_idf),
      )
      return np.asarray(docs[doc].multiply(labels[label]).sum(axis=1)).ravel()

    return {
      'named': named @ word_idf,
      'covered': shared / np.maximum(label_words @ word_idf, 1e-9)[label],
      'alike': cosine(
        [_head(text) for text in doc_texts],
        [text.replace('\t', ' ') for text in label_texts],
      ),
      'spelled': cosine(doc_names, label_names),
      'sibling': (doc_families[doc] == label_families[label])
      & (label_families[label] > 0),
    }


def _tf_idf(texts: list[str], idf: np.ndarray) -> sp.csr_matrix:
  """`[num_texts, _NUM_BUCKETS]` float32 n-gram vectors of unit length."""
  counts = _NGRAMS.transform(texts)
  counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
  return normalize(counts, copy=False)


def _head(text: str) -> str:
  """The title and the first sentence of the content."""
  title, _, content = text.partition('\t')
  return f'{title} {_SENTENCE_END.split(content.strip(), maxsplit=1)[0]}'


def _split_titles(
  texts: list[str], family_ids: dict[str, int]
) -> tuple[np.ndarray, list[str]]:
  """Families (`[num_texts]` int64, 0 for none) and names of texts' titles.

  Args:
    texts: documents or labels.
    family_ids: numbers of the families met so far; new ones are added.
  """
  families, names = [], []
  for text in texts:
    title = text.partition('\t')[0].lower()
    match = _NAME.search(title)
    family = title[: match.start()] if match else ''
    families.append(family_ids.setdefault(family, len(family_ids)))
    names.append(match.group() if match else '')
  return np.array(families, np.int64), names
