"""Small corpora in memory and a teacher that counts what it is asked."""

import hashlib
import json

import numpy as np

from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus, document_texts, label_texts
from lmtx_jax.types import INVALID, NO, YES, Ragged, Record, Verdicts


class FakeSource(list):
  def __getitems__(self, indices):
    return [self[i]._asdict() for i in indices]


def fake_corpus(records, targets=()):
  records = [Record(*record) for record in records]
  empty = Ragged.from_rows([[]] * len(records))
  return Corpus(
    'fake',
    hashlib.sha256(repr(records).encode()).hexdigest(),
    FakeSource(records),
    np.arange(len(records)),
    Ragged.from_rows(targets) if len(targets) else empty,
    empty,
  )


def fake_documents(texts, targets=()):
  records = [(f'd{i}', '', text) for i, text in enumerate(texts)]
  return document_texts(fake_corpus(records, targets), TextConfig())


def fake_labels(texts):
  records = [(f'l{i}', text, '') for i, text in enumerate(texts)]
  return label_texts(fake_corpus(records), TextConfig())


class FakeTeacher:
  """Yes when the label's first character is in the document; '?' is invalid.

  p_yes is 0.8 for yes, 0.1 for no. If it counts tokens, a question has 10 of
  which 4 were cached.
  """

  def __init__(
    self,
    name='fake',
    chunk=3,
    silent_on='',
    reverse=False,
    yes_threshold=None,
    counts_tokens=False,
  ):
    self.identity = json.dumps({'teacher': name})
    self.yes_threshold = yes_threshold
    self.asked = []
    self._counts_tokens = counts_tokens
    self._chunk, self._silent_on, self._reverse = chunk, silent_on, reverse

  def usage(self):
    if not self._counts_tokens:
      return {}
    return {
      'prompt_tokens': 10 * len(self.asked),
      'cached_tokens': 4 * len(self.asked),
      'retries': 0,
    }

  def judge(self, pairs):
    positions = np.arange(len(pairs))
    if self._reverse:
      positions = positions[::-1]
    for start in range(0, len(pairs), self._chunk):
      part = positions[start : start + self._chunk]
      docs = pairs.documents.get(pairs.doc_index[part])
      labels = pairs.labels.get(pairs.label_index[part])
      keep, answers = [], []
      for position, doc, label in zip(part, docs, labels, strict=True):
        self.asked.append((doc, label))
        if label == self._silent_on:
          continue
        keep.append(position)
        yes = YES if label[0] in doc else NO
        answers.append(INVALID if label[0] == '?' else yes)
      answer = np.array(answers, np.int8)
      p_yes = np.where(answer == INVALID, np.nan, 0.1 + 0.7 * answer)
      yield np.array(keep, np.int64), Verdicts(answer, p_yes.astype('f4'))
