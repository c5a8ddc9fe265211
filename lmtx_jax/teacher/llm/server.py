"""One server over HTTP: what can go wrong there has a name here."""

from __future__ import annotations

import json
import os
from typing import Any

import aiohttp

from lmtx_jax.teacher.llm.wire import Malformed
from lmtx_jax.types import UserError

_CONNECT_S = 10.0
_LOOK_S = 20.0  # for questions about the server itself


class Lost(Exception):
  """No answer: the connection, the server or its patience broke."""


class Busy(Lost):
  """The server has too much to do: 429, 503 and the like, or a time-out."""


class TimedOut(Busy):
  """No answer in time; so long can take what is too much, or for ever."""


class Failed(Exception):
  """The server failed on these prompts: 500 and the like."""


class Refused(Exception):
  """The server will not answer these prompts: 400, 413, 422."""


class Missing(UserError):
  """The server has no such path."""


class Server:
  """Posts to one address.

  Attributes:
    url: the address, without a slash at the end.
  """

  def __init__(
    self, url: str, session: aiohttp.ClientSession, timeout_s: float
  ):
    """Takes the address, a session of the running loop, and the time-out."""
    self.url = url
    self._session = session
    self._timeout = _timeout(timeout_s)

  async def post(self, path: str, body: dict[str, Any]) -> Any:
    """Posts JSON and gives back the JSON that comes.

    Raises:
      Lost: no answer came (`Busy`: because there is too much to do).
      Failed: the server failed on it.
      Refused: the server will not do it.
      Malformed: the answer is no JSON.
      UserError: the key or the address is wrong.
    """
    return await self._call('POST', path, self._timeout, json=body)

  async def look(self, path: str, **kwargs) -> Any:
    """Gets JSON (or posts `json`); None where there is no such path.

    Raises:
      Lost, Failed, Malformed, UserError: as `post`.
    """
    method = 'POST' if kwargs else 'GET'
    try:
      return await self._call(method, path, _timeout(_LOOK_S), **kwargs)
    except (Refused, Missing):
      return None

  async def _call(
    self, method: str, path: str, timeout: aiohttp.ClientTimeout, **kwargs
  ) -> Any:
    try:
      async with self._session.request(
        method, self.url + path, timeout=timeout, **kwargs
      ) as response:
        status, content = response.status, await response.read()
    except aiohttp.ConnectionTimeoutError as e:
      raise Lost('no connection in time') from e
    except TimeoutError as e:
      raise TimedOut(f'no answer in {timeout.total:g} s') from e
    except (aiohttp.ClientError, OSError) as e:
      raise Lost(_reason(e)) from e
    if status != 200:
      raise self._error(path, status, _message(content))
    try:
      return json.loads(content)
    except ValueError as e:
      raise Malformed('a reply that is no JSON') from e

  def _error(self, path: str, status: int, message: str) -> Exception:
    said = f'{status} {message}'.strip()
    if status in (401, 403):
      return UserError(
        f'{self.url} wants a key ({said}); write it into a file and name that'
        ' with --teacher_api_key_file'
      )
    if status in (404, 405):
      return Missing(
        f'{self.url}{path} is not there ({said}); set --teacher_api to what the'
        ' server speaks (sglang or openai) and --teacher_url to its root'
      )
    if status in (408, 409, 425, 429, 503):
      return Busy(said)
    if status in (502, 504):
      return Lost(said)
    if status in (400, 413, 422):
      return Refused(said)
    if status >= 500:
      return Failed(said)
    if status < 400:
      return Malformed(said)
    return UserError(f'{self.url}{path} will not answer: {said}')


def _timeout(total_s: float) -> aiohttp.ClientTimeout:
  return aiohttp.ClientTimeout(
    total=total_s, sock_connect=min(_CONNECT_S, total_s)
  )


def _reason(error: Exception) -> str:
  """One line that says what is wrong with a connection."""
  if isinstance(error, aiohttp.ClientConnectorError):
    number = error.os_error.errno or 0  # below 0 are those of name look-ups
    return os.strerror(number) if number > 0 else str(error.os_error.strerror)
  return ' '.join(str(error).split()) or type(error).__name__


def _message(content: bytes) -> str:
  """What an error reply says, in one short line."""
  text = content[:2000].decode(errors='replace')
  try:
    found = json.loads(content)
    for key in ('error', 'message', 'detail'):
      if isinstance(found, dict) and key in found:
        found = found[key]
    text = found if isinstance(found, str) else json.dumps(found)
  except ValueError:
    pass
  return ' '.join(text.split())[:200]
