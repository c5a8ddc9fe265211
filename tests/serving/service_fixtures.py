"""The service in a thread of the test, and questions to it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import http.client
import json
import threading
import time
from typing import Any

import uvicorn

from lmtx_jax import serve
from lmtx_jax.serve import ServeConfig
from lmtx_jax.serving.keys import Keys

API_KEY, LABELS_KEY = 'key-for-tagging', 'key-for-labels'
_PATIENCE_S = 60


@dataclasses.dataclass(frozen=True)
class Answer:
  """Of the service.

  Attributes:
    status: of HTTP.
    headers: names in small letters.
    text: the body.
  """

  status: int
  headers: dict[str, str]
  text: str

  @property
  def json(self) -> Any:
    return json.loads(self.text)

  @property
  def error(self) -> str:
    """The message, after checking that the error is what all errors are."""
    error = self.json['error']
    assert self.json.keys() == {'error'}
    assert error.keys() == {'status', 'message'}
    assert error['status'] == self.status
    assert '\n' not in error['message']
    assert len(error['message']) < 600
    return error['message']


class Service:
  """Where it listens."""

  def __init__(self, port: int):
    self.port = port
    self.url = f'http://127.0.0.1:{port}/'

  def ask(
    self,
    method: str,
    path: str,
    body: Any = None,
    key: str = '',
    headers: dict[str, str] | None = None,
  ) -> Answer:
    """One request on its own connection; bytes are sent as they are."""
    headers = {'Content-Type': 'application/json', **(headers or {})}
    if key:
      headers['Authorization'] = f'Bearer {key}'
    if body is not None and not isinstance(body, bytes | Iterator):
      body = json.dumps(body).encode()
    connection = http.client.HTTPConnection(
      '127.0.0.1', self.port, timeout=_PATIENCE_S
    )
    with contextlib.closing(connection):
      connection.request(method, path, body, headers)
      response = connection.getresponse()
      return Answer(
        response.status,
        {name.lower(): value for name, value in response.getheaders()},
        response.read().decode(),
      )

  def tag(self, *texts: str, key: str = '', **more: Any) -> Answer:
    """Has texts tagged."""
    documents = [{'content': text} for text in texts]
    return self.ask('POST', '/v1/tag', {'documents': documents, **more}, key)

  def add(self, uid: str, title: str, key: str = LABELS_KEY) -> Answer:
    """Adds a label."""
    labels = [{'uid': uid, 'title': title}]
    return self.ask('POST', '/v1/labels', {'labels': labels}, key)


@contextlib.contextmanager
def serving(api_keys: tuple[str, ...] = (), **flags: Any) -> Iterator[Service]:
  """Runs the service; a test must not leave anything unanswered behind."""
  config = dataclasses.replace(ServeConfig(), port=0, **flags)
  with serve.listening(config) as listener:
    app = serve.build_app(config, Keys(list(api_keys), [LABELS_KEY]))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
      until = time.monotonic() + _PATIENCE_S
      while not server.started:
        assert thread.is_alive(), 'the service did not start'
        assert time.monotonic() < until
        time.sleep(0.01)
      yield Service(listener.getsockname()[1])
    finally:
      server.should_exit = True
      thread.join(_PATIENCE_S)
      assert not thread.is_alive()
