"""RTS, MACLR, ICT and SimCSE: trainings on the texts alone."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from absl import logging
import numpy as np

from lmtx_jax import devices, processes
from lmtx_jax.baselines.ict import IctPairs
from lmtx_jax.baselines.maclr import MaclrPairs, clusters_at
from lmtx_jax.baselines.simcse import SimCsePairs
from lmtx_jax.baselines.tfidf_pairs import tfidf_top, unite
from lmtx_jax.embeddings import as_float32, blocks
from lmtx_jax.files import read_arrays, remove, write_arrays
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.stages import Stages
from lmtx_jax.summary import Outcome
from lmtx_jax.train import losses
from lmtx_jax.train.clusters import cluster
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train.pair_source import PairSource, Refresh
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.self_supervised_pairs import (
  SelfSupervisedPairs,
  word_starts,
)
from lmtx_jax.training import Training, fit_config
from lmtx_jax.types import Ragged, Shortlist, UserError


def self_supervised(stages: Stages, look: Callable[[], None]) -> Outcome:
  """Trains by --method; the last training's encoder is the one that counts.

  Nothing is selected by a score, neither of dev nor of test documents (the
  published code of RTS keeps the epoch that is best on the test labels).

  Args:
    stages: of the run.
    look: called when a training is done.
  """
  snapshot = stages.warm_up()
  initial = stages.test_scores(-1, snapshot)
  makers, test_scores = _trainings(stages), []
  for cycle, make in enumerate(makers):
    training = make(cycle, snapshot)
    snapshot.release()
    params = stages.trainer.fit(cycle, snapshot.params, training)
    snapshot = snapshot.next(params, cycle + 1)
    test_scores.append(stages.test_scores(cycle, snapshot))
    look()
  return Outcome(
    snapshot,
    len(makers) - 1,
    initial,
    'trained without a teacher',
    [None] * len(makers),
    test_scores,
  )


# Makes a training, of the cycle it belongs to and the encoder that enters it.
_Maker = Callable[[int, Snapshot], Training]


def _trainings(stages: Stages) -> list[_Maker]:
  """What a method does, one training after the other."""
  makers = {
    'rts': [_rts],
    'ict': [_ict],
    'simcse': [_simcse],
    'maclr': [_maclr_1, _maclr_2],
  }[stages.config.run.method]
  return [functools.partial(make, stages) for make in makers]


def _training(
  stages: Stages,
  cycle: int,
  pairs: Callable[..., PairSource],
  **changes: Any,
) -> Training:
  """A training by the flags; `pairs` is handed batch_size, epochs and seed.

  It raises a UserError where there are too few pairs to train at all.
  """
  config = stages.config
  epochs, seed = config.train.epochs, (config.run.seed, 4, cycle)
  temperature = config.method.contrast_temperature
  loss = functools.partial(losses.info_nce, temperature=temperature)

  def enough(batch_size: int) -> PairSource:
    source = pairs(batch_size=batch_size, epochs=epochs, seed=seed)
    if source.num_pairs < _fewest_pairs():
      raise UserError(
        f'--method={config.run.method}: {source.num_pairs} pairs to train on,'
        f' and the smallest batch, whatever --batch_size, has {_fewest_pairs()}'
        ' (one a device, and two in all); it needs more documents'
      )
    return source

  return Training(
    desc=f'{config.run.method} {cycle}' if cycle else config.run.method,
    pairs=enough,
    batch_size=config.train.batch_size,
    fit=fit_config(config.train, Chunk(config.train.grad_cache_chunk)),
    **{'loss': loss} | changes,
  )


def _fewest_pairs() -> int:
  """What makes a batch: each pair needs a negative, each device a pair."""
  return max(2, devices.total())


def _longest(stages: Stages) -> int:
  """Tokens of a document in training."""
  encoder = stages.config.encoder
  return encoder.max_train_doc_tokens or encoder.max_doc_tokens


def _rts(stages: Stages, cycle: int, _: Snapshot) -> Training:
  """Random text segments (Zhang et al., Findings of EMNLP 2022)."""
  config, inputs = stages.config.method, stages.inputs
  titles = inputs.train.tokens.title_sizes
  if num := np.count_nonzero(titles == 0):
    logging.info('rts: %d of %d documents have no title', num, len(titles))
  pairs = functools.partial(
    SelfSupervisedPairs,
    inputs.train.tokens,
    inputs.labels,
    word_starts(stages.pretrained.tokenizer),
    max_tokens=min(_longest(stages), 2 * config.max_words),
    min_words=config.min_words,
    max_words=config.max_words,
    with_contents=False,
  )
  return _training(stages, cycle, pairs)


def _simcse(stages: Stages, cycle: int, _: Snapshot) -> Training:
  """The same text twice, through dropout (Gao et al., EMNLP 2021)."""
  pairs = functools.partial(SimCsePairs, stages.inputs.train_inputs)
  head = stages.config.method.training_head
  return _training(stages, cycle, pairs, head=head)


def _ict(stages: Stages, cycle: int, _: Snapshot) -> Training:
  """A sentence and what stood around it (Lee et al., ACL 2019)."""
  pairs = functools.partial(
    IctPairs,
    stages.inputs.train.tokens,
    stages.pretrained.tokenizer,
    max_query_tokens=stages.config.encoder.max_label_tokens,
    max_block_tokens=_longest(stages),
    removal_rate=stages.config.method.removal_rate,
  )
  return _training(stages, cycle, pairs)


def _maclr_1(stages: Stages, cycle: int, snapshot: Snapshot) -> Training:
  """MACLR's first stage: titles and contents, clusters as positives."""
  config = stages.config.method
  num_labels = config.regulariser_labels
  pairs = functools.partial(
    MaclrPairs,
    stages.inputs.train.tokens,
    stages.inputs.labels,
    stages.pretrained.tokenizer,
    max_title_tokens=stages.config.encoder.max_label_tokens,
    max_content_tokens=_longest(stages),
    removal_rate=config.removal_rate,
    num_labels=num_labels,
  )
  training = _training(
    stages,
    cycle,
    pairs,
    loss=functools.partial(
      losses.cluster_contrast,
      temperature=config.contrast_temperature,
      num_labels=num_labels,
      weight=config.regulariser_weight,
    ),
  )

  def refresh(source: MaclrPairs) -> Refresh:
    def at(step: int, params: Any) -> PairSource:
      entering = snapshot.next(params, cycle)
      return source.with_clusters(_clusters(stages, cycle, step, entering))

    return Refresh(config.cluster_refresh_steps, at)

  return dataclasses.replace(training, refresh=refresh)


