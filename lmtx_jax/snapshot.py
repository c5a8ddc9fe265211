"""The encoder as it enters a cycle, with what it makes of the label set."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from lmtx_jax import devices, processes
from lmtx_jax.config import Config
from lmtx_jax.encode import Encoder
from lmtx_jax.files import read_json, write_json
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.inputs import Documents, Inputs
from lmtx_jax.mips import ExactIndex, MipsIndex, ScannIndex, choose_index
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.run_dir import RunDir
from lmtx_jax.scann_index import is_whole, num_parts, seal, write_part
from lmtx_jax.shortlist import tag_documents
from lmtx_jax.types import Shortlist

INDEX_ADVICE = (
  'in another --run_dir, raise --shortlist_shards, or take --index=scann or'
  ' --embedding_dtype=bfloat16'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
  """Parameters of one moment, and what follows from them.

  Everything is made on first use, so that a resumed run only pays for what is
  still to do.

  Attributes:
    cycle: the cycle that they enter.
    params: parameters of the bi-encoder, on the host.
    bi_encoder: the tied towers.
    inputs: what the run reads.
    run: where the label embeddings are kept.
    config: of the run.
  """

  cycle: int
  params: Any
  bi_encoder: BiEncoder
  inputs: Inputs
  run: RunDir
  config: Config

  def next(self, params: Any, cycle: int) -> Snapshot:
    """What a training made: other parameters, which enter another cycle."""
    return dataclasses.replace(self, params=params, cycle=cycle)

  def release(self) -> None:
    """Frees what takes memory; it is made or opened again when needed."""
    for name in ('encoder', 'index'):
      self.__dict__.pop(name, None)

  @functools.cached_property
  def encoder(self) -> Encoder:
    """On the devices."""
    batch_tokens = self.config.encoder.encode_batch_tokens
    return Encoder(self.bi_encoder, self.params, batch_tokens)

  @functools.cached_property
  def label_embeddings(self) -> np.ndarray:
    """`[num_labels, dim]` f32 or bf16, memory-mapped."""
    inputs = self.inputs
    with self.run.timed(self.cycle, 'encode_labels'):
      return self.run.once_embeddings(
        self.run.cycle_file(self.cycle, 'label_embeddings.npy'),
        (len(inputs.labels), self.bi_encoder.dim),
        self.config.encoder.embedding_dtype,
        lambda out: self.encoder.encode(
          inputs.labels, inputs.label_widths, out, 'embed labels'
        ),
      )

  @functools.cached_property
  def index(self) -> MipsIndex:
    """Of the label embeddings."""
    embeddings = self.label_embeddings
    with devices.memory_advice(INDEX_ADVICE):
      if self._index_kind(*embeddings.shape) == 'exact':
        return ExactIndex(embeddings)
      folder = self.run.cycle_file(self.cycle, 'scann')
      with self.run.timed(self.cycle, 'index'):
        self._write_index(folder, embeddings)
      return ScannIndex.load(folder, len(embeddings))

  def _index_kind(self, num_labels: int, dim: int) -> str:
    """An artifact, for timings decide: chosen once for all processes."""
    inputs = self.inputs
    documents = (inputs.train, inputs.dev, inputs.test)
    shards = self.config.shortlist.shortlist_shards
    parts = num_parts(num_labels, dim, shards)
    return self.run.once(
      self.run.cycle_file(self.cycle, 'index.json'),
      lambda: choose_index(
        self.config.shortlist.index,
        num_labels,
        dim,
        sum(len(part.corpus) for part in documents) // processes.count(),
        min(parts, processes.count()),
      ),
      write_json,
      read_json,
      alone=True,
    )

  def _write_index(self, folder: str, embeddings: np.ndarray) -> None:
    """Builds the parts that are not there, each process its share."""
    if processes.lead(lambda: is_whole(folder)):
      return
    parts = num_parts(*embeddings.shape, self.config.shortlist.shortlist_shards)
    for part in range(processes.index(), parts, processes.count()):
      write_part(folder, embeddings, parts, part)
    processes.wait_for_all()
    if processes.is_lead():
      seal(folder, len(embeddings), parts)
    processes.wait_for_all()

  def tag(
    self,
    documents: Documents,
    k: int,
    cycle: int,
    stage: str,
    fused: FusedSearch | None = None,
  ) -> Shortlist:
    """The k best labels of documents.

    Args:
      documents: of one part.
      k: labels a document.
      cycle: whose seconds are counted.
      stage: name of those seconds.
      fused: where more than embeddings counts.
    """
    encoder, index = self.encoder, self.index  # have seconds of their own
    filters, desc = documents.corpus.filters, f'tag {stage}'
    about_documents = (self.inputs.doc_widths, filters, k, desc)
    with devices.memory_advice(INDEX_ADVICE), self.run.timed(cycle, stage):
      if fused is None:
        return tag_documents(encoder, index, documents.inputs, *about_documents)
      return fused.tag_documents(
        encoder,
        index,
        self.label_embeddings,
        documents.inputs,
        documents.texts,
        *about_documents,
      )
