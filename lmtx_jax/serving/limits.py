"""Limits of requests, and what stands between the server and the app."""

from __future__ import annotations

import dataclasses
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmtx_jax.serving.errors import Refused, error_response
from lmtx_jax.serving.metrics import Metrics

_HEADERS = (
  (b'x-content-type-options', b'nosniff'),
  (b'referrer-policy', b'no-referrer'),
  (b'cache-control', b'no-store'),
  (
    b'content-security-policy',
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'"
    b" data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'",
  ),
)


_READ = 2**26  # bytes of a body that are read though it is too large


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may ask for.

  Attributes:
    max_body_bytes: of a request.
    max_docs: documents or labels of a request.
    max_doc_chars: characters of a document or label.
    max_top_k: labels of a document.
  """

  max_body_bytes: int
  max_docs: int
  max_doc_chars: int
  max_top_k: int

  def check_count(self, count: int, what: str) -> None:
    """Raises Refused for too many documents or labels."""
    if count > self.max_docs:
      raise Refused(413, f'{count} {what}; at most {self.max_docs} a request')

  def check_length(self, place: str, *texts: str) -> None:
    """Raises Refused for a text that is too long."""
    length = sum(map(len, texts))
    if length > self.max_doc_chars:
      raise Refused(
        413,
        f'{place}: {length} characters; at most {self.max_doc_chars}',
      )

  def check_top_k(self, top_k: int) -> None:
    """Raises Refused for too many labels a document."""
    if top_k > self.max_top_k:
      raise Refused(422, f'top_k: {top_k}; at most {self.max_top_k}')


class Gate:
  """Counts requests, limits bodies and adds headers, around the app.

  A body is held whole before the app sees any of it, so that one that is too
  large costs the app nothing. What comes of that one is read and forgotten, for
  a client looks at the answer only once it has sent all.
  """

  def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int):
    self._app = app
    self._metrics = metrics
    self._max_bytes = max_body_bytes

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Handles one request."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    start, status = time.perf_counter(), 500

    async def noted(message: Message) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
        message['headers'] = [*message.get('headers', ()), *_HEADERS]
      await send(message)

    try:
      body = await self._body(scope, receive)
    except Refused as e:
      # There may be more to come: the connection cannot be used again.
      headers = {'Connection': 'close'}
      await error_response(e.status, e.message, headers)(scope, receive, noted)
    else:
      if body is not None:
        await self._app(scope, _replay(body, receive), noted)
    route = scope.get('route')
    path = getattr(route, 'path', 'other')
    self._metrics.request(path, status, time.perf_counter() - start)

  async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
    """The body; None if the client went before it was all there."""
    refused = Refused(413, f'the body is larger than {self._max_bytes} bytes')
    headers = dict(scope['headers'])
    declared = headers.get(b'content-length', b'0')
    is_large = declared.isdigit() and int(declared) > self._max_bytes
    if is_large and (int(declared) > _READ or b'expect' in headers):
      raise refused
    parts, size = [], 0
    while size <= _READ:
      message = await receive()
      if message['type'] == 'http.disconnect':
        return None
      parts.append(message.get('body', b''))
      size += len(parts[-1])
      is_large = is_large or size > self._max_bytes
      if is_large:
        parts.clear()
      if not message.get('more_body'):
        break
    if is_large:
      raise refused
    return b''.join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
  """Hands the body over first, then whatever comes."""
  parts = [{'type': 'http.request', 'body': body, 'more_body': False}]

  async def replayed() -> Message:
    return parts.pop() if parts else await receive()

  return replayed
