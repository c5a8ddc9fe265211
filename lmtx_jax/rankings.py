"""Labels ranked for training documents: by the encoder, by words, or both."""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse as sp

from lmtx_jax import devices
from lmtx_jax.config import Config
from lmtx_jax.exact_index import ExactIndex
from lmtx_jax.files import read_arrays, write_arrays
from lmtx_jax.fusion import reciprocal_ranks
from lmtx_jax.inputs import Inputs
from lmtx_jax.lexical_index import LexicalIndex
from lmtx_jax.run_dir import RunDir
from lmtx_jax.shortlist import make_shortlist
from lmtx_jax.snapshot import INDEX_ADVICE, Snapshot
from lmtx_jax.types import Ragged, Shortlist

_START = -1  # words are the same in every cycle
_HYBRID_DEPTH = 50  # labels of each ranking that a hybrid one is made of


class Rankings:
  """What the training documents are shortlisted by; kept in the run."""

  def __init__(self, config: Config, inputs: Inputs, run: RunDir):
    """Takes what the stages share."""
    self._config, self._inputs, self._run = config, inputs, run
    self._filters = inputs.train.corpus.filters

  def doc_embeddings(self, snapshot: Snapshot) -> np.ndarray:
    """`[num_docs, dim]` f32 or bf16 of the training documents, a file."""
    run, cycle, inputs = self._run, snapshot.cycle, self._inputs
    with run.timed(cycle, 'encode'):
      return run.once_embeddings(
        run.cycle_file(cycle, 'doc_embeddings.npy'),
        (len(inputs.train.inputs), snapshot.bi_encoder.dim),
        self._config.encoder.embedding_dtype,
        lambda out: snapshot.encoder.encode(
          inputs.train.inputs, inputs.doc_widths, out, 'embed documents'
        ),
      )

  def shortlist(self, snapshot: Snapshot) -> Shortlist:
    """Top-k labels of each training document, by --shortlist; an artifact."""
    run, config = self._run, self._config.shortlist
    size = config.shortlist_size

    def make() -> dict[str, np.ndarray]:
      if config.shortlist == 'lexical':
        found = self.lexical(size)
      elif config.shortlist == 'hybrid':
        depth = max(size, _HYBRID_DEPTH)
        both = [self.dense(snapshot, depth), self.lexical(depth)]
        found = reciprocal_ranks(both, size)
      else:
        found = self.dense(snapshot, size)
      return found.__dict__

    path = run.cycle_file(snapshot.cycle, 'shortlist.npz')
    return Shortlist(**run.once(path, make, write_arrays, read_arrays))

  def dense(self, snapshot: Snapshot, k: int) -> Shortlist:
    """Top-k labels of each training document, by inner product."""
    embeddings, index = self.doc_embeddings(snapshot), snapshot.index
    timed = self._run.timed(snapshot.cycle, 'shortlist')
    with devices.memory_advice(INDEX_ADVICE), timed:
      return make_shortlist(index, embeddings, self._filters, k, 'shortlist')

  def lexical(self, k: int) -> Shortlist:
    """Top-k labels of each training document, by the words they share."""
    run, texts = self._run, self._inputs.train.texts

    def make() -> dict[str, np.ndarray]:
      with run.timed(_START, 'lexical'):
        return self.lexical_index.search(texts, self._filters, k).__dict__

    path = run.cycle_file(_START, f'lexical_{k}.npz')
    made = run.once(path, make, write_arrays, read_arrays, alone=True)
    return Shortlist(**made)

  @functools.cached_property
  def lexical_index(self) -> LexicalIndex:
    """Of the labels' words; an artifact."""
    run, inputs = self._run, self._inputs

    def make() -> LexicalIndex:
      with run.timed(_START, 'lexical'):
        return LexicalIndex.build(inputs.label_texts, inputs.train.texts)

    return run.once(
      run.cycle_file(_START, 'lexical'),
      make,
      lambda path, index: index.save(path),
      LexicalIndex.load,
      alone=True,
    )

  def words(self) -> sp.csr_matrix:
    """`[num_docs, num_words]` f32 of the training documents."""
    blocks = self._inputs.train.texts.blocks()
    vectors = self.lexical_index.vectors
    return sp.vstack([vectors(block) for block in blocks], format='csr')

  def neighbours(self, snapshot: Snapshot, k: int) -> Shortlist:
    """The k training documents closest to each other one, by cosine."""
    embeddings = self.doc_embeddings(snapshot)
    num_docs = len(embeddings)
    if not k:
      none = np.zeros((num_docs, 0), np.int32)
      return Shortlist(none, none.astype(np.float32))
    own = Ragged(np.arange(num_docs, dtype=np.int32), np.arange(num_docs + 1))
    timed = self._run.timed(snapshot.cycle, 'shortlist')
    with devices.memory_advice('set --neighbours=0'), timed:
      return make_shortlist(
        ExactIndex(embeddings), embeddings, own, k, 'neighbours'
      )