def _clusters(
  stages: Stages, cycle: int, step: int, snapshot: Snapshot
) -> np.ndarray:
  """`[num_docs]` int32, documents that are alike at a step; kept."""
  run, method = stages.run, stages.config.method
  num_docs = len(stages.inputs.train.inputs)
  number = clusters_at(
    step, method.numbers_of_clusters, method.cluster_growth_steps
  )
  if number is None or number >= num_docs:
    return np.arange(num_docs, dtype=np.int32)

  def make() -> dict[str, np.ndarray]:
    path = run.cycle_file(cycle, 'doc_embeddings.npy')
    if processes.is_lead():
      remove(path)  # of the clusters before
    processes.wait_for_all()
    embeddings = stages.rankings.doc_embeddings(snapshot)
    found = cluster(embeddings, number, stages.config.run.seed)
    logging.info('step %d: %d clusters', step, found.max() + 1)
    return {'clusters': found}

  path = run.cycle_file(cycle, f'clusters_{step:07d}.npz')
  with run.timed(cycle, 'cluster'):
    return run.once(path, make, write_arrays, read_arrays)['clusters']


def _maclr_2(stages: Stages, cycle: int, snapshot: Snapshot) -> Training:
  """MACLR's second stage: labels found by TF-IDF and by the first stage."""
  run, inputs, config = stages.run, stages.inputs, stages.config
  documents, filters = inputs.train.texts, inputs.train.corpus.filters

  def make() -> dict[str, np.ndarray]:
    with run.timed(cycle, 'tfidf'):
      labels, scores = tfidf_top(documents, inputs.label_texts, filters)
    return {'labels': labels, 'scores': scores}

  lexical = run.once(
    run.cycle_file(cycle, 'tfidf.npz'),
    make,
    write_arrays,
    read_arrays,
    alone=True,
  )
  dense = Shortlist(
    **run.once(
      run.cycle_file(cycle, 'by_encoder.npz'),
      # Whatever --shortlist says: that is the teacher's, of LMTX.
      lambda: vars(_by_cosine(stages, snapshot)),
      write_arrays,
      read_arrays,
    )
  )
  threshold = config.method.second_stage_threshold
  found = unite(lexical['labels'], dense, threshold)
  _check_found(found, threshold)
  pairs = functools.partial(
    PseudoLabelPairs,
    inputs.train_inputs,
    inputs.labels,
    found,
    inputs.label_key,
  )
  training = _training(stages, cycle, pairs)
  steps = config.method.second_stage_steps
  if not steps:
    return training
  fit = dataclasses.replace(training.fit, max_steps=steps)
  return dataclasses.replace(training, fit=fit)


def _check_found(found: Ragged, threshold: float) -> None:
  """Raises a UserError where too few documents have a label to learn."""
  num_found = np.count_nonzero(found.lengths)
  if num_found < _fewest_pairs():
    raise UserError(
      f'--method=maclr: {num_found} of {len(found.lengths)} training documents'
      ' have a label for the second stage, so there is nothing to learn from:'
      ' they share no word with a label, and no cosine is above'
      f' --second_stage_threshold={threshold:g}; lower it'
    )


def _by_cosine(stages: Stages, snapshot: Snapshot) -> Shortlist:
  """The encoder's best label of each document; the score is their cosine."""
  best = stages.rankings.dense(snapshot, 1).labels
  documents = stages.rankings.doc_embeddings(snapshot)
  cosines = np.full(best.shape, -np.inf, np.float32)
  for rows in blocks(*documents.shape):
    real = rows.start + np.flatnonzero(best[rows, 0] >= 0)
    document = as_float32(documents[real])
    label = as_float32(snapshot.label_embeddings[best[real, 0]])
    lengths = np.linalg.norm(document, axis=1) * np.linalg.norm(label, axis=1)
    cosines[real, 0] = (document * label).sum(axis=1) / np.maximum(
      lengths, 1e-12
    )
  return Shortlist(best, cosines)
