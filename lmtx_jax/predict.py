"""Tags documents with a trained bundle.

python -m lmtx_jax.predict --bundle=DIR --input=docs.jsonl --output=tags.jsonl

Input: one JSON object a line, {"uid"?, "title"?, "content"?}, plain or .gz, or
- for standard input. Output: a file, compressed if it ends in .gz, or - for
standard output; in the order of the input, by --format:

  jsonl  {"uid", "labels": [{"uid", "title", "score"}]} a line
  csv    line,uid,rank,label,title,score,error: a row a label, or one without
  xc     num_docs num_labels, then label:score label:score a line

Scores are cosines (of a model trained by --similarity=dot, dot products); with
--lexical_weight=W in training, W times the cosine of words is added, with
--label_prior=P also P times log(1 + pseudo labels of the label), with
--neighbour_weight=N also N times the share, by nearness, of the nearest
training documents with pseudo labels that have it. With --on_error=skip a line
that is no document is answered too, so that answers and lines go together:
{"uid": null, "error"}, a row with an error, an empty line. A document without
text, an empty one, has no labels, and is no error.
The same command goes on where a killed one ended.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
from typing import Any

from absl import flags, logging
import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import LabelState
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.data.tokens import TokenView
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
from lmtx_jax.types import Record, Shortlist, UserError

_AHEAD = 1  # blocks that wait to be embedded, or to be written
_FOUND = 2**24  # scores that are held at a time, whatever --top_k is,
_TOLD = 2**13  # and labels that are held as text
_LOGGED = 5  # lines that are no documents


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
    'Tokens in one batch of the encoder on one device; 0: 2048 on a CPU, 65536 '
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
  check_input(config.input)
  _check_output(config)
  bundle = Bundle(config.bundle, config.encode_batch_tokens)
  with PredictionFile(
    config.output,
    config.format,
    _job(config, bundle.state.about),
    resume=config.resume and config.input != STANDARD,
  ) as out:
    num_lines = tag_lines(bundle, config, out)
    out.finish(num_lines, len(bundle.labels))


def _check_output(config: PredictConfig) -> None:
  """Raises UserError where the output would take the place of the input."""
  if STANDARD in (config.input, config.output):
    return
  if os.path.exists(config.output) and os.path.samefile(
    config.input, config.output
  ):
    raise UserError(f'--output={config.output} is the --input')


def tag_lines(
  bundle: Bundle, config: PredictConfig, out: PredictionFile
) -> int:
  """Tags the lines that are not answered yet; returns how many there are.

  While the devices embed one block of documents, a thread reads and tokenises
  the next, and another looks up and writes the last.
  """
  state, num_lines, num_bad = bundle.state, out.answered, 0

  def prepare(records: list[Record]) -> tuple[TokenView, sp.csr_matrix | None]:
    return bundle.inputs(records), bundle.words(records, state)

  lines = read_blocks(
    config.input,
    prepare,
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
      embeddings = bundle.embed(block.inputs[0])
      pending.append(
        writer.submit(_answer, out, config, block, embeddings, state)
      )
      if len(pending) > _AHEAD:
        pending.popleft().result()
      num_lines = block.first + len(block.uids) - 1
      num_bad = _log_bad(block, out.answered, num_bad)
      if not math.isnan(block.read):
        bar.set_postfix_str(f'{block.read:.0%} of the file', refresh=False)
      bar.update(num_lines - bar.n)
    for done in pending:
      done.result()
  if num_bad:
    logging.warning('%d lines are no documents: skipped', num_bad)
  return num_lines


def _log_bad(block: Block, answered: int, num_bad: int) -> int:
  """Logs what is wrong with the first bad lines; returns how many there are.

  Args:
    block: some lines.
    answered: lines whose answers were there before.
    num_bad: bad lines before the block.
  """
  old = block.uids[: max(0, answered - block.first + 1)].count(None)
  new = block.errors[old:]
  for error in new[: max(0, _LOGGED - num_bad)]:
    logging.warning('skipped: %s', error)
  return num_bad + len(new)


def _answer(
  out: PredictionFile,
  config: PredictConfig,
  block: Block,
  embeddings: np.ndarray,
  state: LabelState,
) -> None:
  """Looks a block up and writes its answers, but those that are there.

  Args:
    out: where to.
    config: what is wanted.
    block: the lines.
    embeddings: `[num_documents, dim]` float32, of its documents.
    state: the labels.
  """
  depth = min(config.top_k, len(state))
  few = max(1, _TOLD // depth)  # documents
  inputs, words = block.inputs
  tags = _tags(state, embeddings, words, inputs.sizes > 0, depth, few)
  if config.format == XC:
    rows = _pairs(block, tags, config.min_score)
  else:
    rows = _rows(block, tags, state, config.min_score)
  old = max(0, out.answered - block.first + 1)
  rows, first = itertools.islice(rows, old, None), block.first + old
  while some := list(itertools.islice(rows, few)):
    out.write(_TEXT[config.format](first, some))
    first += len(some)


def _tags(
  state: LabelState,
  embeddings: np.ndarray,
  words: sp.csr_matrix | None,
  has_text: np.ndarray,
  depth: int,
  few: int,
) -> Iterator[Shortlist]:
  """The best `depth` labels of documents, `few` documents at a time.

  Args:
    state: the labels.
    embeddings: `[n, dim]` float32.
    words: `[n, num_words]` f32, see `LabelState.search`.
    has_text: `[n]` bool; those without get no labels.
    depth: labels a document.
    few: documents.
  """
  many = max(1, _FOUND // depth)
  for start in range(0, len(embeddings), many):
    rows = slice(start, start + many)
    some = None if words is None else words[rows]
    found = state.search(embeddings[rows], some, depth).only_of(has_text[rows])
    for row in range(0, len(found.labels), few):
      part = slice(row, row + few)
      yield Shortlist(found.labels[part], found.scores[part])


def _rows(
  block: Block, tags: Iterator[Shortlist], state: LabelState, min_score: float
) -> Iterator[dict[str, Any]]:
  """The prediction of each line, or why there is none."""
  errors = iter(block.errors)
  described = itertools.chain.from_iterable(
    state.describe(part, min_score) for part in tags
  )
  for uid in block.uids:
    if uid is None:
      yield {'uid': None, 'error': next(errors)}
    else:
      yield {'uid': uid, 'labels': next(described)}


def _pairs(
  block: Block, tags: Iterator[Shortlist], min_score: float
) -> Iterator[tuple[list[int], list[float]]]:
  """Labels and scores of each line; none of one that is no document."""
  found = itertools.chain.from_iterable(
    zip(part.labels, part.scores, strict=True) for part in tags
  )
  for uid in block.uids:
    if uid is None:
      yield [], []
    else:
      labels, scores = next(found)
      kept = (labels >= 0) & (scores >= min_score)
      yield labels[kept].tolist(), scores[kept].tolist()


_TEXT = {
  JSONL: lambda first, rows: jsonl_text(rows),
  CSV: csv_text,
  XC: lambda first, rows: xc_text(rows),
}


def _job(config: PredictConfig, about: Mapping[str, Any]) -> str:
  """Hex digest of all that the predictions follow from.

  Args:
    config: what is wanted.
    about: what lmtx.json told when the bundle was opened.
  """
  files = [os.path.join(config.bundle, WEIGHTS)]
  if config.input != STANDARD:
    files.append(config.input)
  seen = [os.stat(file) for file in files]
  facts = [
    *(os.path.abspath(config.input), config.format, config.top_k),
    *(config.min_score, json.dumps(about, sort_keys=True)),
    *([s.st_size, s.st_mtime_ns] for s in seen),
  ]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


if __name__ == '__main__':
  cli.run(main, (PredictConfig,), __doc__)
