"""The bundle: one folder with all that tagging needs, and no pickle.

It is a sentence-transformers model, so other programs load it too, with the
label set, its embeddings and the index beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from lmtx_jax import __version__
from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus
from lmtx_jax.data.tokens import TokenView, tokenize_texts
from lmtx_jax.embeddings import copy_embeddings, open_embeddings
from lmtx_jax.encode import Encoder
from lmtx_jax.files import read_json, staged, write_json
from lmtx_jax.label_file import LabelFile, write_labels
from lmtx_jax.mips import ExactIndex, MipsIndex, ScannIndex
from lmtx_jax.model import pretrained as pretrained_lib
from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.scann_index import BRUTE_FORCE_BELOW, is_installed, write_index
from lmtx_jax.shortlist import tag_documents
from lmtx_jax.types import Ragged, Record, Shortlist, UserError

FORMAT = 2  # raised when a bundle changes so that old programs misread it
_NEEDED = (
  'num_labels',
  'dim',
  'encode_title',
  'label_text',
  'max_doc_tokens',
  'doc_widths',
  'compute_dtype',
)


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
    label_embeddings: `[num_labels, dim]` f32 or bf16, memory-mapped or not.
    index: of those embeddings; an exact one says nothing, so that a large
      label set gets one of ScaNN's here, for machines without accelerator.
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
    write_labels(os.path.join(temporary, 'labels.jsonl'), labels)
    copy_embeddings(
      label_embeddings, os.path.join(temporary, 'label_embeddings.npy')
    )
    scann = os.path.join(temporary, 'scann')
    if isinstance(index, ScannIndex):
      index.save(scann)
    elif len(labels) >= BRUTE_FORCE_BELOW and is_installed():
      write_index(scann, label_embeddings)
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


class Bundle:
  """A trained tagger, ready to tag."""

  def __init__(self, folder: str, batch_tokens: int = 0):
    """Opens a bundle.

    Args:
      folder: what `export` wrote.
      batch_tokens: tokens in one batch of the encoder on one device; 0: as many
        as suit it.

    Raises:
      UserError: a folder that is no bundle, a newer one, or a broken one.
    """
    self.about = _read_about(folder)
    self.text = TextConfig(self.about['encode_title'], self.about['label_text'])
    self.max_doc_tokens = self.about['max_doc_tokens']
    self.doc_widths = np.array(self.about['doc_widths'], np.int64)
    self._pretrained = pretrained_lib.load(folder, self.about['compute_dtype'])
    self.label_embeddings = self._open_embeddings(folder)
    self.labels = LabelFile(
      os.path.join(folder, 'labels.jsonl'), self.about['num_labels']
    )
    self.index = self._open_index(os.path.join(folder, 'scann'))
    self.encoder = Encoder(
      self._pretrained.encoder, self._pretrained.params, batch_tokens
    )

  def _open_embeddings(self, folder: str) -> np.ndarray:
    path = os.path.join(folder, 'label_embeddings.npy')
    array = open_embeddings(path)
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
    if os.path.isdir(folder) and is_installed():
      return ScannIndex.load(folder, self.about['num_labels'])
    return ExactIndex(self.label_embeddings)

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
    used = np.unique(tags.labels[tags.labels >= 0])
    names = dict(zip(used.tolist(), self.labels.get(used), strict=True))
    return [
      {
        'uid': record.uid,
        'labels': [
          {
            **names[label]._asdict(),
            'score': round(float(score), 6),
          }
          for label, score in zip(labels.tolist(), scores, strict=True)
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
