"""The service as an app: its pages, its routes, and how it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
import contextlib
import importlib.resources

from absl import logging
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from lmtx_jax import __version__
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.editing import Editing
from lmtx_jax.serving.errors import Refused, error_response
from lmtx_jax.serving.keys import Keys
from lmtx_jax.serving.limits import Gate, Limits
from lmtx_jax.serving.metrics import Metrics
from lmtx_jax.serving.routes import label_routes, operation_routes, tag_routes
from lmtx_jax.serving.tagger import Tagger

_PAGES = {
  '/': ('page.html', 'text/html'),
  '/page.css': ('page.css', 'text/css'),
  '/page.js': ('page.js', 'text/javascript'),
  '/docs': ('docs.html', 'text/html'),
  '/docs.css': ('docs.css', 'text/css'),
  '/docs.js': ('docs.js', 'text/javascript'),
}


def create_app(
  tagger: Tagger,
  batcher: Batcher,
  editing: Editing,
  keys: Keys,
  limits: Limits,
  metrics: Metrics,
  on_start: Callable[[], None] = lambda: None,
) -> FastAPI:
  """The service as an ASGI app, which starts and stops the batcher.

  Args:
    tagger: what it serves.
    batcher: of that tagger.
    editing: of the labels of that tagger.
    keys: who may do what.
    limits: of requests.
    metrics: that the batcher notes in too.
    on_start: called once requests can be answered.
  """

  @contextlib.asynccontextmanager
  async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    batcher.start()
    tagger.start()
    follower = asyncio.create_task(editing.follow())
    on_start()
    yield
    follower.cancel()
    editing.close()
    batcher.close()
    tagger.stop()

  app = FastAPI(
    title='lmtx_jax',
    version=__version__,
    description='Tags documents with labels of a trained bundle.',
    lifespan=lifespan,
    docs_url=None,  # the usual page loads scripts from elsewhere
    redoc_url=None,
  )
  metrics.watch('labels', 'Labels.', lambda: len(tagger.view))
  metrics.watch(
    'waiting_documents', 'Documents that wait.', lambda: batcher.num_waiting
  )
  app.include_router(_pages())
  app.include_router(operation_routes(tagger, keys, limits, metrics, editing))
  app.include_router(tag_routes(tagger, batcher, keys, limits))
  app.include_router(label_routes(tagger, batcher, editing, keys, limits))
  _handle_errors(app)
  app.add_middleware(
    Gate, metrics=metrics, max_body_bytes=limits.max_body_bytes
  )
  return app


def _pages() -> APIRouter:
  router = APIRouter(include_in_schema=False)
  folder = importlib.resources.files('lmtx_jax.serving')

  def add(path: str, name: str, kind: str) -> None:
    body = folder.joinpath(name).read_bytes()
    router.add_api_route(path, lambda: Response(body, media_type=kind))

  for path, (name, kind) in _PAGES.items():
    add(path, name, kind)
  return router


def _handle_errors(app: FastAPI) -> None:
  """Every error is JSON of one line, and tells nothing of the program."""

  @app.exception_handler(Refused)
  async def refused(_: Request, e: Refused) -> Response:
    return error_response(e.status, e.message, e.headers)

  @app.exception_handler(RequestValidationError)
  async def invalid(request: Request, e: RequestValidationError) -> Response:
    first = e.errors()[0]
    if first['loc'][0] == 'body' and (reason := _not_json(request)):
      return error_response(422, f'body: {reason}')
    if first['type'] == 'json_invalid':
      reason = f'{first["ctx"]["error"]} (character {first["loc"][1]})'
      return error_response(422, f'body: not JSON: {reason}')
    place = '.'.join(map(str, first['loc'][1:]))[:200]
    return error_response(422, f'{place or "body"}: {first["msg"]}')

  @app.exception_handler(HTTPException)
  async def http(request: Request, e: HTTPException) -> Response:
    if e.status_code == 400:  # FastAPI's word for what it could not parse
      reason = _not_json(request)
      reason = reason or f'not JSON: {e.__cause__ or e.detail}'[:200]
      return error_response(422, f'body: {reason}')
    return error_response(e.status_code, str(e.detail), e.headers)

  @app.exception_handler(Exception)
  async def failed(_: Request, e: Exception) -> Response:
    logging.error('a request failed: %s: %s', type(e).__name__, e)
    return error_response(500, 'the service failed; its log tells why')


def _not_json(request: Request) -> str:
  """Why a body cannot be JSON, going by its headers; else nothing."""
  encoding = request.headers.get('content-encoding', 'identity')
  if encoding.lower() != 'identity':
    return f'Content-Encoding {encoding[:40]!r} is not read; send plain JSON'
  kind = request.headers.get('content-type', '').partition(';')[0].strip()
  if kind.lower() != 'application/json':
    return f'Content-Type must be application/json, not {kind[:40]!r}'
  return ''
