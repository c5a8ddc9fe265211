"""The LLM client against a bare script, on a running SGLang server.

python -m tests.benchmarks.teacher --url=http://HOST:PORT --tokenizer=DIR
    [--docs=trn.json.gz --labels=lbl.json.gz] [--num_docs=200]
    [--labels_per_doc=10] [--rounds=3] [--queued=PAIRS]

The bare script posts the same prompts, document by document, one request after
the other, in whichever batch size was the fastest in a first round. The client
works as in a run: it reads and cuts the documents, and every verdict goes into
a store. It has a process of its own, whose peak memory is shown. Both start
with an empty cache. "cached" is the share of the prompt tokens that can be
reused (all but a document's first prefix) that was reused. Without files, the
documents are nonsense.

--queued times nothing: so many pairs wait, 60 s of them are asked, and the
peak memory of that process is shown.

One JSON line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import gzip
import hashlib
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
import urllib.request

import numpy as np

from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus, document_texts, label_texts
from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.teacher import LlmTeacher
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import Ragged

_BATCH_SIZES = (16, 32, 64, 128, 256, 512)
_QUEUED_S = 60.0
_NUM_LABELS = 4000
_SPELLINGS = (' yes', ' no', ' Yes', ' No', 'yes', 'no', 'Yes', 'No')


def main() -> None:
  """Prints one JSON line."""
  args = _arguments()
  if args.child:
    print(json.dumps(_child(args)))
    return
  if args.queued:
    found = _run_child(args)
    print(json.dumps({'benchmark': 'teacher, queued', **found}))
    return
  prompts, reusable = _prompts(args)
  first = {size: _bare(args, prompts, size) for size in _BATCH_SIZES}
  best = min(first, key=first.__getitem__)
  seconds = {'bare': [], 'client': []}
  for _ in range(args.rounds):
    seconds['bare'].append(_bare(args, prompts, best))
    _flush(args.url)
    child = _run_child(args)
    seconds['client'].append(child['seconds'])
  bare, client = (statistics.median(s) for s in seconds.values())
  result = {
    'benchmark': 'teacher',
    'pairs': len(prompts),
    'pairs_per_s': round(len(prompts) / client, 1),
    'bare_pairs_per_s': round(len(prompts) / bare, 1),
    'bare_batch_size': best,
    'ratio': round(bare / client, 3),
    'cached': round(child['cached_tokens'] / reusable, 4),
    'peak_mib': child['peak_mib'],
    'seconds': {k: [round(s, 2) for s in v] for k, v in seconds.items()},
  }
  print(json.dumps(result))


class _Texts:
  """A source of records that are made or read when asked for."""

  def __init__(self, path: str, num: int, words: int):
    self._records = None
    if path:
      with _open(path) as f:
        self._records = [json.loads(x) for x in itertools.islice(f, num)]
    self._num = len(self._records) if path else num
    self._words = words

  def __len__(self) -> int:
    return self._num

  def __getitems__(self, rows: list[int]) -> list[dict[str, str]]:
    return [self._record(row) for row in rows]

  def _record(self, row: int) -> dict[str, str]:
    if self._records is not None:
      found = self._records[row]
      return {k: found.get(k, '') for k in ('uid', 'title', 'content')}
    rng = random.Random(f'{self._words} {row}')
    words = [
      ''.join(rng.choice('bcdfglmnprst') + rng.choice('aeiou') for _ in 'abc')
      for _ in range(self._words)
    ]
    title = f'{" ".join(words[:3])} {row}'
    return {'uid': str(row), 'title': title, 'content': ' '.join(words[3:])}


def _open(path: str) -> Any:
  opener = gzip.open if path.endswith('.gz') else open
  return opener(path, 'rt', encoding='utf-8')


def _pairs(args: argparse.Namespace) -> Pairs:
  """So many random labels for each document."""
  num_docs = args.num_docs
  if args.queued:
    num_docs = -(-args.queued // args.labels_per_doc)
  docs = _Texts(args.docs, num_docs, 400)
  labels = _Texts(args.labels, 10**9 if args.labels else _NUM_LABELS, 3)
  rng = np.random.default_rng(0)
  corpora = [
    Corpus(
      name,
      hashlib.sha256(name.encode()).hexdigest(),
      source,
      np.arange(len(source)),
      *[Ragged.empty(len(source))] * 2,
    )
    for name, source in (('train', docs), ('label', labels))
  ]
  label_index = rng.integers(0, len(labels), (len(docs), args.labels_per_doc))
  return Pairs(
    document_texts(corpora[0], TextConfig()),
    label_texts(corpora[1], TextConfig()),
    np.repeat(np.arange(len(docs)), args.labels_per_doc),
    label_index.ravel(),
  )


def _teacher(args: argparse.Namespace) -> LlmTeacher:
  config = LlmConfig(
    teacher_url=args.url,
    teacher_tokenizer=args.tokenizer,
    chat_format='none',
  )
  return LlmTeacher(config, 'tag')


def _child(args: argparse.Namespace) -> dict[str, Any]:
  """Judges in this process; seconds without imports and first contact."""
  pairs, teacher = _pairs(args), _teacher(args)
  teacher.prepare()
  if args.queued:
    teacher = _Hasty(teacher)
  with tempfile.TemporaryDirectory() as folder:
    store = VerdictStore(os.path.join(folder, 'verdicts.sqlite'))
    start = time.perf_counter()
    _, tally = store.judge(teacher, pairs, 'benchmark')
    seconds = time.perf_counter() - start
    store.close()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {
    'queued': len(pairs),
    'asked': tally.asked,
    'seconds': round(seconds, 3),
    'peak_mib': round(peak, 1),
    'arrays_mib': round(16 * len(pairs) / 2**20, 1),
    'cached_tokens': teacher.usage()['cached_tokens'],
  }


class _Hasty:
  """Leaves what is not answered in time."""

  def __init__(self, teacher: LlmTeacher):
    self._teacher = teacher
    self._end: float | None = None
    self.identity = teacher.identity
    self.yes_threshold = teacher.yes_threshold
    self.usage = teacher.usage

  def judge(self, pairs: Pairs) -> Iterator[tuple]:
    self._end = self._end or time.monotonic() + _QUEUED_S
    for chunk in self._teacher.judge(pairs):
      if time.monotonic() > self._end:
        return
      yield chunk


def _run_child(args: argparse.Namespace) -> dict[str, Any]:
  command = [sys.executable, '-m', 'tests.benchmarks.teacher', *sys.argv[1:]]
  done = subprocess.run(
    [*command, '--child'], stdout=subprocess.PIPE, text=True, check=True
  )
  return json.loads(done.stdout.splitlines()[-1])


def _prompts(args: argparse.Namespace) -> tuple[list[str], int]:
  """All prompts, and how many of their tokens a cache can give.

  That is, of every prompt but a document's first, what it shares with that.
  """
  pairs, teacher = _pairs(args), _teacher(args)
  prompts = [
    teacher._maker.prompt(question.doc, question.label)
    for block in teacher._blocks(pairs)
    for opener in block
    for question in (opener, *opener.waiting)
  ]
  encode = teacher._connection.tokenizer.encode
  reusable, k = 0, args.labels_per_doc
  for start in range(0, len(prompts), k):
    first = encode(prompts[start])
    for other in map(encode, prompts[start + 1 : start + k]):
      same = np.array(first[: len(other)]) == np.array(other[: len(first)])
      reusable += int(np.argmin(same)) if not same.all() else len(same)
  return prompts, reusable


def _bare(args: argparse.Namespace, prompts: list[str], size: int) -> float:
  """Seconds of the plainest script."""
  tokenizer = _teacher(args)._connection.tokenizer
  encoded = [tokenizer.encode(x, add_special_tokens=False) for x in _SPELLINGS]
  ids = sorted({x[0] for x in encoded if len(x) == 1})
  _flush(args.url)
  start = time.perf_counter()
  for first in range(0, len(prompts), size):
    body = {
      'text': prompts[first : first + size],
      'sampling_params': {'max_new_tokens': 0, 'temperature': 0},
      'return_logprob': True,
      'token_ids_logprob': ids,
    }
    _post(f'{args.url}/generate', body)
  return time.perf_counter() - start


def _flush(url: str) -> None:
  _post(f'{url}/flush_cache', {})


def _post(url: str, body: dict[str, Any]) -> bytes:
  request = urllib.request.Request(
    url, json.dumps(body).encode(), {'Content-Type': 'application/json'}
  )
  with urllib.request.urlopen(request, timeout=600) as reply:
    return reply.read()


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--url', required=True)
  parser.add_argument('--tokenizer', required=True)
  parser.add_argument('--docs', default='')
  parser.add_argument('--labels', default='')
  parser.add_argument('--num_docs', type=int, default=200)
  parser.add_argument('--labels_per_doc', type=int, default=10)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--queued', type=int, default=0)
  parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
  return parser.parse_args()


if __name__ == '__main__':
  main()
