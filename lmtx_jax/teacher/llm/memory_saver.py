"""A server that gives its GPU memory back while nobody asks it."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import http.client
import json
import time

from absl import logging

from lmtx_jax.types import UserError

_POLL_S = 0.2


class MemorySaver:
  """Gives a server's GPU memory back for a while.

  A server that is told to while it works, or to resume what it has not
  released, ends. So do most that are asked anything in between: only `resume`
  may be sent to a server that has released its memory, no health check either.

  Attributes:
    released: whether the memory is given back.
  """

  def __init__(
    self,
    url: str,
    tags: Sequence[str] = ('kv_cache', 'weights'),
    api_key: str = '',
    timeout_s: float = 120.0,
  ):
    """Takes a server's address.

    Args:
      url: of a server that has its memory.
      tags: which of its memory; `weights` need `--enable-weights-cpu-backup`.
      api_key: that it asks for.
      timeout_s: seconds in which it must have become idle, and in which it must
        have done as it was told.
    """
    self.released = False
    self._url = url
    self._body = {'tags': list(tags)}
    self._api_key = api_key
    self._timeout_s = timeout_s

  def release(self) -> None:
    """Aborts what the server works at, and takes its memory when it is idle.

    Raises:
      UserError: it does not become idle, or ended.
    """
    if self.released:
      return
    self._drain()
    # If the call fails nobody knows what was done; a second one could kill.
    self.released = True
    self._post('/release_memory_occupation', self._body)
    logging.info('the teacher has released its GPU memory')

  def resume(self) -> None:
    """Lets the server have its memory again, before anything is asked.

    Raises:
      UserError: it cannot have it, or ended.
    """
    if not self.released:
      return
    self.released = False
    self._post('/resume_memory_occupation', self._body)
    logging.info('the teacher has its GPU memory again')

  def _drain(self) -> None:
    deadline = time.monotonic() + self._timeout_s
    # /flush_cache says 200 where the server would pass its own check before a
    # release; what /v1/loads tells is older. Twice, as a request that is cut
    # into tokens only now can still come.
    num_idle = 0
    while num_idle < 2:
      self._post('/abort_request', {'abort_all': True})
      is_idle = self._post('/flush_cache', None, busy=400)
      num_idle = num_idle + 1 if is_idle else 0
      if time.monotonic() > deadline:
        raise UserError(
          f'{self._url} still works after {self._timeout_s:g} s, so its GPU'
          ' memory cannot be released; the same command goes on'
        )
      time.sleep(_POLL_S)

  def _post(self, path: str, body: object, busy: int = 0) -> bool:
    """Whether it was done; false if the answer has the status `busy`."""
    try:
      status, content = call(
        self._url, 'POST', path, body, self._api_key, self._timeout_s
      )
    except (OSError, http.client.HTTPException) as e:
      raise UserError(
        f'{self._url}{path}: the server does not answer'
        f' ({e or type(e).__name__}); look at its log'
      ) from e
    if status not in (200, busy):
      text = ' '.join(content.decode(errors='replace').split())[:200]
      raise UserError(f'{self._url}{path}: {status} {text}')
    return status == 200


def call(
  url: str,
  method: str,
  path: str,
  body: object = None,
  api_key: str = '',
  timeout_s: float = 30.0,
) -> tuple[int, bytes]:
  """Status and content of a reply; no proxy is asked."""
  headers = {'Content-Type': 'application/json'}
  if api_key:
    headers['Authorization'] = f'Bearer {api_key}'
  connection = http.client.HTTPConnection(
    url.removeprefix('http://'), timeout=timeout_s
  )
  with contextlib.closing(connection):
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, headers)
    response = connection.getresponse()
    return response.status, response.read()
