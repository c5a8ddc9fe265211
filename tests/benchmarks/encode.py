"""Documents embedded a second, here and by sentence-transformers.

  python -m tests.benchmarks.encode --model=DIR [--texts=FILE.jsonl[.gz]]

Same weights, texts, cores and lengths. Each runtime lives in a process of its
own, so that their thread pools do not disturb each other, and they take turns.
Text to embedding is timed, the tokenizer included, loading and compilation not.
Prints one line of JSON: medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
import gzip
import json
import multiprocessing
from multiprocessing.connection import Connection
import os
import statistics
import tempfile
import time

from absl import app, flags
import numpy as np

_MODEL = flags.DEFINE_string(
  'model', None, 'Folder of a sentence-transformers model.', required=True
)
_TEXTS = flags.DEFINE_string(
  'texts',
  '',
  'JSON lines with "text", or "title" and "content"; default: docstrings.',
)
_NUM_TEXTS = flags.DEFINE_integer('num_texts', 512, 'Texts at most.')
_MAX_TOKENS = flags.DEFINE_integer('max_tokens', 128, 'Longest text, tokens.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed turns of each.')
_BATCH_TOKENS = flags.DEFINE_integer('batch_tokens', 16384, 'Our batch.')
_PEER_BATCH = flags.DEFINE_integer(
  'peer_batch', 32, 'Texts in a batch of sentence-transformers.'
)

Embed = Callable[[], np.ndarray]


def ours(
  model: str, texts: list[str], max_tokens: int, batch_tokens: int
) -> Embed:
  """Texts to `[num_texts, dim]` embeddings by lmtx_jax."""
  from lmtx_jax import devices
  from lmtx_jax.data.batches import bucket_widths
  from lmtx_jax.data.tokens import tokenize_texts
  from lmtx_jax.encode import Encoder
  from lmtx_jax.model import pretrained

  devices.setup(tempfile.mkdtemp())
  loaded = pretrained.load(model)
  encoder = Encoder(loaded.encoder, loaded.params, batch_tokens)

  def embed() -> np.ndarray:
    tokens = tokenize_texts([''] * len(texts), texts, loaded.tokenizer, 512)
    view = tokens.view(max_tokens)
    return encoder.encode(view, bucket_widths(view.lengths, max_tokens))

  return embed


def theirs(model: str, texts: list[str], max_tokens: int, batch: int) -> Embed:
  """Texts to `[num_texts, dim]` embeddings by sentence-transformers."""
  from sentence_transformers import SentenceTransformer

  encoder = SentenceTransformer(model, device='cpu')
  encoder.max_seq_length = max_tokens
  return lambda: encoder.encode(texts, batch_size=batch)


def serve(make: Callable[..., Embed], args: tuple, pipe: Connection) -> None:
  """Embeds at each word of the parent; answers seconds and CPU seconds."""
  embed = make(*args)
  pipe.send(embed())
  while pipe.recv():
    wall, cpu = time.perf_counter(), time.process_time()
    embed()
    pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


def read_texts(file: str, limit: int) -> list[str]:
  """The first texts of a file, or docstrings of numpy and scipy."""
  if not file:
    import scipy.optimize
    import scipy.signal
    import scipy.stats

    found = {
      str(getattr(module, name).__doc__): None
      for module in (np, scipy.stats, scipy.signal, scipy.optimize)
      for name in sorted(dir(module))
    }
    return [text for text in found if len(text) > 200][:limit]
  with (gzip.open if file.endswith('.gz') else open)(file, 'rt') as f:
    rows = [json.loads(line) for line, _ in zip(f, range(limit), strict=False)]
  return [
    row['text'] if 'text' in row else f'{row["title"]}\t{row["content"]}'
    for row in rows
  ]


def main(_) -> None:
  """Runs both in turns."""
  texts = read_texts(_TEXTS.value, _NUM_TEXTS.value)
  spawn = multiprocessing.get_context('spawn')
  pipes, first, workers = {}, {}, []
  for make, batch in ((ours, _BATCH_TOKENS.value), (theirs, _PEER_BATCH.value)):
    pipe, child = spawn.Pipe()
    args = (_MODEL.value, texts, _MAX_TOKENS.value, batch)
    worker = spawn.Process(target=serve, args=(make, args, child), daemon=True)
    worker.start()
    child.close()
    workers.append(worker)
    first[make] = pipe.recv()
    pipes[make] = pipe
  times = {make: [] for make in pipes}
  for _ in range(_ROUNDS.value):
    for make, pipe in pipes.items():
      pipe.send(True)
      times[make].append(pipe.recv())
  for pipe, worker in zip(pipes.values(), workers, strict=True):
    pipe.send(False)
    worker.join()
  result = {
    'texts': len(texts),
    'max_tokens': _MAX_TOKENS.value,
    'cores': len(os.sched_getaffinity(0)),
    'max_difference': float(abs(first[ours] - first[theirs]).max()),
  }
  for make, pairs in times.items():
    for name, values in zip(
      ('s', 'cpu_s'), zip(*pairs, strict=True), strict=True
    ):
      rate = len(texts) / statistics.median(values)
      result[f'{make.__name__}_texts_per_{name}'] = round(rate, 2)
  result['ratio'] = round(
    statistics.median(
      b[0] / a[0] for a, b in zip(*times.values(), strict=True)
    ),
    3,
  )
  print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
