"""The bundle: one folder with all that tagging needs, and no pickle.

It is a sentence-transformers model, so other programs load it too, with the
label set, its embeddings and the index beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
import os
from typing import Any

import numpy as np

from lmtx_jax import __version__
from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus
from lmtx_jax.data.tokens import TokenView, tokenize_texts
from lmtx_jax.encode import Encoder
from lmtx_jax.mips import ExactIndex, MipsIndex, ScannIndex, choose_index
from lmtx_jax.model import pretrained as pretrained_lib
from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.run_dir import read_json, staged, write_json
from lmtx_jax.shortlist import tag_documents
from lmtx_jax.types import Ragged, Record, Shortlist, UserError

FORMAT = 1  # raised when a bundle changes so that old programs misread it
_NEEDED = (
  'num_labels',
  'dim',
  'encode_title',
  'label_text',
  'max_doc_tokens',
  'doc_widths',
  'compute_dtype',
)
_BLOCK = 4096  # labels written at a time


def export(
  folder: str,
  pretrained: Pretrained,
  params: Any,
  labels: Corpus,
  label_embeddings: np.ndarray,
  index: MipsIndex,
  *,
  text: TextConfig,
  max_doc_tokens: int,
  max_label_tokens: int,
  doc_widths: np.ndarray,
  about: dict[str, Any],
) -> None:
  """Writes a bundle; it appears whole, or not at all.

  Args:
    folder: where.
    pretrained: encoder and tokenizer.
    params: the trained parameters, on the host.
    labels: the label set.
    label_embeddings: `[num_labels, dim]` f32.
    index: of those embeddings.
    text: how records become texts.
    max_doc_tokens: longest document that is embedded.
    max_label_tokens: longest label that is embedded.
    doc_widths: lengths to pad documents to, ascending.
    about: dataset, scores and flags, for people.
  """
  with staged(folder) as temporary:
    pretrained_lib.save(
      temporary, pretrained, params, max_seq_length=max_doc_tokens
    )
    with open(
      os.path.join(temporary, 'labels.jsonl'), 'w', encoding='utf-8'
    ) as f:
      for label in _all_records(labels):
        row = {'uid': label.uid, 'title': label.title}
        f.write(json.dumps(row, ensure_ascii=False) + '\n')
    out = np.lib.format.open_memmap(
      os.path.join(temporary, 'label_embeddings.npy'),
      'w+',
      np.float32,
      label_embeddings.shape,
    )
    out[:] = label_embeddings
    out.flush()
    if isinstance(index, ScannIndex):
      index.save(os.path.join(temporary, 'scann'))
    write_json(
      os.path.join(temporary, 'lmtx.json'),
      {
        'format': FORMAT,
        'version': __version__,
        'num_labels': len(labels),
        'dim': int(label_embeddings.shape[1]),
        'encode_title': text.encode_title,
        'label_text': text.label_text,
        'max_doc_tokens': max_doc_tokens,
        'max_label_tokens': max_label_tokens,
        'doc_widths': np.asarray(doc_widths).tolist(),
        'compute_dtype': pretrained.encoder.dtype,
        **about,
      },
    )


def _all_records(corpus: Corpus) -> Iterator[Record]:
  for start in range(0, len(corpus), _BLOCK):
    yield from corpus.records(range(start, min(start + _BLOCK, len(corpus))))


class Bundle:
  """A trained tagger, ready to tag."""

  def __init__(self, folder: str, batch_tokens: int = 16384):
    """Opens a bundle.

    Args:
      folder: what `export` wrote.
      batch_tokens: tokens in one batch of the encoder on one device.

    Raises:
      UserError: a folder that is no bundle, a newer one, or a broken one.
    """
    self.about = _read_about(folder)
    self.text = TextConfig(self.about['encode_title'], self.about['label_text'])
    self.max_doc_tokens = self.about['max_doc_tokens']
    self.doc_widths = np.array(self.about['doc_widths'], np.int64)
    self._pretrained = pretrained_lib.load(folder, self.about['compute_dtype'])
    self.label_embeddings = self._open_embeddings(folder)
    self.label_uids, self.label_titles = _read_labels(
      os.path.join(folder, 'labels.jsonl'), self.about['num_labels']
    )
    self.index = self._open_index(os.path.join(folder, 'scann'))
    self.encoder = Encoder(
      self._pretrained.encoder, self._pretrained.params, batch_tokens
    )

  def _open_embeddings(self, folder: str) -> np.ndarray:
    path = os.path.join(folder, 'label_embeddings.npy')
    try:
      array = np.load(path, mmap_mode='r', allow_pickle=False)
    except (ValueError, EOFError) as e:
      raise UserError(f'{path} is not a whole array: {e}') from e
    expected = (self.about['num_labels'], self.about['dim'])
    if array.shape != expected:
      raise UserError(f'{path} has shape {array.shape}, not {expected}')
    if self._pretrained.encoder.dim != self.about['dim']:
      raise UserError(
        f'{folder}: the encoder has {self._pretrained.encoder.dim} dimensions,'
        f' the label embeddings {self.about["dim"]}'
      )
    return array

  def _open_index(self, folder: str) -> MipsIndex:
    if not os.path.isdir(folder) or choose_index('auto') == 'exact':
      return ExactIndex(self.label_embeddings)
    ids = os.path.join(folder, 'scann_docids.pkl')
    if os.path.exists(ids):  # ScaNN would load it, and it could do anything
      raise UserError(f'{ids} is a pickle, which no bundle has; delete it')
    try:
      return ScannIndex.load(folder, self.about['num_labels'])
    except (RuntimeError, ValueError) as e:
      raise UserError(f'{folder} is not a whole ScaNN index: {e}') from e

  @property
  def tokenizer(self) -> Any:
    """The encoder's tokenizer."""
    return self._pretrained.tokenizer

  def inputs(self, records: Sequence[Record]) -> TokenView:
    """Tokenises documents as in training."""
    tokens = tokenize_texts(
      [record.title for record in records],
      [record.content for record in records],
      self.tokenizer,
      self.max_doc_tokens,
    )
    return tokens.view(self.max_doc_tokens, title=self.text.encode_title)

  def tag(self, records: Sequence[Record], top_k: int) -> Shortlist:
    """The labels of a few documents, best first."""
    inputs = self.inputs(records)
    return tag_documents(
      self.encoder,
      self.index,
      inputs,
      self.doc_widths,
      Ragged.from_rows([[] for _ in records]),
      top_k,
    )

  def predictions(
    self, records: Sequence[Record], top_k: int
  ) -> list[dict[str, Any]]:
    """Predictions `{"uid", "labels": [{"uid", "title", "score"}]}`."""
    tags = self.tag(records, top_k)
    return [
      {
        'uid': record.uid,
        'labels': [
          {
            'uid': self.label_uids[label],
            'title': self.label_titles[label],
            'score': round(float(score), 6),
          }
          for label, score in zip(labels, scores, strict=True)
          if label >= 0
        ],
      }
      for record, labels, scores in zip(
        records, tags.labels, tags.scores, strict=True
      )
    ]


def _read_about(folder: str) -> dict[str, Any]:
  path = os.path.join(folder, 'lmtx.json')
  if not os.path.exists(path):
    raise UserError(f'--bundle={folder} is not a bundle: no lmtx.json in it')
  try:
    about = read_json(path)
    if about['format'] > FORMAT:
      raise UserError(
        f'{folder} was made by lmtx_jax {about["version"]}, newer than this'
        f' {__version__}; update lmtx_jax'
      )
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f'{path} is not what a bundle has there: {e}') from e
  if missing := [key for key in _NEEDED if key not in about]:
    raise UserError(f'{path} lacks {missing[0]!r}')
  return about


def _read_labels(path: str, num_labels: int) -> tuple[list[str], list[str]]:
  uids, titles = [], []
  with open(path, encoding='utf-8') as f:
    for number, line in enumerate(f, 1):
      try:
        row = json.loads(line)
        uids.append(row['uid'])
        titles.append(row['title'])
      except (ValueError, KeyError, TypeError) as e:
        raise UserError(f'{path}:{number}: not a label: {e}') from e
  if len(uids) != num_labels:
    raise UserError(f'{path} has {len(uids)} labels, not {num_labels}')
  return uids, titles
