"""Writes RUN/report.html: what a run did, to be looked at in a browser.

python -m lmtx_jax.report --run_dir=RUN

One file that asks for nothing else: settings, cycles, plots, and documents with
their predictions, truth and the teacher's verdicts. It may be called at any
moment; a run calls it by itself after each cycle. The documents are read from
the dataset that the run's flags name; where that is not there any more, the
report goes without them.
"""

from __future__ import annotations

import dataclasses
import datetime
import os

from absl import flags, logging

from lmtx_jax import cli, processes
from lmtx_jax.cli import flag
from lmtx_jax.files import staged
from lmtx_jax.inputs import Inputs
from lmtx_jax.reporting import documents as documents_lib
from lmtx_jax.reporting import page, plots
from lmtx_jax.reporting.documents import RunDocuments
from lmtx_jax.reporting.examples import (
  Gallery,
  test_galleries,
  training_galleries,
)
from lmtx_jax.reporting.frequencies import Frequencies, count
from lmtx_jax.reporting.record import RunRecord, read_record
from lmtx_jax.reporting.verdicts import StoredVerdicts
from lmtx_jax.stages import TEST_LABELS
from lmtx_jax.types import UserError

_NAME = 'report.html'


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Report."""

  run_dir: str = flag('', 'Folder of a run, finished or not.')


def main(values: flags.FlagValues) -> None:
  """Writes the report, and prints where it is."""
  config = cli.build(ReportConfig, values)
  if not config.run_dir:
    raise UserError('--run_dir is not set')
  print(make_report(os.path.expanduser(config.run_dir)))


def write_report(run_dir: str, inputs: Inputs) -> None:
  """Writes the report from within a run, which it never breaks.

  Args:
    run_dir: of the run.
    inputs: what it works on.
  """
  if not processes.is_lead():
    return
  try:
    make_report(run_dir, inputs)
  except Exception as e:  # whatever it is: a picture is worth no run
    reason = ' '.join(f'{type(e).__name__}: {e}'.split())
    logging.warning('%s could not be written: %s', _NAME, reason)


def make_report(run_dir: str, inputs: Inputs | None = None) -> str:
  """Writes RUN/report.html.

  Args:
    run_dir: of the run.
    inputs: what the run works on; None: read by its flags.

  Returns:
    The file's path.

  Raises:
    UserError: it is no run.
  """
  record = read_record(run_dir)
  documents = _documents(record, inputs)
  drawn = plots.draw_all(record, _frequencies(record, documents))
  galleries = _galleries(record, documents) if documents else []
  text = page.render(record, drawn, galleries, datetime.datetime.now())
  path = os.path.join(os.path.abspath(run_dir), _NAME)
  with (
    staged(path) as temporary,
    open(temporary, 'w', encoding='utf-8', errors='replace') as f,
  ):
    f.write(text)
  return path


def _documents(record: RunRecord, inputs: Inputs | None) -> RunDocuments | None:
  """None where they cannot be read, which is noted."""
  try:
    if inputs:
      return documents_lib.of_inputs(inputs, record.flags)
    return documents_lib.of_flags(record.flags, record.header['data'])
  except (UserError, OSError) as e:
    record.notes.append(f'no documents are shown: {e}')
    return None


def _frequencies(
  record: RunRecord, documents: RunDocuments | None
) -> Frequencies | None:
  found = record.arrays(record.final.folder, TEST_LABELS)
  if found is None:
    return None
  labels = found['labels']
  if documents is None or len(documents.test) != len(labels):
    return count(labels, None, int(labels.max(initial=0)) + 1)
  return count(labels, documents.test.targets, len(documents.labels))


def _galleries(record: RunRecord, documents: RunDocuments) -> list[Gallery]:
  store = StoredVerdicts(
    record.path,
    record.flags.get('verdict_store', ''),
    documents.yes_threshold,
  )
  try:
    return [
      *test_galleries(record, documents, store),
      *training_galleries(record, documents, store),
    ]
  except UserError as e:  # the store is broken, or locked
    record.notes.append(f'no documents are shown: {e}')
    return []


if __name__ == '__main__':
  cli.run(main, (ReportConfig,), __doc__)
