"""The stages of a cycle, each bound to the artifact it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
import shutil
from typing import Any

import jax
import numpy as np

from lmtx_jax import processes
from lmtx_jax.batch_sizes import chunk_size, small_batch
from lmtx_jax.config import Config
from lmtx_jax.evaluation.metrics import metrics, pseudo_label_quality
from lmtx_jax.files import read_arrays, read_json, write_arrays, write_json
from lmtx_jax.inputs import Inputs
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.model.pretrained import Pretrained, load_params, save_params
from lmtx_jax.run_dir import RunDir
from lmtx_jax.shortlist import make_shortlist
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.teacher.joint_store import JointStore
from lmtx_jax.teacher.pairs import Pairs, Teacher
from lmtx_jax.teacher.teacher import pseudo_labels
from lmtx_jax.train import losses
from lmtx_jax.train.loop import FitConfig, fit
from lmtx_jax.train.pair_source import PairSource
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.self_supervised_pairs import (
  SelfSupervisedPairs,
  word_starts,
)
from lmtx_jax.types import YES, PseudoLabels, Ragged, Shortlist

_TEST_DEPTH = 100  # of R@100
_WARMUP = -1  # the cycle number of what comes before cycle 0


class Stages:
  """The steps of Algorithm 1; each is done once, and read back after that."""

  def __init__(
    self,
    config: Config,
    inputs: Inputs,
    pretrained: Pretrained,
    run: RunDir,
    store: JointStore,
    teacher: Teacher,
    writer: MetricWriter,
  ):
    """Takes what the stages share."""
    self.config, self.inputs, self.pretrained = config, inputs, pretrained
    self.run, self.store, self.teacher = run, store, teacher
    self.writer = writer
    encoder = pretrained.encoder.with_dropout(config.train.dropout)
    self._train_encoder = encoder.with_best_attention()
    self._loaded = Snapshot(
      0, pretrained.params, pretrained.encoder, inputs, run, config
    )

  def warm_up(self) -> Snapshot:
    """The encoder before cycle 0: as loaded, or after the warm-up."""
    config = self.config.warmup
    if not config.warmup_epochs:
      return self._loaded
    pairs = lambda batch_size: SelfSupervisedPairs(  # noqa: E731
      self.inputs.train.tokens,
      self.inputs.labels,
      word_starts(self.pretrained.tokenizer),
      max_tokens=self.config.encoder.max_doc_tokens,
      min_words=config.warmup_min_words,
      max_words=config.warmup_max_words,
      batch_size=batch_size,
      epochs=config.warmup_epochs,
      seed=(self.config.run.seed, 2),
    )
    params = self._fit(
      _WARMUP,
      self.pretrained.params,
      pairs,
      config.warmup_batch_size,
      losses.warmup_loss(config),
      config.warmup_learning_rate,
      'warm-up',
      self.config.train.grad_cache_chunk,
    )
    return self._loaded.next(params, 0)

  def shortlist(self, snapshot: Snapshot) -> Shortlist:
    """Top-k labels of each training document, by inner product."""
    run, cycle, train = self.run, snapshot.cycle, self.inputs.train

    def make() -> dict[str, np.ndarray]:
      with run.timed(cycle, 'encode'):
        embeddings = run.once_embeddings(
          run.cycle_file(cycle, 'doc_embeddings.npy'),
          (len(train.inputs), snapshot.encoder.dim),
          self.config.encoder.embedding_dtype,
          lambda out: snapshot.encoder.encode(
            train.inputs, self.inputs.doc_widths, out, 'embed documents'
          ),
        )
      index = snapshot.index
      with run.timed(cycle, 'shortlist'):
        shortlist = make_shortlist(
          index,
          embeddings,
          train.corpus.filters,
          self.config.shortlist.shortlist_size,
          'shortlist',
        )
      return {'labels': shortlist.labels, 'scores': shortlist.scores}

    arrays = run.once(
      run.cycle_file(cycle, 'shortlist.npz'), make, write_arrays, read_arrays
    )
    return Shortlist(**arrays)

  def teach(self, cycle: int, shortlist: Shortlist) -> PseudoLabels:
    """The teacher's yeses among the shortlists."""
    run, train = self.run, self.inputs.train

    def report(numbers: dict[str, float]) -> None:
      scalars = {f'asking/{name}': value for name, value in numbers.items()}
      self.writer.write(cycle, int(numbers['pairs']), scalars)

    def make() -> dict[str, np.ndarray]:
      run.bind('teacher', self.teacher.identity)
      with run.timed(cycle, 'teach'):
        found, tally = pseudo_labels(
          self.store,
          self.teacher,
          train.texts,
          self.inputs.label_texts,
          shortlist,
          f'{run.run_id}/cycle_{cycle:02d}',
          report,
        )
      counts = self._teaching(found, tally)
      self.writer.report(cycle, 'teach', counts)
      run.note(run.cycle_file(cycle, 'teaching.json'), counts)
      return {
        'accepted_values': found.accepted.values,
        'accepted_offsets': found.accepted.offsets,
        'rejected_values': found.rejected.values,
        'rejected_offsets': found.rejected.offsets,
      }

    arrays = run.once(
      run.cycle_file(cycle, 'pseudo_labels.npz'),
      make,
      write_arrays,
      read_arrays,
    )
    return PseudoLabels(
      Ragged(arrays['accepted_values'], arrays['accepted_offsets']),
      Ragged(arrays['rejected_values'], arrays['rejected_offsets']),
    )

  def _teaching(self, found: PseudoLabels, tally: Any) -> dict[str, Any]:
    """What a summary tells of a cycle's questions."""
    truth = self.inputs.train.corpus.targets
    precision = quality = None
    if len(truth.values):
      precision, quality = pseudo_label_quality(
        found.accepted, truth, len(self.inputs.labels)
      )
    return {
      'pseudo_labels': len(found.accepted.values),
      'documents': int((found.accepted.lengths > 0).sum()),
      'yes_rate': round(tally.yes / max(1, tally.pairs), 6),
      'precision': precision,
      'quality': quality,
      'pairs': tally.pairs,
      'asked': tally.asked,
      'reused': tally.reused,
      'invalid': tally.invalid,
      **tally.costs(),
    }

  def fit(self, cycle: int, start: Any, found: PseudoLabels) -> Snapshot:
    """Trains on the pseudo labels; the result enters the next cycle."""
    config = self.config.train
    pairs = lambda batch_size: PseudoLabelPairs(  # noqa: E731
      self.inputs.train_inputs,
      self.inputs.labels,
      found.accepted,
      self.inputs.label_key,
      batch_size=batch_size,
      epochs=config.epochs,
      seed=(self.config.run.seed, 3, cycle),
    )
    params = self._fit(
      cycle,
      start,
      pairs,
      config.batch_size,
      losses.cycle_loss(config),
      config.learning_rate,
      f'train {cycle}',
      chunk_size(self.config),
    )
    return self._loaded.next(params, cycle + 1)

  def _fit(
    self,
    cycle: int,
    start: Any,
    make_pairs: Callable[[int], PairSource],
    batch_size: int,
    loss: losses.Loss,
    learning_rate: float,
    desc: str,
    chunk: int,
  ) -> Any:
    run, config = self.run, self.config.train
    checkpoints = run.cycle_file(cycle, 'checkpoints')
    path = run.cycle_file(cycle, 'params', 'params.safetensors')

    def make() -> Any:
      key = jax.random.key(self.config.run.seed)
      with run.timed(cycle, 'train'):
        pairs = make_pairs(batch_size)
        if pairs.num_pairs < batch_size:  # a smaller batch is better than none
          pairs = make_pairs(small_batch(pairs.num_pairs))
        return fit(
          self._train_encoder,
          start,
          pairs,
          loss,
          FitConfig(
            learning_rate,
            config.lr_warmup_steps,
            config.adam_eps,
            config.weight_decay,
            config.checkpoint_steps,
            chunk,
          ),
          rng=jax.random.fold_in(key, cycle + 1),
          cycle=cycle,
          checkpoints_dir=checkpoints,
          writer=self.writer,
          desc=desc,
        )

    params = run.once(path, make, save_params, load_params)
    if processes.is_lead():
      shutil.rmtree(checkpoints, ignore_errors=True)  # now of no use
    return params

  def dev_score(self, cycle: int, snapshot: Snapshot) -> float:
    """Percent of dev documents whose top label the teacher accepts."""
    run, dev = self.run, self.inputs.dev

    def make() -> dict[str, Any]:
      top = snapshot.tag(dev, 1, cycle, 'dev').labels[:, 0]
      run.bind('teacher', self.teacher.identity)
      with run.timed(cycle, 'dev'):
        pairs = Pairs(
          dev.texts,
          self.inputs.label_texts,
          np.flatnonzero(top >= 0),
          top[top >= 0].astype(np.int64),
        )
        verdicts, tally = self.store.judge(
          self.teacher, pairs, f'{run.run_id}/dev_{cycle:02d}'
        )
      score = 100.0 * float((verdicts.answer == YES).sum()) / len(dev.corpus)
      self.writer.report(cycle, 'dev', {'P@1': score})
      return {
        'p@1': score,
        'pairs': tally.pairs,
        'asked': tally.asked,
        'reused': tally.reused,
        'invalid': tally.invalid,
        **tally.costs(),
      }

    path = run.cycle_file(cycle, 'dev_score.json')
    return run.once(path, make, write_json, read_json)['p@1']

  def test_scores(
    self, cycle: int, snapshot: Snapshot
  ) -> dict[str, float | None]:
    """P@k and its like on the test documents, in percent."""
    run, test = self.run, self.inputs.test

    def make() -> dict[str, float | None]:
      scores = metrics(
        snapshot.tag(test, _TEST_DEPTH, cycle, 'test').labels,
        test.corpus.targets,
        num_labels=len(self.inputs.labels),
        train_targets=self.inputs.dataset.train.targets,
        propensity=self.inputs.dataset.propensity,
      )
      self.writer.report(cycle, 'test', scores)
      return scores

    path = run.cycle_file(cycle, 'test_scores.json')
    return run.once(path, make, write_json, read_json)
