"""Documents and labels on disk, read by index, and the texts made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import hashlib

import numpy as np

from lmtx_jax.config import TextConfig
from lmtx_jax.types import Ragged, Record

_BLOCK = 1024  # records read at a time when a whole corpus is passed over


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The documents of a split, or the label set: random access, never a list.

  Attributes:
    name: 'train', 'dev', 'test' or 'label'.
    fingerprint: hex digest of the content and the order of the records.
    source: anything with `__getitems__(list of int) -> list of dict` of
      uid, title and content (bytes or str), as a TFDS data source has.
    rows: `[num_records]` int64, where in `source` each record lies.
    targets: row `i` holds the true labels (int32) of record `i`; often empty.
    filters: row `i` holds the labels that record `i` must never be given.
  """

  name: str
  fingerprint: str
  source: Sequence
  rows: np.ndarray
  targets: Ragged
  filters: Ragged

  def __len__(self) -> int:
    return len(self.rows)

  def records(self, indices: Sequence[int]) -> list[Record]:
    """Reads records, in the order of `indices`."""
    rows = self.rows[np.asarray(indices, np.int64)]
    if not len(rows):
      return []
    return [
      Record(*(_to_str(item[key]) for key in Record._fields))
      for item in self.source.__getitems__(rows.tolist())
    ]

  def take(self, rows: np.ndarray, name: str | None = None) -> Corpus:
    """A part of the corpus, in the order of `rows`."""
    rows = np.asarray(rows, np.int64)
    digest = hashlib.sha256(self.fingerprint.encode() + rows.tobytes())
    return Corpus(
      name or self.name,
      digest.hexdigest(),
      self.source,
      self.rows[rows],
      self.targets.take(rows),
      self.filters.take(rows),
    )


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A label set and the documents to tag with it.

  Attributes:
    name: what to call it in a report.
    train: documents to train on; their targets are truth for measuring only.
    test: held-out documents with truth.
    labels: the label set; a label's index is its row.
    propensity: constants A and B of the propensity-scored metrics.
  """

  name: str
  train: Corpus
  test: Corpus
  labels: Corpus
  propensity: tuple[float, float] = (0.55, 1.5)

  @property
  def fingerprint(self) -> str:
    """Hex digest of all three corpora."""
    parts = (self.train, self.test, self.labels)
    text = ' '.join(part.fingerprint for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


class Texts:
  """The texts of a corpus, as the encoder or the teacher reads them."""

  def __init__(self, corpus: Corpus, compose: Callable[[Record], str]):
    self.corpus = corpus
    self.compose = compose

  def __len__(self) -> int:
    return len(self.corpus)

  def get(self, indices: Sequence[int]) -> list[str]:
    """Texts in the order of `indices`."""
    return [self.compose(record) for record in self.corpus.records(indices)]

  def blocks(self, size: int = _BLOCK) -> Iterator[list[str]]:
    """All texts in order, `size` at a time."""
    for start in range(0, len(self), size):
      yield self.get(range(start, min(start + size, len(self))))

  @functools.cached_property
  def digests(self) -> np.ndarray:
    """`[num_records]` V16, a 128-bit digest of each text."""
    out = np.empty(len(self), 'V16')
    for start, block in self._numbered_blocks():
      digests = [
        hashlib.blake2b(text.encode(), digest_size=16).digest()
        for text in block
      ]
      out[start : start + len(block)] = np.frombuffer(b''.join(digests), 'V16')
    return out

  @functools.cached_property
  def is_empty(self) -> np.ndarray:
    """`[num_records]` bool, texts of nothing but white space."""
    out = np.empty(len(self), bool)
    for start, block in self._numbered_blocks():
      out[start : start + len(block)] = [not text.strip() for text in block]
    return out

  def _numbered_blocks(self) -> Iterator[tuple[int, list[str]]]:
    return zip(range(0, len(self), _BLOCK), self.blocks(_BLOCK), strict=True)


def document_texts(corpus: Corpus, config: TextConfig) -> Texts:
  """Documents as title TAB content, or as content alone."""
  return Texts(
    corpus,
    functools.partial(document_text, encode_title=config.encode_title),
  )


def label_texts(corpus: Corpus, config: TextConfig) -> Texts:
  """Labels as title, or as title TAB content."""
  return Texts(
    corpus, functools.partial(label_text, label_text=config.label_text)
  )


def document_text(record: Record, encode_title: bool) -> str:
  """One document as one text; a part that is empty leaves no TAB."""
  parts = (record.title, record.content) if encode_title else (record.content,)
  return '\t'.join(part for part in parts if part.strip())


def label_text(record: Record, label_text: str) -> str:
  """One label as one text."""
  return document_text(
    record if label_text == 'title_content' else record._replace(content=''),
    encode_title=True,
  )


def _to_str(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else value
