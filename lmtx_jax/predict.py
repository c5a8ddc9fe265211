"""Tags documents with a trained bundle.

python -m lmtx_jax.predict --bundle=DIR --input=docs.jsonl --output=tags.jsonl

Input: one JSON object a line, {"uid"?, "title"?, "content"?}, plain or .gz.
Output: one prediction a line, in the order of the input:
{"uid", "labels": [{"uid", "title", "score"}]}, scores are cosines (of a model
trained by --similarity=dot, dot products).
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import itertools
import json
import os

from absl import flags

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.data.reading import lines, parse_object, record, well_formed
from lmtx_jax.files import staged
from lmtx_jax.types import Record, UserError

_BLOCK = 4096  # documents tagged at a time


@dataclasses.dataclass(frozen=True)
class PredictConfig:
  """Prediction."""

  bundle: str = flag('', 'Folder of a trained bundle (RUN/export).')
  input: str = flag('', 'Documents, one JSON object a line; plain or .gz.')
  output: str = flag('', 'File for the predictions, one a line.')
  top_k: int = flag(10, 'Labels a document.', low=1)
  encode_batch_tokens: int = flag(
    0,
    'Tokens in one batch of the encoder on one device; 0: 2048 on a CPU, 16384 '
    'elsewhere.',
    low=0,
  )
  data_cache: str = flag(
    default_cache(), 'Folder where compiled programs are kept.'
  )


def main(values: flags.FlagValues) -> None:
  """Reads, tags, writes."""
  config = cli.build(PredictConfig, values)
  for name in ('bundle', 'input', 'output'):
    if not getattr(config, name):
      raise UserError(f'--{name} is not set')
  devices.setup(config.data_cache)
  if not os.path.isfile(config.input):
    raise UserError(f'--input={config.input}: no such file')
  bundle = Bundle(config.bundle, config.encode_batch_tokens)
  documents = read_documents(config.input)
  output = os.path.abspath(config.output)
  with (
    staged(output) as temporary,
    open(temporary, 'w', encoding='utf-8') as f,
  ):
    while block := list(itertools.islice(documents, _BLOCK)):
      for row in bundle.predictions(block, config.top_k):
        f.write(json.dumps(row, ensure_ascii=False) + '\n')


def read_documents(path: str) -> Iterator[Record]:
  """Streams documents; one without a uid is named by its line number.

  Raises:
    UserError: a line that is no JSON object of texts, as FILE:LINE.
  """
  for number, (place, line) in enumerate(lines(path, 'documents'), 1):
    item = record(place, parse_object(place, line), uid=str(number))
    yield Record(*map(well_formed, item))


if __name__ == '__main__':
  cli.run(main, (PredictConfig,), __doc__)
