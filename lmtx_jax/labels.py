"""Changes the labels of a trained bundle, without training.

python -m lmtx_jax.labels add    --bundle=DIR --input=labels.jsonl
python -m lmtx_jax.labels remove --bundle=DIR (--uids=a,b | --input=FILE)
python -m lmtx_jax.labels list   --bundle=DIR

Input: one JSON object a line, {"uid", "title"?, "content"?}, plain or .gz, or
- for standard input; to remove labels, only the uid is read. New labels are
embedded by the bundle's own encoder, as the others were, and stand behind them.
Whoever has the bundle open, or opens it meanwhile, sees all of a change or
nothing of it.
"""

from __future__ import annotations

import dataclasses
import itertools

from absl import flags, logging

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import open_labels, read_about
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.data.reading import parse_object, record, well_formed
from lmtx_jax.documents import decoded_lines
from lmtx_jax.files import StandardOutput
from lmtx_jax.label_edits import add_labels, remove_labels
from lmtx_jax.label_file import label_line
from lmtx_jax.types import Record, UserError

_LINES = 1024  # written at a time


@dataclasses.dataclass(frozen=True)
class LabelsConfig:
  """Labels."""

  bundle: str = flag('', 'Folder of a trained bundle (RUN/export).')
  input: str = flag(
    '', 'Labels, one JSON object a line; plain, .gz, or - (standard input).'
  )
  uids: str = flag('', 'Labels to remove, with commas between them.')
  encode_batch_tokens: int = flag(
    0,
    'Tokens in one batch of the encoder on one device; 0: 2048 on a CPU, 65536 '
    'elsewhere.',
    low=0,
  )
  data_cache: str = flag(
    default_cache(), 'Folder where compiled programs are kept.'
  )


def main(values: flags.FlagValues, words: list[str]) -> None:
  """Adds, removes or lists."""
  config = cli.build(LabelsConfig, values)
  if len(words) != 1 or words[0] not in _ACTIONS:
    told = ' '.join(words) or 'nothing'
    raise UserError(f'say add, remove or list; got {told}')
  if not config.bundle:
    raise UserError('--bundle is not set')
  _ACTIONS[words[0]](config)


def _add(config: LabelsConfig) -> None:
  if config.uids:
    raise UserError('--uids does not go with add, which reads --input')
  if not config.input:
    raise UserError('--input is not set')
  read_about(config.bundle)  # before what takes long
  places, labels = _read(config.input)
  devices.setup(config.data_cache)
  bundle = Bundle(config.bundle, config.encode_batch_tokens)
  add_labels(bundle, labels, places)
  _say(config, f'{len(labels)} added')


def _remove(config: LabelsConfig) -> None:
  if bool(config.uids) == bool(config.input):
    raise UserError('set either --uids or --input')
  if config.input:
    places, labels = _read(config.input)
    uids = [label.uid for label in labels]
  else:
    uids = config.uids.split(',')
    places = ['--uids'] * len(uids)
  remove_labels(config.bundle, uids, places)
  _say(config, f'{len(uids)} removed')


def _say(config: LabelsConfig, done: str) -> None:
  count = read_about(config.bundle)['num_labels']
  logging.info('%s: %s, now %d labels', config.bundle, done, count)


def _list(config: LabelsConfig) -> None:
  if config.uids or config.input:
    raise UserError('list takes neither --uids nor --input')
  out = StandardOutput('labels list')
  lines = map(label_line, open_labels(config.bundle, 0).labels)
  while some := ''.join(itertools.islice(lines, _LINES)):
    out.write(some.encode())


def _read(path: str) -> tuple[list[str], list[Record]]:
  """Where each label stands, and the labels."""
  places, labels = [], []
  for place, line in decoded_lines(path):
    item = record(place, parse_object(place, line))
    places.append(place)
    labels.append(Record(*map(well_formed, item)))
  return places, labels


_ACTIONS = {'add': _add, 'remove': _remove, 'list': _list}

if __name__ == '__main__':
  cli.run(main, (LabelsConfig,), __doc__, takes_words=True)
