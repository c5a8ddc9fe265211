"""Where the first parameters come from: --encoder."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os

import numpy as np

from lmtx_jax import processes
from lmtx_jax.config import Config, EncoderConfig
from lmtx_jax.data.corpus import Corpus, Texts
from lmtx_jax.files import staged
from lmtx_jax.model import pretrained
from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.run_dir import RunDir
from lmtx_jax.types import UserError

_VOCAB_TEXTS = 50_000  # documents and labels that a vocabulary is made from


def load_encoder(
  config: Config, documents: Corpus, labels: Corpus, run: RunDir
) -> Pretrained:
  """Loads --encoder, or makes the small one of --encoder=scratch.

  What is made from scratch is kept in RUN/scratch, so that a resumed run goes
  on with the same vocabulary.

  Args:
    config: of the run.
    documents: training documents.
    labels: the label set.
    run: where a new encoder is kept.

  Raises:
    UserError: texts are to be longer than the encoder reads.
  """
  settings = config.encoder
  if settings.encoder != 'scratch':
    loaded = pretrained.load(settings.encoder, settings.compute_dtype)
    _check_lengths(settings, loaded.encoder.config.max_positions)
    # LMTX scores by cosine, whatever the model was made for.
    cosine = dataclasses.replace(loaded.encoder, normalize=True)
    return dataclasses.replace(loaded, encoder=cosine)
  folder = run.file('scratch')
  longest = max(settings.max_doc_tokens, settings.max_train_doc_tokens)
  if processes.is_lead() and not os.path.isdir(folder):
    made = pretrained.scratch(
      _sample_texts(documents, labels),
      num_layers=settings.scratch_layers,
      dim=settings.scratch_dim,
      num_heads=settings.scratch_heads,
      vocab_size=settings.scratch_vocab,
      max_tokens=max(longest, settings.max_label_tokens),
      seed=config.run.seed,
      compute_dtype=settings.compute_dtype,
    )
    with staged(folder) as temporary:
      pretrained.save(temporary, made, made.params, max_seq_length=longest)
  processes.wait_for_all()
  return pretrained.load(folder, settings.compute_dtype)


def _check_lengths(settings: EncoderConfig, positions: int) -> None:
  """Raises where texts may be longer than the encoder has positions."""
  for name in ('max_doc_tokens', 'max_train_doc_tokens', 'max_label_tokens'):
    if getattr(settings, name) > positions:
      raise UserError(
        f'--{name}={getattr(settings, name)} is more than the {positions}'
        f' positions of --encoder={settings.encoder}'
      )


def _sample_texts(documents: Corpus, labels: Corpus) -> Iterator[str]:
  """Title and content of documents and labels from everywhere in the files."""
  for corpus in (documents, labels):
    rows = np.unique(
      np.linspace(0, len(corpus) - 1, min(len(corpus), _VOCAB_TEXTS)).round()
    )
    part = corpus.take(rows.astype(np.int64))
    texts = Texts(part, lambda record: f'{record.title}\n{record.content}')
    for block in texts.blocks():
      yield from block
