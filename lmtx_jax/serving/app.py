"""The service as an app: its pages, its routes, and how it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
import contextlib
import importlib.resources

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lmtx_jax import __version__
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.editing import Editing
from lmtx_jax.serving.errors import Refused, error_response
from lmtx_jax.serving.keys import Keys
from lmtx_jax.serving.limits import Gate, Limits
from lmtx_jax.serving.metrics import Metrics
from lmtx_jax.serving.routes import (
  change_routes,
  label_routes,
  operation_routes,
  tag_routes,
)
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
) -> FastAPI:
  """The service as an ASGI app, which starts and stops the batcher.

  Its `state.close` ends all threads; a server that is told twice to stop leaves
  that out.

  Args:
    tagger: what it serves.
    batcher: of that tagger.
    editing: of the labels of that tagger.
    keys: who may do what.
    limits: of requests.
    metrics: that the batcher notes in too.
  """

  def close() -> None:
    editing.close()
    batcher.close()
    tagger.stop()

  @contextlib.asynccontextmanager
  async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    batcher.start()
    tagger.start()
    follower = asyncio.create_task(editing.follow())
    try:
      # A second signal cancels it: its end, and no failure.
      with contextlib.suppress(asyncio.CancelledError):
        yield
    finally:
      follower.cancel()
      # Not here: requests that are cut must get their answers meanwhile.
      await asyncio.to_thread(close)

  app = FastAPI(
    title='lmtx_jax',
    version=__version__,
    description='Tags documents with labels of a trained bundle.',
    lifespan=lifespan,
    docs_url=None,  # the usual page loads scripts from elsewhere
    redoc_url=None,
  )
  app.state.close = close
  metrics.watch('labels', 'Labels.', lambda: len(tagger.view))
  metrics.watch(
    'waiting_documents', 'Documents that wait.', lambda: batcher.num_waiting
  )
  app.include_router(_pages())
  app.include_router(
    operation_routes(tagger, batcher, keys, limits, metrics, editing)
  )
  app.include_router(tag_routes(tagger, batcher, keys, limits))
  app.include_router(label_routes(tagger, batcher, keys, limits))
  app.include_router(change_routes(editing, keys, limits))
  _handle_errors(app)
  app.add_middleware(
    Gate,
    metrics=metrics,
    max_body_bytes=limits.max_body_bytes,
    max_reading_bytes=limits.max_reading_bytes,
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
  async def invalid(_: Request, e: RequestValidationError) -> Response:
    first = e.errors()[0]
    place = '.'.join(map(str, first['loc'][1:]))[:200]
    return error_response(422, f'{place or "body"}: {first["msg"]}')

  @app.exception_handler(HTTPException)
  async def http(_: Request, e: HTTPException) -> Response:
    return error_response(e.status_code, str(e.detail), e.headers)

  @app.exception_handler(ClientDisconnect)
  async def gone(_: Request, __: ClientDisconnect) -> Response:
    return error_response(499, 'the client went')  # for the metrics alone
