"""The service under load: seconds of a document, documents a second, memory.

python -m tests.benchmarks.serve --bundle=DIR --input=docs.jsonl
    [--parts=start,single,throughput,soak] [--num_docs=512] [--clients=32]
    [--soak_s=60] [--soak_clients=64]

It starts `lmtx_jax.serve` on a copy of the bundle, and asks it from this
process:

start: seconds from the command to the first answer, with compiled programs in
  the cache (a first start fills it) and, by --cold, without.
single: milliseconds of a document, one after the other, on one connection.
throughput: documents a second of --clients, each sending one document after
  the other, against `Bundle.predictions` of the same documents in a process of
  its own, in turns; the ratio is of medians.
soak: --soak_clients for --soak_s seconds, 1 request of 20 malformed; labels
  are added and removed meanwhile, and each must be found by the next request.
  Answers are compared with those of one document at a time; resident memory of
  the service is looked at every 5 s, and told of the second half.

A JSON line a part, the first with the median length of a document in tokens, as
the encoder reads it. Mind what else the machine does.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
import urllib.request

from absl import flags
import aiohttp
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.documents import read_documents
from lmtx_jax.types import Record, UserError
from tests.benchmarks.serve_soak import KEY, Service, Soak, new_session

_PARTS = ('start', 'single', 'throughput', 'soak')
_PATIENCE_S = 300


@dataclasses.dataclass(frozen=True)
class ServeBenchmarkConfig:
  """Service."""

  bundle: str = flag('', 'Folder of a trained bundle; it is copied.')
  input: str = flag('', 'Documents, one JSON object a line; plain or .gz.')
  parts: str = flag(','.join(_PARTS), 'What is measured.')
  num_docs: int = flag(512, 'Documents of a pass, the first ones.', low=1)
  rounds: int = flag(3, 'Passes of the throughput.', low=1)
  clients: int = flag(32, 'Clients of the throughput.', low=1)
  soak_s: float = flag(60, 'Seconds of the soak.', low=1)
  soak_clients: int = flag(64, 'Clients of the soak.', low=1)
  cold: bool = flag(False, 'Also times a start with an empty cache.')
  data_cache: str = flag(default_cache(), 'Folder of compiled programs.')


@contextlib.contextmanager
def running(bundle: str, folder: str, cache: str) -> Iterator[Service]:
  """Starts the service, waits for an answer, stops it; it must end with 0."""
  key_file = os.path.join(folder, 'key')
  with open(key_file, 'w', encoding='utf-8') as f:
    f.write(KEY)
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  start = time.perf_counter()
  process = subprocess.Popen(
    [
      *(sys.executable, '-m', 'lmtx_jax.serve', f'--bundle={bundle}'),
      *(f'--port={port}', f'--labels_key_file={key_file}'),
      f'--data_cache={cache}',
    ]
  )
  try:
    url = f'http://127.0.0.1:{port}'
    _first_answer(url, process)
    yield Service(url, time.perf_counter() - start)
  finally:
    process.terminate()
    code = process.wait(_PATIENCE_S)
  if code:
    raise UserError(f'the service ended with {code}')


def _first_answer(url: str, process: subprocess.Popen) -> None:
  request = urllib.request.Request(
    f'{url}/v1/tag',
    b'{"documents": [{"content": "a first document"}]}',
    {'Content-Type': 'application/json'},
  )
  until = time.monotonic() + _PATIENCE_S
  while time.monotonic() < until and process.poll() is None:
    with contextlib.suppress(OSError), urllib.request.urlopen(request):
      return
    time.sleep(0.02)
  raise UserError('the service does not answer')


def _all_compiled(service: Service) -> None:
  """Waits until no shape is being compiled any more."""
  while True:
    with urllib.request.urlopen(f'{service.url}/health') as response:
      health = json.load(response)
    if health['compiled_shapes'] == health['shapes']:
      return
    time.sleep(0.2)


def _body(record: Record) -> bytes:
  return json.dumps({'documents': [record._asdict()]}).encode()


async def ask_all(
  service: Service, bodies: list[bytes], clients: int
) -> tuple[float, list[float], list[Any]]:
  """Clients share the bodies, each sending one after the other.

  Returns:
    seconds of all, seconds of each request, and the answers in order.
  """
  seconds, answers = [], [None] * len(bodies)
  todo = iter(enumerate(bodies))

  async def client(session: aiohttp.ClientSession) -> None:
    for number, body in todo:
      start = time.perf_counter()
      async with session.post(f'{service.url}/v1/tag', data=body) as response:
        answers[number] = await response.json()
      seconds.append(time.perf_counter() - start)

  async with new_session() as session:
    start = time.perf_counter()
    await asyncio.gather(*(client(session) for _ in range(clients)))
    return time.perf_counter() - start, seconds, answers


def single(service: Service, bodies: list[bytes]) -> dict[str, Any]:
  """One document at a time."""
  _, seconds, _ = asyncio.run(ask_all(service, bodies, 1))
  p50, p90, p99 = np.percentile(np.array(seconds) * 1e3, [50, 90, 99])
  return {'requests': len(seconds), 'p50_ms': p50, 'p90_ms': p90, 'p99_ms': p99}


def throughput(
  service: Service,
  bodies: list[bytes],
  records: list[Record],
  config: ServeBenchmarkConfig,
) -> dict[str, Any]:
  """Many clients against prediction of all at once, in turns."""
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe()
  process = context.Process(
    target=_predict,
    args=(theirs, config.bundle, config.data_cache, records),
    daemon=True,
  )
  process.start()
  theirs.close()
  ours.recv()  # warm
  rates = collections.defaultdict(list)
  for _ in range(config.rounds):
    wall, _, _ = asyncio.run(ask_all(service, bodies, config.clients))
    rates['serve'].append(len(bodies) / wall)
    ours.send(True)
    rates['predict'].append(len(records) / ours.recv())
  ours.send(False)
  process.join()
  serve, predict = map(statistics.median, (rates['serve'], rates['predict']))
  return {
    'clients': config.clients,
    'serve_docs_s': serve,
    'predict_docs_s': predict,
    'ratio': serve / predict,
  }


def _predict(pipe, bundle: str, cache: str, records: list[Record]) -> None:
  """Seconds of a prediction, each time the pipe says True."""
  from lmtx_jax import devices

  devices.setup(cache)
  from lmtx_jax.bundle import Bundle

  tagger = Bundle(bundle)
  tagger.predictions(records, 10)
  pipe.send('warm')
  while pipe.recv():
    start = time.perf_counter()
    tagger.predictions(records, 10)
    pipe.send(time.perf_counter() - start)


def main(values: flags.FlagValues) -> None:
  """Measures part after part."""
  config = cli.build(ServeBenchmarkConfig, values)
  for name in ('bundle', 'input'):
    if not getattr(config, name):
      raise UserError(f'--{name} is not set')
  parts = config.parts.split(',')
  if unknown := set(parts) - set(_PARTS):
    raise UserError(f'--parts: there is no {sorted(unknown)[0]!r}')
  records = list(itertools.islice(_records(config.input), config.num_docs))
  _print('documents', **lengths(config.bundle, records))
  with tempfile.TemporaryDirectory() as folder:
    bundle = shutil.copytree(config.bundle, os.path.join(folder, 'bundle'))
    if 'start' in parts and config.cold:
      cache = os.path.join(folder, 'cache')
      with running(bundle, folder, cache) as service:
        _print('cold start', seconds=service.start_s)
    with running(bundle, folder, config.data_cache) as service:
      _all_compiled(service)  # and in the cache
    with running(bundle, folder, config.data_cache) as service:
      if 'start' in parts:
        _print('start', seconds=service.start_s)
      _all_compiled(service)
      _measure(service, parts, records, config)


def lengths(bundle: str, records: list[Record]) -> dict[str, Any]:
  """How many documents there are, and how long they are."""
  context = multiprocessing.get_context('spawn')
  with context.Pool(1) as pool:  # this process needs no encoder in memory
    median = pool.apply(_median_length, (bundle, records))
  return {'documents': len(records), 'median_tokens': median}


def _median_length(bundle: str, records: list[Record]) -> float:
  from lmtx_jax.bundle import Bundle

  return float(np.median(Bundle(bundle).inputs(records).lengths))


def _measure(
  service: Service,
  parts: list[str],
  records: list[Record],
  config: ServeBenchmarkConfig,
) -> None:
  bodies = [_body(record) for record in records]
  work: dict[str, Callable[[], dict[str, Any]]] = {
    'single': lambda: single(service, bodies),
    'throughput': lambda: throughput(service, bodies, records, config),
    'soak': lambda: _soak(service, bodies, config),
  }
  for name, measure in work.items():
    if name in parts:
      _print(name, **measure())


def _soak(
  service: Service, bodies: list[bytes], config: ServeBenchmarkConfig
) -> dict[str, Any]:
  _, _, expected = asyncio.run(ask_all(service, bodies, 1))
  soak = Soak(service, bodies, expected)
  return asyncio.run(soak.run(config.soak_clients, config.soak_s))


def _records(path: str) -> Iterator[Record]:
  """Documents that are not empty; others are refused."""
  for record in read_documents(path):
    if record.title.strip() or record.content.strip():
      yield record


def _print(part: str, **facts: Any) -> None:
  rounded = {
    name: round(value, 3) if isinstance(value, float) else value
    for name, value in facts.items()
  }
  print(json.dumps({'part': part, **rounded}), flush=True)


if __name__ == '__main__':
  cli.run(main, (ServeBenchmarkConfig,), __doc__)
