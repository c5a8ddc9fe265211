"""ICXML as a run: the LLM tags the test documents, once."""

from __future__ import annotations

import contextlib
import os

import numpy as np

from lmtx_jax.baselines.icxml import DEPTH, Icxml
from lmtx_jax.baselines.icxml_retrieval import make_retrieve
from lmtx_jax.files import read_arrays, read_json, write_arrays
from lmtx_jax.stages import DOCUMENT_SCORES, Stages
from lmtx_jax.summary import Outcome
from lmtx_jax.teacher.llm.answer_store import AnswerStore
from lmtx_jax.teacher.llm.writer import Writer


def icxml(stages: Stages, writer: Writer) -> Outcome:
  """Tags the test documents; the encoder that retrieves is what is exported.

  Args:
    stages: of the run.
    writer: the LLM.

  Raises:
    UserError: see `Icxml.predict`.
  """
  run, inputs, config = stages.run, stages.inputs, stages.config
  start = stages.warm_up()
  initial = stages.test_scores(-1, start)
  cost = run.file('icxml', 'cost.json')

  def make() -> dict[str, np.ndarray]:
    run.bind('teacher', writer.identity)
    depth = max(DEPTH, config.icxml.icxml_retrieved)
    retrieved = start.tag(inputs.test, depth, -1, 'test').labels
    retrieve = make_retrieve(
      start.encoder,
      start.index,
      stages.pretrained.tokenizer,
      np.union1d(inputs.label_widths, inputs.doc_widths),
      config.encoder.max_doc_tokens,
    )
    path, flag = config.icxml.answer_store, '--answer_store'
    if not path:
      path, flag = run.file('answers.sqlite'), '--run_dir'
    with contextlib.closing(AnswerStore(path, flag=flag)) as store:
      method = Icxml(
        inputs.dataset.labels,
        retrieve,
        config.icxml,
        writer,
        store,
        f'{run.run_id}/icxml',
      )
      test = inputs.test
      with run.timed(-1, 'icxml'):
        labels, report = method.predict(
          test.texts, retrieved, test.corpus.filters
        )
    run.note(cost, report)
    return {'labels': labels}

  path = run.file('icxml', 'labels.npz')
  labels = run.once(path, make, write_arrays, read_arrays)['labels']
  scores = run.file('icxml', 'test_scores.json')
  return Outcome(
    best=start,
    best_cycle=None,
    initial=initial,
    stopped_because='the LLM has tagged the test documents',
    test=stages.score(labels, 0, scores),
    documents=os.path.join('icxml', DOCUMENT_SCORES),
    more={'cost': read_json(cost)},
  )
