"""A stand-in for `sglang.launch_server`, with a child process of its own.

It says its process id and its child's in its first line. It keeps the rules of
the real one about its memory, and dies where they are broken, as that does.
"""

import argparse
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

TAGS = {'kv_cache', 'weights'}


class FakeServer(http.server.ThreadingHTTPServer):
  def __init__(self, args):
    self.args = args
    self.starts_at = time.monotonic() + args.start_s
    self.running, self.aborted = set(), threading.Event()
    self.released = set()
    super().__init__((args.host, args.port), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self.answer()

  def do_POST(self):
    self.answer()

  def answer(self):
    length = int(self.headers.get('Content-Length', 0))
    body = json.loads(self.rfile.read(length) or 'null')
    key = self.server.args.api_key
    shown = self.headers.get('Authorization')
    if key and shown != f'Bearer {key}' and self.path != '/health':
      return self.reply(401, '{"error":"Unauthorized"}')
    if self.server.released and self.path != '/resume_memory_occupation':
      self.die('asked without memory')
    return getattr(self, self.path.strip('/'))(body)

  def health(self, _):
    is_up = time.monotonic() > self.server.starts_at
    self.reply(200 if is_up else 503)

  def generate(self, _):
    self.server.running.add(self)
    self.server.aborted.wait()
    time.sleep(0.5)  # the step that is under way goes on to its end
    self.server.running.discard(self)
    self.reply(200, '[]')

  def abort_request(self, body):
    assert body == {'abort_all': True}
    self.server.aborted.set()
    self.reply(200)

  def flush_cache(self, body):
    assert body is None
    if self.server.running:
      self.reply(400, 'Flush cache failed.\n')
    else:
      self.reply(200, 'Cache flushed.\n')

  def release_memory_occupation(self, body):
    if self.server.running:
      self.die('release while requests run')
    assert set(body['tags']) <= TAGS
    self.server.released = set(body['tags'])
    self.reply(200, 'null')

  def resume_memory_occupation(self, body):
    if self.server.released != set(body['tags']):
      self.die('resume of what was not released')
    self.server.released = set()
    self.reply(200, 'null')

  def reply(self, status, text=''):
    self.send_response(status)
    self.send_header('Content-Length', str(len(text)))
    self.end_headers()
    self.wfile.write(text.encode())

  def die(self, why):
    sys.stderr.write(f'AssertionError: {why}\n')
    sys.stderr.flush()
    os._exit(1)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--model-path', required=True)
  parser.add_argument('--host', required=True)
  parser.add_argument('--port', type=int, required=True)
  parser.add_argument('--mem-fraction-static', type=float)
  parser.add_argument('--enable-memory-saver', action='store_true')
  parser.add_argument('--enable-weights-cpu-backup', action='store_true')
  parser.add_argument('--api-key', default='')
  parser.add_argument('--start-s', type=float, default=0.0)
  parser.add_argument('--stubborn', action='store_true')
  parser.add_argument('--deserter', action='store_true')
  args = parser.parse_args()
  code = 'import time; time.sleep(600)'
  if args.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = 'import signal; signal.signal(15, signal.SIG_IGN); ' + code
  child = subprocess.Popen([sys.executable, '-c', code])
  print(os.getpid(), child.pid, flush=True)
  if args.model_path == 'absent':
    sys.stderr.write(
      'Traceback (most recent call last):\n'
      '  File "somewhere"\n'
      'OSError: absent is not a local folder\n'
      ' - leaked function "erase"\n'
    )
    sys.exit(3)
  if args.deserter:
    sys.exit(0)
  FakeServer(args).serve_forever()


if __name__ == '__main__':
  main()
