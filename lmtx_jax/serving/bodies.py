"""Bodies of requests, looked at before the schemas are.

A schema tells all that is wrong with a body, which for a million wrong items
costs seconds and gigabytes. So who may not ask is refused before the body is
read, and a body of too many items before a schema sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from lmtx_jax.data.reading import shown
from lmtx_jax.serving.errors import Refused
from lmtx_jax.serving.limits import Limits

_MAX_FIELDS = 8  # of a body and of an item; more than any schema has
_ITEMS = ('documents', 'labels')


def checked_route(limits: Limits) -> type[APIRoute]:
  """Routes that check first who asks, then query and a body's outline.

  Their dependencies must take the request alone.
  """

  class CheckedRoute(APIRoute):
    """See above."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
      handle = super().get_route_handler()

      async def checked(request: Request) -> Response:
        for check in self.dependencies:
          check.dependency(request)
        known = {field.alias for field in self.dependant.query_params}
        if unknown := sorted(set(request.query_params) - known):
          raise Refused(422, f'query: unknown parameters: {shown(unknown)}')
        if self.body_field:
          check_outline(await _parsed(request), limits)
        return await handle(request)

      return checked

  return CheckedRoute


def check_outline(body: Any, limits: Limits) -> None:
  """Checks how much there is, up to the first item that cannot be.

  Args:
    body: as parsed.
    limits: of items.

  Raises:
    Refused: 413 for too many items, 422 for what is no object of a few fields.
  """
  _check_object('body', body)
  for name in _ITEMS:
    items = body.get(name)
    if not isinstance(items, list):
      continue  # the schema tells whether it should be one
    limits.check_count(len(items), name)
    for number, item in enumerate(items):
      _check_object(f'{name}.{number}', item)


def _check_object(place: str, value: Any) -> None:
  if not isinstance(value, dict):
    raise Refused(422, f'{place}: must be an object')
  if len(value) > _MAX_FIELDS:
    raise Refused(422, f'{place}: has {len(value)} fields')


async def _parsed(request: Request) -> Any:
  """The body; the request keeps it, so that it is parsed once."""
  await request.body()
  if reason := _not_json(request):
    raise Refused(422, f'body: {reason}')
  try:
    return await request.json()
  except (ValueError, RecursionError) as e:
    raise Refused(422, f'body: not JSON: {e}'[:200]) from e


def _not_json(request: Request) -> str:
  """Why a body cannot be JSON, going by its headers; else nothing."""
  encoding = request.headers.get('content-encoding', 'identity')
  if encoding.lower() != 'identity':
    return f'Content-Encoding {encoding[:40]!r} is not read; send plain JSON'
  kind = request.headers.get('content-type', '').partition(';')[0].strip()
  if kind.lower() != 'application/json':
    return (
      f'Content-Type must be application/json, not {kind[:40]!r};'
      ' send the header Content-Type: application/json'
    )
  return ''
