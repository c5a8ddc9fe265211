"""What the service answers at each address but those of its pages."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.convertors import Convertor, register_url_convertor

from lmtx_jax import __version__
from lmtx_jax.data.reading import well_formed
from lmtx_jax.serving import schemas
from lmtx_jax.serving.batcher import Batcher
from lmtx_jax.serving.bodies import checked_route
from lmtx_jax.serving.editing import Editing
from lmtx_jax.serving.errors import Refused
from lmtx_jax.serving.keys import Keys
from lmtx_jax.serving.limits import Limits
from lmtx_jax.serving.metrics import CONTENT_TYPE, Metrics
from lmtx_jax.serving.tagger import Tagger
from lmtx_jax.types import Record

_ERRORS = {
  status: {'model': schemas.ErrorResponse, 'description': about}
  for status, about in (
    (401, 'A key is needed.'),
    (403, 'The key is no right one, or nobody may.'),
    (408, 'The body did not come in time.'),
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
  503: {
    'model': schemas.ErrorResponse,
    'description': 'The bundle is broken, its disk is full, or all are busy.',
  },
  501: {
    'model': schemas.ErrorResponse,
    'description': 'This service cannot change labels.',
  },
}


class _Text(Convertor):
  """Any text: a uid may hold a slash, and a line break, unlike a path."""

  regex = '(?s:.*)'

  def convert(self, value: str) -> str:
    return value

  def to_string(self, value: str) -> str:
    return value


register_url_convertor('text', _Text())


def operation_routes(
  tagger: Tagger,
  batcher: Batcher,
  keys: Keys,
  limits: Limits,
  metrics: Metrics,
  editing: Editing,
) -> APIRouter:
  """How the service is, for people and for Prometheus."""
  router = APIRouter(tags=['operation'])

  @router.get(
    '/health',
    response_model=schemas.Health,
    responses={
      503: {
        'model': schemas.ErrorResponse,
        'description': 'It cannot tag; its log tells why.',
      }
    },
  )
  async def health() -> Response:
    """Whether the service answers, and what it serves; needs no key."""
    if not batcher.is_alive:
      raise Refused(503, 'the thread that tags has ended; start anew')
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


def tag_routes(
  tagger: Tagger, batcher: Batcher, keys: Keys, limits: Limits
) -> APIRouter:
  """Tags documents."""
  router = APIRouter(
    tags=['tagging'],
    dependencies=[Depends(keys.check_api)],
    route_class=checked_route(limits),
  )

  @router.post('/v1/tag', response_model=schemas.TagResponse, responses=_ERRORS)
  async def tag(request: Request, wanted: schemas.TagRequest) -> Response:
    """Tags one document or many; the highest score first."""
    top_k = limits.top_k(wanted.top_k)
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
    found = await batcher.tag(records, top_k, keys.client(request))
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


def label_routes(
  tagger: Tagger, batcher: Batcher, keys: Keys, limits: Limits
) -> APIRouter:
  """Lists labels."""
  router = APIRouter(
    prefix='/v1/labels',
    tags=['labels'],
    route_class=checked_route(limits),
    dependencies=[Depends(keys.check_api)],
  )

  @router.get('', response_model=schemas.LabelList, responses=_ERRORS)
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
    '/nearest', response_model=schemas.NearestLabels, responses=_CHANGE_ERRORS
  )
  async def nearest(
    uid: str, top_k: Annotated[int | None, Query(ge=1)] = None
  ) -> Response:
    """The labels closest to a label."""
    count, view = limits.top_k(top_k), tagger.view
    # The first look for a uid takes long: not in the thread of the device.
    label = await asyncio.to_thread(view.index_of, uid)
    if label < 0:
      raise Refused(404, f'there is no label {uid!r}')
    labels = await batcher.call(lambda: tagger.nearest(view, label, count))
    return JSONResponse({'labels': labels})

  return router


def change_routes(editing: Editing, keys: Keys, limits: Limits) -> APIRouter:
  """Adds labels and removes them."""
  router = APIRouter(
    prefix='/v1/labels',
    tags=['labels'],
    route_class=checked_route(limits),
    dependencies=[Depends(keys.check_labels)],
    responses=_CHANGE_ERRORS,
  )

  @router.post('', status_code=201, response_model=schemas.LabelsChanged)
  async def add(wanted: schemas.AddRequest) -> Response:
    """Adds labels, all or none; the next request may be given them."""
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

  @router.delete('/{uid:text}', response_model=schemas.LabelsChanged)
  async def remove(uid: str) -> Response:
    """Removes a label; no later request is given it."""
    return JSONResponse({'changed': 1, 'num_labels': await editing.remove(uid)})

  return router
