"""An aiohttp application in a thread, that can die and come back."""

import asyncio
import contextlib
import socket
import struct
import threading

from aiohttp import web


class ServerThread:
  """Serves `handle` on 127.0.0.1; the port stays the same after a restart."""

  def __init__(self, port=0):
    self._port, self._thread, self._loop = port, None, None

  @property
  def url(self):
    return f'http://127.0.0.1:{self._port}'

  async def handle(self, request):
    """Answers one request."""
    raise NotImplementedError

  async def open(self):
    """Called in the loop before the first request."""

  async def close(self):
    """Called in the loop after the last request."""

  def start(self):
    """Returns once connections are accepted."""
    assert self._thread is None, 'it runs already'
    started, errors = threading.Event(), []
    self._loop = asyncio.new_event_loop()
    self._end = asyncio.Event()

    def run():
      try:
        self._loop.run_until_complete(self._listen(started))
      except Exception as e:
        errors.append(e)
        started.set()
      finally:
        self._loop.close()

    self._thread = threading.Thread(target=run, daemon=True)
    self._thread.start()
    started.wait()
    if errors:
      self._thread = None
      raise errors[0]
    return self

  def stop(self):
    """Ends it: open requests are lost, connections are refused."""
    if self._thread is not None:
      self._loop.call_soon_threadsafe(self._end.set)
      self._thread.join()
      self._thread = None

  def __enter__(self):
    return self.start()

  def __exit__(self, *unused):
    self.stop()

  async def _listen(self, started):
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route('*', '/{path:.*}', self.handle)
    runner = web.AppRunner(
      app,
      access_log=None,
      # A client that gives up ends its request, as at a real server.
      handler_cancellation=True,
      # For a connection that comes in at the very end.
      shutdown_timeout=0.2,
    )
    await runner.setup()
    await self.open()
    try:
      site = web.TCPSite(runner, '127.0.0.1', self._port, reuse_address=True)
      await site.start()
      self._port = runner.addresses[0][1]
      started.set()
      await self._end.wait()
      await site.stop()
      for _ in range(5):  # what was accepted already becomes a connection
        await asyncio.sleep(0)
      for connection in runner.server.connections:
        _reset(connection.transport)
    finally:
      await runner.cleanup()
      await self.close()


def reset(request):
  """Ends the connection of a request; its answer goes nowhere."""
  _reset(request.transport)
  return web.Response()


def _reset(transport):
  """Ends a connection with a TCP reset; what is still unsent is lost."""
  if transport is not None:
    with contextlib.suppress(OSError):
      transport.get_extra_info('socket').setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
      )
    transport.abort()
