"""Trains a tagger without labelled documents: the paper's Algorithm 1.

python -m lmtx_jax.main --flagfile=configs/NAME.flags [--run_dir=DIR] [--flag=value ...]

Each line of the loop is a stage that leaves an artifact in the run directory
and is skipped where that is there: a run killed anywhere goes on by the same
command, and ends with the same bytes.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable
import contextlib
import itertools
import os

from absl import flags, logging

from lmtx_jax import bundle, cli, devices, planned, processes
from lmtx_jax import inputs as inputs_lib
from lmtx_jax.baselines.icxml_run import icxml
from lmtx_jax.baselines.self_supervised import self_supervised
from lmtx_jax.batch_sizes import check_batch_sizes
from lmtx_jax.config import TRAINING, Config
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.data.corpus import Dataset
from lmtx_jax.dry_run import dry_run
from lmtx_jax.encoder_source import load_encoder
from lmtx_jax.evaluation.stopping import best_cycle
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.run_dir import RunDir, all_flags, binding_flags
from lmtx_jax.snapshot import Snapshot
from lmtx_jax.stages import Stages
from lmtx_jax.summary import (
  Outcome,
  make_summary,
  table,
  write_summary,
)
from lmtx_jax.teacher.joint_store import JointStore
from lmtx_jax.teacher.llm.generate import Generator
from lmtx_jax.teacher.pairs import Teacher
from lmtx_jax.teacher.teacher import (
  check_teacher,
  jax_environ,
  llm_teacher,
  make_teacher,
)
from lmtx_jax.types import UserError
from lmtx_jax.versions import versions


def main(values: flags.FlagValues) -> None:
  """Trains, and prints the table of the cycles."""
  config = Config(*(cli.build(part, values) for part in TRAINING))
  environ = {}
  if config.has_teacher:
    check_teacher(config.teacher, config.llm)
    environ = jax_environ(config.teacher, config.llm)
  devices.setup(config.source.data_cache, environ)
  join_processes(config)
  check_batch_sizes(config)  # now, not after the data and the LLM are ready
  dataset = processes.lead_first(lambda: load_dataset(config.source))
  check_processes(config, dataset)
  run = RunDir(config.run.run_dir or os.path.join('runs', dataset.name))
  run.guard(config.parts, dataset.fingerprint, dataset.name)
  writer = MetricWriter(run.path, is_silent=not processes.is_lead())
  path = config.teacher.verdict_store or run.file('verdicts.sqlite')
  with (
    contextlib.closing(JointStore(path, run.path)) as store,
    _llm(config, run.file('teacher_server.log')) as llm,
  ):
    if llm and not run.has(run.file('summary.json')):
      llm.prepare()  # a wrong address is told now, not after hours
    stages = open_stages(config, dataset, run, store, writer, llm)
    if config.run.dry_run:
      print(dry_run(stages))
      return
    summary = train(stages, llm)
  writer.close()
  if processes.is_lead():
    print(table(summary))
    best, why = summary['best_cycle'], summary['stopped_because']
    print(why if best is None else f'best cycle: {best}; {why}')
    print(f'bundle: {run.file("export")}')
  processes.leave()


def _llm(config: Config, log: str) -> contextlib.AbstractContextManager:
  """Whoever asks the LLM, if the method does; `log` is its server's."""
  if not config.has_teacher:
    return contextlib.nullcontext()
  if config.run.method == 'icxml':
    return contextlib.closing(
      Generator(config.llm, config.icxml.icxml_answer_tokens, log)
    )
  return llm_teacher(config.teacher, config.llm, log)


def join_processes(config: Config) -> None:
  """Meets the other processes of this run, if there are any."""
  processes.join(
    config.processes.coordinator_address,
    config.processes.num_processes,
    config.processes.process_id,
    config.processes.join_timeout_s,
  )
  if processes.count() == 1:
    return
  if config.llm.teacher_launch:
    raise UserError(
      '--teacher_launch starts a server for one process; for several, start'
      ' servers with launch/sglang_fleet.sh and name them with --teacher_urls'
    )
  if config.run.method == 'icxml':
    raise UserError('--method=icxml runs in one process; start it as one')
  if config.run.dry_run:
    raise UserError(
      '--dry_run is for one process; the run goes on from there with several'
    )


def check_processes(config: Config, dataset: Dataset) -> None:
  """Raises a UserError where processes are told or see different things."""
  processes.check_same('version', versions())
  # Some flags change no result, but how the processes work together.
  together = ('encode_batch_tokens', 'grad_cache_chunk', 'checkpoint_steps')
  flags = all_flags(config.parts)
  wanted = binding_flags(config.parts) | {k: flags[k] for k in together}
  processes.check_same('flag', wanted)
  processes.check_same('dataset', {dataset.name: dataset.fingerprint})


