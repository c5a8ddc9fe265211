"""Tags documents with a trained bundle.

python -m lmtx_jax.predict --bundle=DIR --input=docs.jsonl --output=tags.jsonl

Input: one JSON object a line, {"uid"?, "title"?, "content"?}, plain or .gz, or
- for standard input. Output: a file, compressed if it ends in .gz, or - for
standard output; in the order of the input, by --format:

  jsonl  {"uid", "labels": [{"uid", "title", "score"}]} a line
  csv    line,uid,rank,label,title,score,error: a row a label, or one without
  xc     num_docs num_labels, then label:score label:score a line

Scores are cosines (of a model trained by --similarity=dot, dot products). With
--on_error=skip a line that is no document is answered too, so that answers and
lines go together: {"uid": null, "error"}, a row with an error, an empty line.
The same command goes on where a killed one ended.
"""

from __future__ import annotations

import collections
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import json
import math
import os

from absl import flags
from tqdm import tqdm

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import ABOUT, LabelState
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.documents import (
  STANDARD,
  Block,
  ahead,
  check_input,
  read_blocks,
)
from lmtx_jax.model.tensor_files import WEIGHTS
from lmtx_jax.prediction_file import (
  CSV,
  FORMATS,
  JSONL,
  XC,
  PredictionFile,
  csv_text,
  jsonl_text,
  xc_text,
)
from lmtx_jax.types import Shortlist, UserError

_AHEAD = 2  # blocks that are read before they are tagged, or written after


@dataclasses.dataclass(frozen=True)
class PredictConfig:
  """Prediction."""

  bundle: str = flag('', 'Folder of a trained bundle (RUN/export).')
  input: str = flag(
    '', 'Documents, one JSON object a line; plain, .gz, or - (standard input).'
  )
  output: str = flag(
    '', 'File for the predictions; .gz is compressed, - is standard output.'
  )
  format: str = flag(JSONL, 'Of the output, see above.', choices=FORMATS)
  top_k: int = flag(10, 'Labels a document, at most.', low=1)
  min_score: float = flag(-math.inf, 'Lowest score of a label that is told.')
  on_error: str = flag(
    'stop',
    'Whether a line that is no document ends the command, or is noted in the '
    'output.',
    choices=('stop', 'skip'),
  )
  resume: bool = flag(
    True,
    'Goes on where a command of the same input, bundle, format, top_k and '
    'min_score was stopped.',
  )
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
  if math.isnan(config.min_score):
    raise UserError('--min_score=nan is no number')
  devices.setup(config.data_cache)
  check_input(config.input)
  bundle = Bundle(config.bundle, config.encode_batch_tokens)
  with PredictionFile(
    config.output,
    config.format,
    _job(config),
    resume=config.resume and config.input != STANDARD,
  ) as out:
    num_lines = tag_lines(bundle, config, out)
    out.finish(num_lines, len(bundle.labels))


def tag_lines(
  bundle: Bundle, config: PredictConfig, out: PredictionFile
) -> int:
  """Tags the lines that are not answered yet; returns how many there are.

  While the devices embed one block of documents, a thread reads and tokenises
  the next ones and another writes the last.
  """
  state, num_lines = bundle.state, out.answered
  lines = read_blocks(
    config.input,
    bundle.inputs,
    answered=out.answered,
    skip_errors=config.on_error == 'skip',
  )
  pending = collections.deque()
  with (
    contextlib.closing(ahead(lines, _AHEAD)) as blocks,
    futures.ThreadPoolExecutor(1) as writer,
    tqdm(desc='tag', unit='document', initial=num_lines) as bar,
  ):
    for block in blocks:
      tags = bundle.tag_inputs(block.inputs, config.top_k, state)
      pending.append(writer.submit(_write, out, config, block, tags, state))
      if len(pending) > _AHEAD:
        pending.popleft().result()
      num_lines = block.first + len(block.uids) - 1
      if not math.isnan(block.read):
        bar.set_postfix_str(f'{block.read:.0%} of the file', refresh=False)
      bar.update(num_lines - bar.n)
    for done in pending:
      done.result()
  return num_lines


def _write(
  out: PredictionFile,
  config: PredictConfig,
  block: Block,
  tags: Shortlist,
  state: LabelState,
) -> None:
  """Writes the answers to a block of lines, but those that are there."""
  old = max(0, out.answered - block.first + 1)
  if config.format == XC:
    kept = (tags.labels >= 0) & (tags.scores >= config.min_score)
    found = iter(
      (labels[keep].tolist(), scores[keep].tolist())
      for labels, scores, keep in zip(
        tags.labels, tags.scores, kept, strict=True
      )
    )
    pairs = [([], []) if uid is None else next(found) for uid in block.uids]
    out.write(xc_text(pairs[old:]))
    return
  described = iter(state.describe(tags, config.min_score))
  errors = iter(block.errors)
  rows = [
    {'uid': None, 'error': next(errors)}
    if uid is None
    else {'uid': uid, 'labels': next(described)}
    for uid in block.uids
  ]
  if config.format == CSV:
    out.write(csv_text(block.first + old, rows[old:]))
  else:
    out.write(jsonl_text(rows[old:]))


def _job(config: PredictConfig) -> str:
  """Hex digest of all that the predictions follow from."""
  with open(os.path.join(config.bundle, ABOUT), 'rb') as f:
    about = f.read()
  files = [os.path.join(config.bundle, WEIGHTS)]
  if config.input != STANDARD:
    files.append(config.input)
  seen = [os.stat(file) for file in files]
  facts = [
    *(os.path.abspath(config.input), config.format, config.top_k),
    *(config.min_score, about.decode()),
    *([s.st_size, s.st_mtime_ns] for s in seen),
  ]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


if __name__ == '__main__':
  cli.run(main, (PredictConfig,), __doc__)
