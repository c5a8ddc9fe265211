"""The bundle: one folder with all that tagging needs, and no pickle.

It is a sentence-transformers model, so other programs load it too, with the
label set, its embeddings and the index beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import os
from typing import Any

import numpy as np
import scipy.sparse as sp

from lmtx_jax import __version__
from lmtx_jax.bundle_labels import (
  ABOUT,
  EMBEDDINGS,
  LABELS,
  SCANN,
  LabelState,
  bundle_format,
  open_labels,
  read_about,
  write_label_index,
)
from lmtx_jax.config import TextConfig
from lmtx_jax.data.batches import bucket_widths
from lmtx_jax.data.corpus import Corpus, document_text
from lmtx_jax.data.tokens import TextTokenizer, TokenView
from lmtx_jax.embeddings import copy_embeddings
from lmtx_jax.encode import Encoder
from lmtx_jax.files import staged, write_json
from lmtx_jax.fused_files import facts_of, write_documents, write_fused
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.label_file import LabelFile, write_labels
from lmtx_jax.mips import MipsIndex, ScannIndex
from lmtx_jax.model import pretrained as pretrained_lib
from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.model_card import write_card
from lmtx_jax.types import Record, Shortlist, UserError


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
  fused: FusedSearch | None = None,
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
    fused: of the labels, where more than embeddings is to count.
  """
  with staged(folder) as temporary:
    pretrained_lib.save(
      temporary, pretrained, params, max_seq_length=max_doc_tokens
    )
    write_labels(os.path.join(temporary, LABELS), labels)
    copy_embeddings(label_embeddings, os.path.join(temporary, EMBEDDINGS))
    kind = 'scann'
    if isinstance(index, ScannIndex):
      index.save(os.path.join(temporary, SCANN))
    else:
      kind = write_label_index(temporary, label_embeddings, index)
    facts = {
      'format': bundle_format(fused),
      'version': __version__,
      'num_labels': len(labels),
      'label_folder': '',
      'index': kind,
      'dim': int(label_embeddings.shape[1]),
      'encode_title': text.encode_title,
      'label_text': text.label_text,
      'max_doc_tokens': max_doc_tokens,
      'max_label_tokens': max_label_tokens,
      'doc_widths': np.asarray(doc_widths).tolist(),
      'compute_dtype': pretrained.encoder.dtype,
      **about,
    }
    if fused:
      write_fused(temporary, fused)
      write_documents(temporary, fused)
      facts |= facts_of(fused)
    write_card(temporary, facts)
    write_json(os.path.join(temporary, ABOUT), facts)


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
    about = read_about(folder)
    self.folder = folder
    self.text = TextConfig(about['encode_title'], about['label_text'])
    self.max_doc_tokens = about['max_doc_tokens']
    self.doc_widths = np.array(about['doc_widths'], np.int64)
    if self.doc_widths[-1] < self.max_doc_tokens:
      raise UserError(
        f'{folder}/{ABOUT}: doc_widths end below max_doc_tokens,'
        f' {self.max_doc_tokens}'
      )
    # Without it, means are taken, which may be another encoder.
    if not os.path.isfile(path := os.path.join(folder, 'modules.json')):
      raise UserError(f'{path}: no such file; the bundle is not whole')
    self._pretrained = pretrained_lib.load(folder, about['compute_dtype'])
    if self._pretrained.encoder.dim != about['dim']:
      raise UserError(
        f'{folder}: the encoder has {self._pretrained.encoder.dim} dimensions,'
        f' the label embeddings {about["dim"]}'
      )
    self.state = open_labels(folder)
    self.encoder = Encoder(
      self._pretrained.encoder, self._pretrained.params, batch_tokens
    )
    self._tokenize = TextTokenizer(self.tokenizer, self.max_doc_tokens)

  def reload(self) -> bool:
    """Takes labels that were changed since; returns whether they were.

    `state` is replaced by one assignment: whoever needs labels twice, to find
    and to name them, reads it once.

    Raises:
      UserError: the bundle is broken; it goes on with the labels it has.
    """
    now = read_about(self.folder).get('label_folder', '')
    if now == self.about.get('label_folder', ''):
      return False
    self.state = open_labels(self.folder)
    return True

  @property
  def about(self) -> dict[str, Any]:
    """What lmtx.json tells."""
    return self.state.about

  @property
  def labels(self) -> LabelFile:
    """Uids and titles."""
    return self.state.labels

  @property
  def label_embeddings(self) -> np.ndarray:
    """`[num_labels, dim]` f32 or bf16, memory-mapped."""
    return self.state.embeddings

  @property
  def index(self) -> MipsIndex:
    """Of the label embeddings."""
    return self.state.index

  @property
  def tokenizer(self) -> Any:
    """The encoder's tokenizer."""
    return self._pretrained.tokenizer

  @functools.cached_property
  def _tokenize_labels(self) -> TextTokenizer:
    return TextTokenizer(self.tokenizer, self.about['max_label_tokens'])

  def inputs(self, records: Sequence[Record]) -> TokenView:
    """Tokenises documents as in training."""
    tokens = self._tokenize(
      [record.title for record in records],
      [record.content for record in records],
    )
    return tokens.view(self.max_doc_tokens, title=self.text.encode_title)

  def words(
    self, records: Sequence[Record], state: LabelState
  ) -> sp.csr_matrix | None:
    """What `state.search` needs of the words of documents; None: nothing."""
    if state.fused is None:
      return None
    title = self.text.encode_title
    return state.fused.words([document_text(doc, title) for doc in records])

  def embed(self, inputs: TokenView) -> np.ndarray:
    """Embeds what `inputs` made: `[num_documents, dim]` float32."""
    return self.encoder.encode(inputs, self.doc_widths)

  def embed_labels(self, labels: Sequence[Record]) -> np.ndarray:
    """Embeds labels as in training: `[num_labels, dim]` float32."""
    longest = self.about['max_label_tokens']
    tokens = self._tokenize_labels(
      [label.title for label in labels], [label.content for label in labels]
    )
    content = self.text.label_text == 'title_content'
    inputs = tokens.view(longest, content=content)
    return self.encoder.encode(inputs, bucket_widths(inputs.lengths, longest))

  def tag(self, records: Sequence[Record], top_k: int) -> Shortlist:
    """The labels of a few documents, best first; none of one without text."""
    return self._tag(records, top_k, self.state)

  def _tag(
    self, records: Sequence[Record], top_k: int, state: LabelState
  ) -> Shortlist:
    words, inputs = self.words(records, state), self.inputs(records)
    found = state.search(self.embed(inputs), words, top_k)
    return found.only_of(inputs.sizes > 0)

  def predictions(
    self, records: Sequence[Record], top_k: int, min_score: float = -np.inf
  ) -> list[dict[str, Any]]:
    """Predictions `{"uid", "labels": [{"uid", "title", "score"}]}`."""
    state = self.state
    tags = self._tag(records, top_k, state)
    return [
      {'uid': record.uid, 'labels': labels}
      for record, labels in zip(
        records, state.describe(tags, min_score), strict=True
      )
    ]