def open_stages(
  config: Config,
  dataset: Dataset,
  run: RunDir,
  store: JointStore,
  writer: MetricWriter,
  llm: Teacher | Generator | None,
) -> Stages:
  """Everything that the cycles work with; a wrong flag fails here."""
  drawn = inputs_lib.draw_documents(dataset, config)
  pretrained = load_encoder(config, drawn[0], dataset.labels, run)
  if config.method.training_head:
    pretrained.encoder.with_dense(1)  # fails now, not after hours
  inputs = inputs_lib.load_inputs(dataset, drawn, pretrained.tokenizer, config)
  if config.plan.teacher_budget:
    planned.check_budget(
      config.plan.teacher_budget, config.run.num_cycles, inputs
    )
  documents = (inputs.train.texts, inputs.dev.texts)
  teacher = llm
  if config.has_teacher and not llm:
    teacher = make_teacher(config.teacher, documents, inputs.label_texts)
  run.bind('encoder', pretrained.digest)
  return Stages(config, inputs, pretrained, run, store, teacher, writer)


def train(stages: Stages, llm: Teacher | Generator | None) -> dict:
  """Trains by --method, exports and sums up.

  Args:
    stages: of the run.
    llm: whoever asks it; None without one.

  Returns:
    What summary.json holds.
  """
  method, run = stages.config.run.method, stages.run

  def look() -> None:
    if stages.config.run.report:
      from lmtx_jax.report import write_report  # plots are slow to import

      write_report(run.path, stages.inputs)

  if method == 'lmtx' or not stages.config.run.num_cycles:
    outcome = lmtx(stages, look)
  elif method == 'icxml':
    outcome = icxml(stages, llm)
  else:
    outcome = self_supervised(stages, look)
  summary = processes.lead(lambda: make_summary(run, method, outcome))
  export(stages, outcome.best, summary)
  if processes.is_lead():
    write_summary(run, summary)
    look()
  return summary


def lmtx(stages: Stages, look: Callable[[], None]) -> Outcome:
  """Algorithm 1 of the paper; `look` is called when a cycle is done."""
  config = stages.config
  start = snapshot = stages.warm_up()
  initial = stages.test_scores(-1, start)
  best, kept, dev_scores, test_scores = start, None, [], []
  pseudo_labels = None
  stopped_because = 'all cycles done'
  for cycle in range(config.run.num_cycles):
    if config.plan.teacher_budget:
      pseudo_labels = planned.teach(stages, cycle, snapshot)
    else:
      shortlist = stages.rankings.shortlist(snapshot)
      before = pseudo_labels if config.plan.train_on == 'run' else None
      pseudo_labels = stages.teach(cycle, shortlist, before)
    if not len(pseudo_labels.accepted.values):
      stopped_because = 'the teacher accepted nothing'
      break
    base = snapshot if config.train.warm_start else start
    snapshot.release()
    snapshot = stages.fit(cycle, base.params, pseudo_labels)
    dev_scores.append(stages.dev_score(cycle, snapshot))
    test_scores.append(stages.test_scores(cycle, snapshot))
    logging.info('cycle %d: dev P@1 %.1f', cycle, dev_scores[-1])
    look()
    kept = best_cycle(
      dev_scores, config.run.dev_tolerance, len(stages.inputs.dev.corpus)
    )
    if kept != cycle:
      stopped_because = 'the dev score did not rise'
      if config.run.dev_tolerance:
        stopped_because = 'the dev score fell by more than --dev_tolerance'
      break
    best = snapshot
  if config.run.num_cycles and not dev_scores:
    raise UserError(
      'the teacher accepted none of the shortlisted pairs, so there is nothing'
      ' to learn from; look at --teacher and its flags (a lower'
      ' --lexical_threshold or --yes_threshold, say), --label_text and --prompt'
    )
  return Outcome(
    best,
    kept,
    initial,
    stopped_because,
    dev_scores,
    test_scores,
  )


def export(stages: Stages, best: Snapshot, summary: dict) -> None:
  """Writes RUN/export, once."""
  folder = stages.run.file('export')
  if stages.run.has(folder):
    return
  label_embeddings, index = best.label_embeddings, best.index
  fused = stages.fused(best)  # all processes wait for it
  if not processes.is_lead():
    return
  config = stages.config
  used = itertools.chain.from_iterable(
    (f'{name}={value}' for name, value in vars(part).items()
     if not part.__dataclass_fields__[name].metadata['operational'])
    for part in config.parts
  )  # fmt: skip
  bundle.export(
    folder,
    stages.pretrained,
    best.params,
    stages.inputs.dataset.labels,
    label_embeddings,
    index,
    text=config.text,
    max_doc_tokens=config.encoder.max_doc_tokens,
    max_label_tokens=config.encoder.max_label_tokens,
    doc_widths=stages.inputs.doc_widths,
    about={
      'dataset': stages.inputs.dataset.name,
      'data': stages.inputs.dataset.fingerprint,
      'flags': list(used),
      # Of what is exported: ICXML's own scores are the LLM's.
      'test': summary['initial' if summary['best_cycle'] is None else 'test'],
    },
    fused=fused,
  )


if __name__ == '__main__':
  cli.run(
    main, TRAINING, __doc__, on_failure=processes.abandon, exit_terminated=0
  )
