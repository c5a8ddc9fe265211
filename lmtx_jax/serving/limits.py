"""Limits of requests, and what stands between the server and the app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import contextlib
import dataclasses
import time

from absl import logging
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
_READ_S = 30.0  # until a body is all there
_FORGET_S = 5.0  # that a refused client is given to send its body
_DEFAULT_TOP_K = 10
# There may be more of the body to come: the connection cannot be used again.
_CLOSE = {'Connection': 'close'}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may ask for.

  Attributes:
    max_body_bytes: of a request.
    max_docs: documents or labels of a request.
    max_doc_chars: characters of a document or label.
    max_top_k: labels of a document.
    max_reading_bytes: of the bodies of all requests that have no answer yet.
  """

  max_body_bytes: int
  max_docs: int
  max_doc_chars: int
  max_top_k: int
  max_reading_bytes: int

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

  def top_k(self, wanted: int | None) -> int:
    """Labels a document; raises Refused if more are wanted than may be."""
    if wanted is None:
      return min(_DEFAULT_TOP_K, self.max_top_k)
    if wanted > self.max_top_k:
      raise Refused(422, f'top_k: {wanted}; at most {self.max_top_k}')
    return wanted


class Gate:
  """Counts requests, limits bodies and adds headers, around the app.

  A body is kept, whole, only once the app asks for it, which it does not for
  who may not ask. Of one that is refused, or too large, what comes is read and
  forgotten, for many a client looks at the answer only once it has sent all.
  So it is where the bodies of all requests would take too much memory.
  """

  def __init__(
    self,
    app: ASGIApp,
    metrics: Metrics,
    max_body_bytes: int,
    max_reading_bytes: int,
  ):
    self._app = app
    self._metrics = metrics
    self._max_bytes = max_body_bytes
    self._max_held = max_reading_bytes
    self._held = 0  # bytes of bodies

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Handles one request."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    start, status, is_read, held = time.perf_counter(), 0, False, 0

    def hold(size: int) -> bool:
      nonlocal held
      if self._held - held + size > self._max_held:
        return False
      self._held += size - held
      held = size
      return True

    async def received() -> Message:
      nonlocal is_read
      if is_read:
        return await receive()
      is_read = True
      return await self._whole(scope, receive, hold)

    async def noted(message: Message) -> None:
      nonlocal status, is_read
      if message['type'] == 'http.response.start':
        if not (status or is_read):
          is_read = True
          await self._forget(scope, receive)
        status = message['status']
        message['headers'] = [*message.get('headers', ()), *_HEADERS]
      await send(message)

    async def fail(code: int, message: str) -> None:
      if not status:
        await error_response(code, message, _CLOSE)(scope, receive, noted)

    try:
      await self._app(scope, received, noted)
    except asyncio.CancelledError:
      # The service ends, and no longer waits for this one.
      if status:
        raise
      await fail(503, 'the service is being stopped')
    except Exception as e:
      logging.error('a request failed: %s: %s', type(e).__name__, e)
      await fail(500, 'the service failed; its log tells why')
      status = 500
      raise
    finally:
      hold(0)
      path = getattr(scope.get('route'), 'path', 'other')
      seconds = time.perf_counter() - start
      self._metrics.request(path, status or 500, seconds)

  async def _whole(
    self, scope: Scope, receive: Receive, hold: Callable[[int], bool]
  ) -> Message:
    """The body in one piece."""
    try:
      async with asyncio.timeout(_READ_S):
        body = await self._body(scope, receive, hold)
    except TimeoutError as e:
      reason = f'the body was not all there after {_READ_S:g} s'
      raise Refused(408, reason, _CLOSE) from e
    if body is None:
      return {'type': 'http.disconnect'}
    return {'type': 'http.request', 'body': body, 'more_body': False}

  async def _forget(self, scope: Scope, receive: Receive) -> None:
    """Lets a client send a body that nobody needs, for a while."""
    headers = dict(scope['headers'])
    has_body = headers.get(b'content-length', b'0') != b'0'
    has_body = has_body or b'transfer-encoding' in headers
    if not has_body or b'expect' in headers:
      return
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(_FORGET_S):
        size, more = 0, True
        while more and size <= max(_READ, self._max_bytes):
          message = await receive()
          size += len(message.get('body', b''))
          more = message.get('more_body', False)

  async def _body(
    self, scope: Scope, receive: Receive, hold: Callable[[int], bool]
  ) -> bytes | None:
    """The body; None if the client went before it was all there.

    Args:
      scope: of the request.
      receive: its parts.
      hold: tells how much of it is kept now, and whether that may be.
    """
    reason = f'the body is larger than {self._max_bytes} bytes'
    refused = Refused(413, reason, _CLOSE)
    most = max(_READ, self._max_bytes)
    headers = dict(scope['headers'])
    declared = headers.get(b'content-length', b'0')
    is_large = declared.isdigit() and int(declared) > self._max_bytes
    if is_large and (int(declared) > most or b'expect' in headers):
      raise refused
    parts, size, is_too_much = [], 0, False
    while size <= most:
      message = await receive()
      if message['type'] == 'http.disconnect':
        return None
      parts.append(message.get('body', b''))
      size += len(parts[-1])
      is_large = is_large or size > self._max_bytes
      if is_large or is_too_much or not hold(size):
        is_too_much = not is_large
        parts.clear()
        hold(0)
      if not message.get('more_body'):
        break
    if is_large:
      raise refused
    if is_too_much:
      reason = 'too many bodies are being read; try again later'
      raise Refused(503, reason, _CLOSE | {'Retry-After': '1'})
    return b''.join(parts)
