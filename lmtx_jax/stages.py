"""The stages of a cycle, each bound to the artifact it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Any

import numpy as np

from lmtx_jax.batch_sizes import cycle_chunk
from lmtx_jax.config import Config
from lmtx_jax.embeddings import open_embeddings
from lmtx_jax.evaluation.metrics import (
  metrics,
  per_document,
  pseudo_label_quality,
)
from lmtx_jax.files import read_arrays, read_json, write_arrays, write_json
from lmtx_jax.fused_run import search_of
from lmtx_jax.fused_search import FusedSearch
from lmtx_jax.inputs import Inputs
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.model.pretrained import Pretrained
from lmtx_jax.rankings import Rankings
from lmtx_jax.run_dir import RunDir
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.teacher.joint_store import JointStore
from lmtx_jax.teacher.pairs import Pairs, Tally, Teacher
from lmtx_jax.teacher.progress import Report
from lmtx_jax.teacher.teacher import pseudo_labels
from lmtx_jax.train import losses
from lmtx_jax.train.clusters import cluster
from lmtx_jax.train.grad_cache import Chunk
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.train.schedule import FitConfig
from lmtx_jax.train.self_supervised_pairs import (
  SelfSupervisedPairs,
  word_starts,
)
from lmtx_jax.training import Trainer, Training, fit_config
from lmtx_jax.types import YES, PseudoLabels, Ragged, Shortlist

DOCUMENT_SCORES = 'test_documents.npz'  # beside the scores of all
TEST_LABELS = 'test_labels.npz'  # the first labels of each test document
_PSEUDO_LABELS = 'pseudo_labels.npz'
_KEPT_LABELS = 10
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
    teacher: Teacher | None,
    writer: MetricWriter,
  ):
    """Takes what the stages share; no teacher where none is asked."""
    self.config, self.inputs, self.pretrained = config, inputs, pretrained
    self.run, self.store, self.teacher = run, store, teacher
    self.writer = writer
    self.rankings = Rankings(config, inputs, run)
    self.trainer = Trainer(config, pretrained.encoder, run, writer)
    self._loaded = Snapshot(
      0, pretrained.params, pretrained.encoder, inputs, run, config
    )

  def fused(self, snapshot: Snapshot) -> FusedSearch | None:
    """What counts beside the encoder, in scores and in the bundle."""
    if not self.config.shortlist.lexical_weight:
      return None
    path = self.run.cycle_file(snapshot.cycle - 1, _PSEUDO_LABELS)
    accepted = Ragged.empty(len(self.inputs.train.corpus))
    if self.run.has(path):  # not before cycle 0
      accepted = _as_pseudo_labels(read_arrays(path)).accepted
    return search_of(
      self.config, self.rankings, snapshot, accepted, self.inputs.label_key
    )

  def warm_up(self) -> Snapshot:
    """The encoder before cycle 0: as loaded, or after the warm-up."""
    config = self.config.warmup
    if not config.warmup_epochs:
      return self._loaded
    train = self.config.train
    training = Training(
      'warm-up',
      lambda batch_size: SelfSupervisedPairs(
        self.inputs.train.tokens,
        self.inputs.labels,
        word_starts(self.pretrained.tokenizer),
        max_tokens=self.config.encoder.max_doc_tokens,
        min_words=config.warmup_min_words,
        max_words=config.warmup_max_words,
        batch_size=batch_size,
        epochs=config.warmup_epochs,
        seed=(self.config.run.seed, 2),
      ),
      config.warmup_batch_size,
      losses.warmup_loss(config),
      FitConfig(
        config.warmup_learning_rate,
        train.lr_warmup_steps,
        train.adam_eps,
        train.weight_decay,
        train.checkpoint_steps,
        Chunk(train.grad_cache_chunk),
      ),
    )
    start = self._loaded.params
    return self._loaded.next(self.trainer.fit(_WARMUP, start, training), 0)

  def teach(
    self, cycle: int, shortlist: Shortlist, before: PseudoLabels | None = None
  ) -> PseudoLabels:
    """The teacher's answers among the shortlists, and those `before`."""
    run, train = self.run, self.inputs.train

    def ask() -> tuple[PseudoLabels, Tally]:
      with run.timed(cycle, 'teach'):
        found, tally = pseudo_labels(
          self.store,
          self.teacher,
          train.texts,
          self.inputs.label_texts,
          shortlist,
          f'{run.run_id}/cycle_{cycle:02d}',
          self.asking_report(cycle),
        )
      return found.union(before) if before else found, tally

    return self.taught(cycle, ask)

  def taught(
    self, cycle: int, ask: Callable[[], tuple[PseudoLabels, Tally]]
  ) -> PseudoLabels:
    """A cycle's pseudo labels: `ask` makes them if they are not there yet."""
    run = self.run

    def make() -> dict[str, np.ndarray]:
      run.bind('teacher', self.teacher.identity)
      found, tally = ask()
      self._report_teaching(cycle, found, tally)
      return {
        'accepted_values': found.accepted.values,
        'accepted_offsets': found.accepted.offsets,
        'rejected_values': found.rejected.values,
        'rejected_offsets': found.rejected.offsets,
      }

    arrays = run.once(
      run.cycle_file(cycle, _PSEUDO_LABELS),
      make,
      write_arrays,
      read_arrays,
    )
    return _as_pseudo_labels(arrays)

  def asking_report(self, cycle: int) -> Report:
    """Writes the progress of asking to the metrics."""

    def report(numbers: dict[str, float]) -> None:
      scalars = {f'asking/{name}': value for name, value in numbers.items()}
      self.writer.write(cycle, int(numbers['pairs']), scalars)

    return report

  def _report_teaching(
    self, cycle: int, found: PseudoLabels, tally: Tally
  ) -> None:
    """Writes what a summary tells of a cycle's questions."""
    counts = self._teaching(found, tally)
    self.writer.report(cycle, 'teach', counts)
    path = self.run.cycle_file(cycle, 'teaching.json')
    self.run.note(path, counts)

  def _teaching(self, found: PseudoLabels, tally: Tally) -> dict[str, Any]:
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
    clusters = self._clusters(cycle) if config.batching == 'clusters' else None
    training = Training(
      f'train {cycle}',
      lambda batch_size: PseudoLabelPairs(
        self.inputs.train_inputs,
        self.inputs.labels,
        found.accepted,
        self.inputs.label_key,
        batch_size=batch_size,
        epochs=config.epochs,
        seed=(self.config.run.seed, 3, cycle),
        rejected=found.rejected if config.hard_negatives else None,
        num_hard=config.hard_negatives,
        clusters=clusters,
        trainings=self.config.run.num_cycles,
        most_accepted=self._most_accepted(),
      ),
      config.batch_size,
      losses.cycle_loss(config),
      fit_config(config, cycle_chunk(self.config)),
    )
    params = self.trainer.fit(cycle, start, training)
    return self._loaded.next(params, cycle + 1)

  def _most_accepted(self) -> int:
    """Labels of a document that the teacher may accept, as a rule."""
    config = self.config
    cycles = max(1, config.run.num_cycles)
    if config.plan.teacher_budget:
      return cycles * config.plan.plan_candidates
    if config.plan.train_on == 'cycle':
      cycles = 1
    return cycles * config.shortlist.shortlist_size

  def _clusters(self, cycle: int) -> np.ndarray:
    """`[num_docs]` int32, equal for documents whose embeddings are near."""
    run = self.run

    def make() -> dict[str, np.ndarray]:
      embeddings = open_embeddings(run.cycle_file(cycle, 'doc_embeddings.npy'))
      num = max(1, len(embeddings) // self.config.train.batch_cluster_size)
      with run.timed(cycle, 'cluster'):
        return {'clusters': cluster(embeddings, num, self.config.run.seed)}

    path = run.cycle_file(cycle, 'clusters.npz')
    return run.once(path, make, write_arrays, read_arrays)['clusters']

  def dev_score(self, cycle: int, snapshot: Snapshot) -> float:
    """Percent of dev documents whose top label the teacher accepts."""
    run, dev = self.run, self.inputs.dev

    def make() -> dict[str, Any]:
      top = snapshot.tag(dev, 1, cycle, 'dev', self.fused(snapshot)).labels[
        :, 0
      ]
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
    run = self.run
    path = run.cycle_file(cycle, 'test_scores.json')
    if run.has(path):
      return read_json(path)
    found = snapshot.tag(
      self.inputs.test, _TEST_DEPTH, cycle, 'test', self.fused(snapshot)
    )
    return self.score(found.labels, cycle, path, found.scores)

  def score(
    self,
    labels: np.ndarray,
    cycle: int,
    path: str,
    label_scores: np.ndarray | None = None,
  ) -> dict[str, float | None]:
    """Scores labels of the test documents, and of each document beside it.

    The first labels of each document are kept there too, to be looked at.

    Args:
      labels: `[num_docs, k]` int32, best first, -1 where there are no more.
      cycle: for the metrics.
      path: of the scores.
      label_scores: `[num_docs, k]` float32, of those labels, where they have
        any.
    """
    inputs, run = self.inputs, self.run
    truth, num_labels = inputs.test.corpus.targets, len(inputs.labels)

    def make() -> dict[str, float | None]:
      scores = metrics(
        labels,
        truth,
        num_labels=num_labels,
        train_targets=inputs.dataset.train.targets,
        propensity=inputs.dataset.propensity,
      )
      self.writer.report(cycle, 'test', scores)
      return scores

    kept = {'labels': labels[:, :_KEPT_LABELS]}
    if label_scores is not None:
      kept['scores'] = label_scores[:, :_KEPT_LABELS]
    beside = {
      DOCUMENT_SCORES: lambda: per_document(labels, truth, num_labels),
      TEST_LABELS: lambda: kept,
    }
    for name, make_one in beside.items():
      file = os.path.join(os.path.dirname(path), name)
      run.once(file, make_one, write_arrays, read_arrays, alone=True)
    return run.once(path, make, write_json, read_json)


def _as_pseudo_labels(arrays: dict[str, np.ndarray]) -> PseudoLabels:
  """What a cycle's file of pseudo labels holds."""
  return PseudoLabels(
    Ragged(arrays['accepted_values'], arrays['accepted_offsets']),
    Ragged(arrays['rejected_values'], arrays['rejected_offsets']),
  )
