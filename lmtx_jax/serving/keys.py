"""Who may ask, and who may change labels."""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import Request

from lmtx_jax.serving.errors import Refused
from lmtx_jax.types import UserError

_SHORTEST = 8  # characters of a key
_ASK = {'WWW-Authenticate': 'Bearer'}


def read_keys(flag: str, path: str) -> list[str]:
  """The keys of a file, one a line.

  Raises:
    UserError: there is no such file, no key in it, or no good one.
  """
  try:
    with open(path, encoding='utf-8') as f:
      keys = [line.strip() for line in f if line.strip()]
  except FileNotFoundError as e:
    raise UserError(f'--{flag}={path}: no such file') from e
  except OSError as e:
    raise UserError(f'--{flag}={path}: {e.strerror}') from e
  except UnicodeDecodeError as e:
    raise UserError(f'--{flag}={path} is not UTF-8 text') from e
  if not keys:
    raise UserError(f'--{flag}={path} has no key in it; write one a line')
  for number, key in enumerate(keys, 1):
    if len(key) < _SHORTEST or not (key.isascii() and key.isprintable()):
      raise UserError(
        f'--{flag}={path}: key {number} must be at least {_SHORTEST} ASCII'
        ' characters'
      )
  return keys


class Keys:
  """Checks `Authorization: Bearer KEY`."""

  def __init__(self, api: list[str], labels: list[str]):
    """Takes the keys.

    Args:
      api: let one tag and look at labels; none: everybody may.
      labels: let one change labels too; none: nobody may.

    Raises:
      UserError: a key is of both kinds.
    """
    if set(api) & set(labels):
      raise UserError(
        'a key of --api_key_file stands in --labels_key_file too; changing'
        ' labels needs a key of its own'
      )
    self._api = [_digest(key) for key in api]
    self._labels = [_digest(key) for key in labels]

  @property
  def needs_key(self) -> bool:
    """Whether tagging needs a key."""
    return bool(self._api)

  @property
  def can_change(self) -> bool:
    """Whether anybody may change labels."""
    return bool(self._labels)

  def check_api(self, request: Request) -> None:
    """Lets a request through that may tag; raises Refused otherwise."""
    if self._api:
      self._check(request, self._api + self._labels, 'this needs an API key')

  def check_labels(self, request: Request) -> None:
    """Lets a request through that may change labels; else raises Refused."""
    if not self._labels:
      raise Refused(
        403, 'labels are not changed here; serve has no --labels_key_file'
      )
    self._check(request, self._labels, 'changing labels needs their key')

  def _check(self, request: Request, known: list[bytes], message: str) -> None:
    key = _key_of(request)
    if not key:
      raise Refused(401, f'{message}: Authorization: Bearer KEY', _ASK)
    given = _digest(key)
    # All are compared, and each in constant time: nothing is told by timing.
    if not sum(hmac.compare_digest(given, one) for one in known):
      raise Refused(403, f'{message}, and this key is none', None)

  def client(self, request: Request) -> str:
    """Whose documents a request's are: its key's, or its address's."""
    if self._api:
      return _digest(_key_of(request)).hex()
    return request.client.host if request.client else ''


def _key_of(request: Request) -> str:
  """The key that a request brings, however it is spelled; or nothing."""
  kind, _, key = request.headers.get('authorization', '').partition(' ')
  return key.strip() if kind.lower() == 'bearer' else ''


def _digest(key: str) -> bytes:
  return hashlib.sha256(key.encode()).digest()
