"""Tags documents over HTTP.

python -m lmtx_jax.serve --bundle=DIR [--host=127.0.0.1] [--port=8000]

POST /v1/tag {"documents": [{"uid"?, "title"?, "content"}], "top_k"?,
"min_score"?} answers {"results": [{"uid", "labels": [{"uid", "title",
"score"}]}]}. A page to try it is at /, all addresses are at /docs.

SIGTERM and Ctrl-C end it once the requests that it has are answered.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import os
import socket

from absl import flags, logging
from fastapi import FastAPI
import uvicorn

from lmtx_jax import cli, devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.cli import flag
from lmtx_jax.config import default_cache
from lmtx_jax.interrupts import Preempted
from lmtx_jax.serving.app import create_app
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.editing import Editing
from lmtx_jax.serving.keys import Keys, read_keys
from lmtx_jax.serving.labels import BundleEditor
from lmtx_jax.serving.limits import Limits
from lmtx_jax.serving.metrics import Metrics
from lmtx_jax.serving.tagger import Tagger, default_batch_tokens
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class ServeConfig:
  """The service."""

  bundle: str = flag('', 'Folder of a trained bundle (RUN/export).')
  host: str = flag(
    '127.0.0.1',
    'Address to listen at; the default is reached from this machine only.',
  )
  port: int = flag(
    8000, 'Port to listen at; 0: any that is free.', low=0, high=65535
  )
  api_key_file: str = flag(
    '',
    'File of keys, one a line, of which requests must bring one as '
    '"Authorization: Bearer KEY"; empty: everybody may tag.',
  )
  labels_key_file: str = flag(
    '',
    'File of the keys that allow to change labels, and all else; empty: nobody '
    'may change labels.',
  )
  max_body_bytes: int = flag(4 * 2**20, 'Bytes of a request at most.', low=1024)
  max_reading_bytes: int = flag(
    256 * 2**20,
    'Bytes of all requests that have no answer yet, others get a 503.',
    low=1024,
  )
  max_docs: int = flag(256, 'Documents or labels of a request at most.', low=1)
  max_doc_chars: int = flag(
    100_000, 'Characters of a document or label at most.', low=1
  )
  max_top_k: int = flag(100, 'Labels a document at most.', low=1)
  max_waiting_docs: int = flag(
    1024, 'Documents of all clients that may wait, others get a 503.', low=1
  )
  max_client_docs: int = flag(
    512,
    'Documents that may wait of one client, which is a key or else an address; '
    'others get a 429.',
    low=1,
  )
  batch_window_ms: float = flag(
    1.0,
    'Milliseconds that a first document waits for others to be batched with.',
    low=0,
    high=1000,
  )
  stop_s: int = flag(
    30, 'Seconds that a service being stopped goes on answering.', low=0
  )
  encode_batch_tokens: int = flag(
    0,
    'Tokens in one batch of the encoder on one device; 0: 512 on a CPU, 16384 '
    'elsewhere.',
    low=0,
  )
  data_cache: str = flag(
    default_cache(), 'Folder where compiled programs are kept.'
  )


def main(values: flags.FlagValues) -> None:
  """Opens the bundle, listens, answers until it is told to stop."""
  config = cli.build(ServeConfig, values)
  if not config.bundle:
    raise UserError('--bundle is not set')
  for small, large in (
    ('max_body_bytes', 'max_reading_bytes'),
    ('max_docs', 'max_client_docs'),
    ('max_client_docs', 'max_waiting_docs'),
  ):
    if getattr(config, small) > getattr(config, large):
      raise UserError(f'--{small} is more than --{large}')
  keys = read_all_keys(config)
  with listening(config) as listener:
    devices.setup(config.data_cache)
    serve(config, keys, listener)


def read_all_keys(config: ServeConfig) -> Keys:
  """The keys that the flags name."""
  api, labels = (
    read_keys(name, path) if (path := getattr(config, name)) else []
    for name in ('api_key_file', 'labels_key_file')
  )
  return Keys(api, labels)


def listening(config: ServeConfig) -> socket.socket:
  """A socket that has the address, before anything takes long.

  Raises:
    UserError: the address cannot be had.
  """
  try:
    kind, *_, address = socket.getaddrinfo(
      config.host, config.port, type=socket.SOCK_STREAM
    )[0]
  except socket.gaierror as e:
    raise UserError(f'--host={config.host}: {e.strerror}') from e
  except UnicodeError as e:  # a part of a name is empty, or too long
    raise UserError(f'--host={config.host}: is no name of a host') from e
  listener = socket.socket(kind, socket.SOCK_STREAM)
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listener.bind(address)
    listener.listen()  # until it does, others could bind the same
  except OSError as e:
    listener.close()
    place = f'--host={config.host} --port={config.port}'
    if e.errno == errno.EADDRINUSE:
      raise UserError(f'{place} is in use; choose another --port') from e
    raise UserError(f'{place}: {os.strerror(e.errno)}') from e
  if (
    not config.api_key_file and not ipaddress.ip_address(address[0]).is_loopback
  ):
    logging.warning(
      'everybody who reaches %s may tag; --api_key_file guards it', config.host
    )
  return listener


def serve(config: ServeConfig, keys: Keys, listener: socket.socket) -> None:
  """Answers until a signal comes."""
  host, port = listener.getsockname()[:2]
  place = f'[{host}]' if ':' in host else host
  app = build_app(config, keys)
  server = _Server(
    uvicorn.Config(
      app,
      log_config=None,
      access_log=False,
      timeout_graceful_shutdown=config.stop_s,
    ),
    f'http://{place}:{port}',
  )
  try:
    server.run(sockets=[listener])
  except (KeyboardInterrupt, Preempted):  # the server raises it when it is done
    logging.info('stopped')
  finally:
    app.state.close()  # a server that is told twice to stop does not


class _Server(uvicorn.Server):
  """Tells where it serves once it does."""

  def __init__(self, config: uvicorn.Config, url: str):
    super().__init__(config)
    self._url = url

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    if self.started:
      logging.info('serving at %s', self._url)


def build_app(config: ServeConfig, keys: Keys) -> FastAPI:
  """Opens the bundle and compiles what the first request needs."""
  batch_tokens = config.encode_batch_tokens or default_batch_tokens()
  bundle = Bundle(config.bundle, batch_tokens)
  tagger = Tagger(bundle, batch_tokens, config.max_top_k)
  tagger.compile_first()
  logging.info('%d labels of %s', len(tagger.view), config.bundle)
  metrics = Metrics()
  batcher = Batcher(
    tagger,
    metrics,
    window_s=config.batch_window_ms / 1000,
    max_waiting=config.max_waiting_docs,
    max_waiting_of_client=config.max_client_docs,
  )
  limits = Limits(
    config.max_body_bytes,
    config.max_docs,
    config.max_doc_chars,
    config.max_top_k,
    config.max_reading_bytes,
  )
  editing = Editing(tagger, BundleEditor(bundle))
  return create_app(tagger, batcher, editing, keys, limits, metrics)


if __name__ == '__main__':
  cli.run(main, (ServeConfig,), __doc__)
