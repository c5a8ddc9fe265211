"""A real Chromium, without a window, by its remote debugging protocol."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import time
from typing import Any

import aiohttp

EXECUTABLE = shutil.which('chromium') or shutil.which('google-chrome')
_FLAGS = (
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--disable-background-networking',
  '--disable-component-update',
  '--no-first-run',
  '--remote-debugging-port=0',
)
_KEYS = {
  'Tab': (9, ''),
  'Enter': (13, '\r'),
  'ArrowDown': (40, ''),
  'ArrowUp': (38, ''),
}
_CTRL = 2
_PATIENCE_S = 60


class Tab:
  """A page that is open.

  Attributes:
    requests: addresses of all that it asked for.
    complaints: what it logged as errors, and exceptions that nobody caught.
  """

  def __init__(self, socket: aiohttp.ClientWebSocketResponse):
    self._socket = socket
    self._numbers = itertools.count(1)
    self._answers: dict[int, asyncio.Future] = {}
    self.requests: list[str] = []
    self.complaints: list[str] = []

  async def read(self) -> None:
    """Takes in what the browser says, until it closes."""
    async for message in self._socket:
      said = json.loads(message.data)
      if 'id' in said:
        self._answers.pop(said['id']).set_result(said)
      elif said['method'] == 'Network.requestWillBeSent':
        self.requests.append(said['params']['request']['url'])
      elif said['method'] in ('Runtime.exceptionThrown', 'Log.entryAdded'):
        self.complaints.append(json.dumps(said['params']))

  async def send(self, method: str, **params) -> dict[str, Any]:
    """Calls a method of the protocol."""
    number = next(self._numbers)
    self._answers[number] = asyncio.get_running_loop().create_future()
    await self._socket.send_json(
      {'id': number, 'method': method, 'params': params}
    )
    said = await asyncio.wait_for(self._answers[number], _PATIENCE_S)
    assert 'error' not in said, said
    return said['result']

  async def go(self, url: str) -> None:
    """Opens an address, and waits until it is there."""
    for domain in ('Page', 'Network', 'Runtime', 'Log'):
      await self.send(f'{domain}.enable')
    await self.send('Page.navigate', url=url)
    await self.wait('document.readyState === "complete"')

  async def value(self, expression: str) -> Any:
    """What an expression of JavaScript gives."""
    result = await self.send(
      'Runtime.evaluate',
      expression=expression,
      returnByValue=True,
      awaitPromise=True,
    )
    assert 'exceptionDetails' not in result, result
    return result['result'].get('value')

  async def wait(self, expression: str) -> Any:
    """Waits until an expression is true; returns its value."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
      if value := await self.value(expression):
        return value
      await asyncio.sleep(0.05)
    text = await self.value('document.body.innerText')
    raise AssertionError(f'never came true: {expression}\n{text}')

  async def type(self, text: str) -> None:
    """Types where the focus is."""
    await self.send('Input.insertText', text=text)

  async def press(self, key: str, ctrl: bool = False) -> None:
    """Presses a key of _KEYS."""
    code, text = _KEYS[key]
    about = {
      'key': key,
      'code': key,
      'windowsVirtualKeyCode': code,
      'modifiers': _CTRL if ctrl else 0,
    }
    down = (
      {'type': 'keyDown', 'text': text}
      if text and not ctrl
      else {'type': 'rawKeyDown'}
    )
    await self.send('Input.dispatchKeyEvent', **down, **about)
    await self.send('Input.dispatchKeyEvent', type='keyUp', **about)

  async def screenshot(self, path: pathlib.Path) -> None:
    """Writes what is seen as PNG."""
    shot = await self.send('Page.captureScreenshot', captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(shot['data']))


@contextlib.asynccontextmanager
async def tab(profile: pathlib.Path) -> AsyncIterator[Tab]:
  """A browser of its own, with one empty page; ended afterwards."""
  process = subprocess.Popen(
    [EXECUTABLE, *_FLAGS, f'--user-data-dir={profile}', 'about:blank'],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    port = await _port(profile / 'DevToolsActivePort')
    async with aiohttp.ClientSession() as session:
      async with session.get(f'http://127.0.0.1:{port}/json') as response:
        targets = await response.json()
      address = next(
        t['webSocketDebuggerUrl'] for t in targets if t['type'] == 'page'
      )
      async with session.ws_connect(address, max_msg_size=0) as socket:
        page = Tab(socket)
        reader = asyncio.create_task(page.read())
        try:
          yield page
        finally:
          reader.cancel()
  finally:
    process.terminate()
    process.wait(30)


async def _port(path: pathlib.Path) -> str:
  """The port that the browser chose and wrote down."""
  until = time.monotonic() + _PATIENCE_S
  while time.monotonic() < until:
    if path.exists() and (lines := path.read_text().splitlines()):
      return lines[0]
    await asyncio.sleep(0.05)
  raise AssertionError('Chromium did not start')
