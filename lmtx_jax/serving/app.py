"""The service's addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
import contextlib
import importlib.resources
from typing import Annotated

from absl import logging
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from lmtx_jax import __version__
from lmtx_jax.data.reading import well_formed
from lmtx_jax.serving import schemas
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.editing import Editing
from lmtx_jax.serving.errors import Refused, error_response
from lmtx_jax.serving.keys import Keys
from lmtx_jax.serving.limits import Gate, Limits
from lmtx_jax.serving.metrics import CONTENT_TYPE, Metrics
from lmtx_jax.serving.tagger import Tagger
from lmtx_jax.types import Record

_PAGES = {
  '/': ('page.html', 'text/html'),
  '/page.css': ('page.css', 'text/css'),
  '/page.js': ('page.js', 'text/javascript'),
  '/docs': ('docs.html', 'text/html'),
  '/docs.css': ('docs.css', 'text/css'),
  '/docs.js': ('docs.js', 'text/javascript'),
}
_ERRORS = {
  status: {'model': schemas.ErrorResponse, 'description': about}
  for status, about in (
    (401, 'A key is needed.'),
    (403, 'The key is no right one, or nobody may.'),
    (413, 'Body, document or number of them is too large.'),
    (422, 'The request is not what it should be.'),
    (429, 'Too many documents of this client wait.'),
    (503, 'Too many documents wait, or the service is being stopped.'),
  )
}
_CHANGE_ERRORS = _ERRORS | {
  404: {'model': schemas.ErrorResponse, 'description': 'No such label.'},
  409: {
    'model': schemas.ErrorResponse,
    'description': 'The uid is taken, or it is the last label.',
  },
  501: {
    'model': schemas.ErrorResponse,
    'description': 'This service cannot change labels.',
  },
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
  app.include_router(_operation(tagger, keys, limits, metrics, editing))
  app.include_router(_tagging(tagger, batcher, keys, limits))
  app.include_router(_labels(tagger, batcher, editing, keys, limits))
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


def _operation(
  tagger: Tagger,
  keys: Keys,
  limits: Limits,
  metrics: Metrics,
  editing: Editing,
) -> APIRouter:
  router = APIRouter(tags=['operation'])

  @router.get('/health', response_model=schemas.Health)
  async def health() -> Response:
    """Whether the service answers, and what it serves; needs no key."""
    return JSONResponse(
      {
        'status': 'ok',
        'version': __version__,
        'num_labels': len(tagger.view),
        'labels_can_change': keys.can_change and editing.is_possible,
        'needs_key': keys.needs_key,
        'max_top_k': limits.max_top_k,
        'compiled_shapes': len(tagger.compiled),
        'shapes': len(tagger.shapes),
      }
    )

  @router.get(
    '/metrics',
    dependencies=[Depends(keys.check_api)],
    response_class=Response,
    responses={200: {'content': {'text/plain': {}}}},
  )
  async def metrics_text() -> Response:
    """Counts and times, as Prometheus reads them."""
    return Response(metrics.text(), headers={'Content-Type': CONTENT_TYPE})

  return router


def _tagging(
  tagger: Tagger, batcher: Batcher, keys: Keys, limits: Limits
) -> APIRouter:
  router = APIRouter(tags=['tagging'], dependencies=[Depends(keys.check_api)])

  @router.post('/v1/tag', response_model=schemas.TagResponse, responses=_ERRORS)
  async def tag(request: Request, wanted: schemas.TagRequest) -> Response:
    """Tags one document or many; scores are cosines, highest first."""
    limits.check_count(len(wanted.documents), 'documents')
    limits.check_top_k(wanted.top_k)
    records = []
    for number, document in enumerate(wanted.documents):
      texts = (
        str(number + 1 if document.uid is None else document.uid),
        document.title or '',
        document.content or '',
      )
      record = Record(*map(well_formed, texts))
      place = f'documents.{number}'
      limits.check_length(
        place, str(document.uid or ''), record.title, record.content
      )
      if not tagger.text_of(record):
        raise Refused(422, f'{place}: has no text')
      records.append(record)
    found = await batcher.tag(records, wanted.top_k, keys.client(request))
    low = wanted.min_score
    return JSONResponse(
      {
        'results': [
          {
            'uid': record.uid,
            'labels': [
              label for label in labels if low is None or label['score'] >= low
            ],
          }
          for record, labels in zip(records, found, strict=True)
        ]
      }
    )

  return router


def _labels(
  tagger: Tagger,
  batcher: Batcher,
  editing: Editing,
  keys: Keys,
  limits: Limits,
) -> APIRouter:
  router = APIRouter(prefix='/v1/labels', tags=['labels'])
  may_read = [Depends(keys.check_api)]
  may_change = [Depends(keys.check_labels)]

  @router.get(
    '',
    response_model=schemas.LabelList,
    dependencies=may_read,
    responses=_ERRORS,
  )
  def find(
    query: Annotated[str, Query(max_length=1000)] = '',
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
  ) -> Response:
    """Labels whose title or uid holds the query, in whatever case."""
    labels, more = tagger.view.search(query, offset, limit)
    return JSONResponse(
      {'labels': [label._asdict() for label in labels], 'more': more}
    )

  @router.get(
    '/nearest',
    response_model=schemas.NearestLabels,
    dependencies=may_read,
    responses=_CHANGE_ERRORS,
  )
  async def nearest(
    uid: str, top_k: Annotated[int, Query(ge=1)] = 10
  ) -> Response:
    """The labels closest to a label."""
    limits.check_top_k(top_k)
    labels = await batcher.call(lambda: tagger.nearest(uid, top_k))
    if labels is None:
      raise Refused(404, f'there is no label {uid!r}')
    return JSONResponse({'labels': labels})

  @router.post(
    '',
    status_code=201,
    response_model=schemas.LabelsChanged,
    dependencies=may_change,
    responses=_CHANGE_ERRORS,
  )
  async def add(wanted: schemas.AddRequest) -> Response:
    """Adds labels, all or none; the next request may be given them."""
    limits.check_count(len(wanted.labels), 'labels')
    records = []
    for number, label in enumerate(wanted.labels):
      record = Record(str(label.uid), label.title, label.content or '')
      place = f'labels.{number}'
      limits.check_length(place, *record)
      for name in ('uid', 'title'):
        if not getattr(record, name).strip():
          raise Refused(422, f'{place}.{name}: is empty')
      records.append(Record(*map(well_formed, record)))
    count = await editing.add(records)
    return JSONResponse({'changed': len(records), 'num_labels': count}, 201)

  @router.delete(
    '/{uid:path}',
    response_model=schemas.LabelsChanged,
    dependencies=may_change,
    responses=_CHANGE_ERRORS,
  )
  async def remove(uid: str) -> Response:
    """Removes a label; no later request is given it."""
    return JSONResponse({'changed': 1, 'num_labels': await editing.remove(uid)})

  return router


def _handle_errors(app: FastAPI) -> None:
  """Every error is JSON of one line, and tells nothing of the program."""

  @app.exception_handler(Refused)
  async def refused(_: Request, e: Refused) -> Response:
    return error_response(e.status, e.message, e.headers)

  @app.exception_handler(RequestValidationError)
  async def invalid(_: Request, e: RequestValidationError) -> Response:
    first = e.errors()[0]
    if first['type'] == 'json_invalid':
      reason = f'{first["ctx"]["error"]} (character {first["loc"][1]})'
      return error_response(422, f'body: not JSON: {reason}')
    place = '.'.join(map(str, first['loc'][1:]))[:200]
    return error_response(422, f'{place or "body"}: {first["msg"]}')

  @app.exception_handler(HTTPException)
  async def http(_: Request, e: HTTPException) -> Response:
    if e.status_code == 400:  # FastAPI's word for what it could not parse
      reason = str(e.__cause__ or e.detail)[:200]
      return error_response(422, f'body: not JSON: {reason}')
    return error_response(e.status_code, str(e.detail), e.headers)

  @app.exception_handler(Exception)
  async def failed(_: Request, e: Exception) -> Response:
    logging.error('a request failed: %s: %s', type(e).__name__, e)
    return error_response(500, 'the service failed; its log tells why')
