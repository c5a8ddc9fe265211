"""predict: its rate against the encoder's own, and its memory by lines.

python -m tests.benchmarks.predict --bundle=DIR --input=docs.jsonl
    [--num_docs=4096] [--rounds=3]
python -m tests.benchmarks.predict --bundle=DIR --slope=10000,100000,300000
    [--words=3]

The first times two processes in turns, start-up and compilation left out:

predict: reads the file, tokenises, embeds, looks up and writes, by the loop of
  `lmtx_jax.predict`.
encoder: embeds the same documents in the same batches, tokenised before.

"ratio" is that of predict's documents a second to the encoder's (medians).

--slope runs `python -m lmtx_jax.predict` as a user does, on so many lines of a
few words each, and tells the highest resident memory (of the process, with the
pages of files that it maps). "bytes_a_line" is the slope from the last number
but one to the last, for the first lines also fill what is kept of all, and
"lines_s" the rate of the lines between them. For millions of
lines take a bundle of a tiny encoder, such as that of

    python -m lmtx_jax.main --flagfile=configs/quickstart.flags --num_cycles=0
        --warmup_epochs=0 --scratch_layers=1 --scratch_dim=32 --scratch_heads=2
        --max_doc_tokens=16

One JSON line.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.documents import read_blocks, read_documents
from lmtx_jax.predict import PredictConfig, tag_lines
from lmtx_jax.prediction_file import PredictionFile
from lmtx_jax.types import UserError
from tests.benchmarks.alternate import alternate, medians

_VOCABULARY = 5000  # made words of the lines of --slope


@dataclasses.dataclass(frozen=True)
class PredictBenchmarkConfig:
  """Prediction."""

  bundle: str = flag('', 'Folder of a trained bundle.')
  input: str = flag('', 'Documents, one JSON object a line; plain or .gz.')
  num_docs: int = flag(4096, 'The first documents of the file.', low=1)
  rounds: int = flag(3, 'Timed turns of each.', low=1)
  top_k: int = flag(10, 'Labels a document.', low=1)
  slope: str = flag('', 'Numbers of lines to measure memory at, ascending.')
  words: int = flag(3, 'Words in a line of --slope.', low=1)
  data_cache: str = flag(default_cache(), 'Folder of compiled programs.')


def make_predict(config: PredictBenchmarkConfig, path: str) -> Callable:
  """File to file."""
  bundle = _opened(config)
  job = PredictConfig(
    bundle=config.bundle,
    input=path,
    output=f'{path}.tags',
    top_k=config.top_k,
  )

  def predict() -> None:
    with PredictionFile(job.output, job.format, '0' * 8, resume=False) as out:
      out.finish(tag_lines(bundle, job, out), len(bundle.labels))

  return predict


def make_encoder(config: PredictBenchmarkConfig, path: str) -> Callable:
  """Tokens to embeddings."""
  bundle = _opened(config)
  blocks = [block.inputs for block in read_blocks(path, bundle.inputs)]

  def encode() -> None:
    for inputs in blocks:
      bundle.embed(inputs)

  return encode


def _opened(config: PredictBenchmarkConfig) -> Any:
  from lmtx_jax import devices

  devices.setup(config.data_cache)
  from lmtx_jax.bundle import Bundle

  return Bundle(config.bundle)


def rates(config: PredictBenchmarkConfig) -> dict[str, Any]:
  """Documents a second of both."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'docs.jsonl')
    records = list(
      itertools.islice(read_documents(config.input), config.num_docs)
    )
    with open(path, 'w', encoding='utf-8') as f:
      f.writelines(json.dumps(r._asdict()) + '\n' for r in records)
    seconds = alternate(
      {
        'predict': (make_predict, (config, path)),
        'encoder': (make_encoder, (config, path)),
      },
      config.rounds,
    )
  median = medians(seconds)
  return {
    'num_docs': len(records),
    'predict_docs_s': round(len(records) / median['predict'], 2),
    'encoder_docs_s': round(len(records) / median['encoder'], 2),
    'ratio': round(median['encoder'] / median['predict'], 4),
    'ratio_of_rounds': [
      round(e / p, 4)
      for p, e in zip(seconds['predict'], seconds['encoder'], strict=True)
    ],
  }


def slope(config: PredictBenchmarkConfig, counts: list[int]) -> dict[str, Any]:
  """Memory of the command by lines."""
  peaks, walls = [], []
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'docs.jsonl')
    for count in counts:
      _write_lines(path, count, config.words)
      peak, wall = _peak(config, path)
      peaks.append(peak)
      walls.append(wall)
  more = counts[-1] - counts[-2]
  return {
    'lines': counts,
    'seconds': [round(wall, 1) for wall in walls],
    'max_rss_mib': [round(peak / 2**20, 1) for peak in peaks],
    'bytes_a_line': round((peaks[-1] - peaks[-2]) / more, 2),
    'lines_s': round(more / (walls[-1] - walls[-2])),
  }


def _write_lines(path: str, count: int, words: int) -> None:
  draw = random.Random(0)
  known = [
    ''.join(draw.choices('abcdefghijklmnoprstuvw', k=draw.randint(2, 6)))
    for _ in range(_VOCABULARY)
  ]
  with open(path, 'w', encoding='utf-8') as f:
    for _ in range(count):
      text = ' '.join(draw.choices(known, k=words))
      f.write(f'{{"content": "{text}"}}\n')


def _peak(config: PredictBenchmarkConfig, path: str) -> tuple[int, float]:
  """Bytes of the highest resident memory, and seconds, of the command."""
  line = [
    *(sys.executable, '-m', 'lmtx_jax.predict', f'--bundle={config.bundle}'),
    *(f'--input={path}', f'--output={path}.tags', f'--top_k={config.top_k}'),
    f'--data_cache={config.data_cache}',
  ]
  start = time.monotonic()
  with tempfile.TemporaryFile() as log:
    process = subprocess.Popen(line, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
      log.seek(0)
      sys.stderr.write(log.read().decode())
      raise UserError(f'predict ended with {process.returncode}; see above')
  return usage.ru_maxrss * 1024, time.monotonic() - start


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(PredictBenchmarkConfig, values)
  if not config.bundle:
    raise UserError('--bundle is not set')
  if bool(config.slope) == bool(config.input):
    raise UserError('set either --input or --slope')
  if config.slope:
    found = slope(config, _counts(config.slope))
  else:
    found = rates(config)
  print(json.dumps({'benchmark': 'predict', **found}))


def _counts(text: str) -> list[int]:
  words = text.split(',')
  if not all(word.isdecimal() for word in words):
    raise UserError(f'--slope={text}: expected numbers with commas')
  counts = [int(word) for word in words]
  if len(counts) < 2 or counts[0] < 1 or counts != sorted(set(counts)):
    raise UserError(f'--slope={text}: expected ascending numbers, two or more')
  return counts


if __name__ == '__main__':
  cli.run(main, (PredictBenchmarkConfig,), __doc__)
