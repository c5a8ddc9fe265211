"""Where the first parameters come from: --encoder."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os

import jax
import numpy as np

from lmtx_jax import processes
from lmtx_jax.config import Config, EncoderConfig
from lmtx_jax.data.corpus import Corpus, Texts
from lmtx_jax.files import staged
from lmtx_jax.model import pretrained
from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.model.word_vector_file import load_word_vectors
from lmtx_jax.model.word_vectors import WordVectors
from lmtx_jax.run_dir import RunDir
from lmtx_jax.types import UserError

_VOCAB_TEXTS = 50_000  # documents and labels that a vocabulary is made from
_PROJECTION = 2**32 - 2  # of the run's seed; cycles are counted from 0


def load_encoder(
  config: Config, documents: Corpus, labels: Corpus, run: RunDir
) -> Pretrained:
  """Loads --encoder, or makes the small one of --encoder=scratch.

  What is made from scratch is kept in RUN/scratch, so that a resumed run goes
  on with the same vocabulary and the same dense layer.

  Args:
    config: of the run.
    documents: training documents.
    labels: the label set.
    run: where new parameters are kept.

  Raises:
    UserError: texts are to be longer than the encoder reads, or flags that do
      not go with it.
  """
  settings = config.encoder
  if settings.encoder == 'scratch':
    return _scratch(config, documents, labels, run)
  if os.path.isfile(settings.encoder):
    loaded = load_word_vectors(settings.encoder, settings.compute_dtype)
  else:
    loaded = pretrained.load(
      settings.encoder, settings.compute_dtype, _pooling(settings)
    )
  if isinstance(loaded.encoder, WordVectors) and settings.similarity == 'dot':
    raise UserError(
      f'--similarity=dot does not go with --encoder={settings.encoder}: unknown'
      ' words would make means of word vectors shorter; take cosine'
    )
  if isinstance(loaded.encoder, WordVectors) and settings.pooling == 'cls':
    raise UserError(
      f'--pooling=cls does not go with --encoder={settings.encoder}, which has'
      ' nothing but means'
    )
  _check_lengths(settings, loaded.encoder.config.max_positions)
  loaded = _comparable(loaded, settings)
  if not settings.projection_dim:
    return loaded
  new = _projected(loaded, config)
  dense = run.once(
    run.file('scratch', 'dense.safetensors'),
    lambda: new.params['dense'],
    pretrained.save_params,
    pretrained.load_params,
  )
  return dataclasses.replace(new, params=new.params | {'dense': dense})


def _scratch(
  config: Config, documents: Corpus, labels: Corpus, run: RunDir
) -> Pretrained:
  """The encoder of --encoder=scratch, made or read."""
  settings = config.encoder
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
    made = _comparable(made, settings)
    if settings.projection_dim:
      made = _projected(made, config)
    with staged(folder) as temporary:
      pretrained.save(temporary, made, made.params, max_seq_length=longest)
  processes.wait_for_all()
  return pretrained.load(folder, settings.compute_dtype, _pooling(settings))


def _comparable(loaded: Pretrained, settings: EncoderConfig) -> Pretrained:
  """Scored as --similarity says, whatever the model was made for."""
  encoder = dataclasses.replace(
    loaded.encoder, normalize=settings.similarity == 'cosine'
  )
  return dataclasses.replace(loaded, encoder=encoder)


def _projected(loaded: Pretrained, config: Config) -> Pretrained:
  """With the new dense layer of --projection_dim."""
  encoder = loaded.encoder.with_dense(config.encoder.projection_dim, 'tanh')
  key = jax.random.fold_in(jax.random.key(config.run.seed), _PROJECTION)
  dense = jax.tree.map(np.asarray, encoder.init_dense(key))
  return dataclasses.replace(
    loaded, encoder=encoder, params=loaded.params | {'dense': dense}
  )


def _pooling(settings: EncoderConfig) -> str:
  """What `pretrained.load` calls --pooling."""
  return '' if settings.pooling == 'folder' else settings.pooling


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
