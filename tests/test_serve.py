"""The command that serves: how it starts, how it ends."""

import dataclasses
import json
import re
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from run_fixtures import call, check_same, spawn

from lmtx_jax import serve
from lmtx_jax.serve import ServeConfig
from lmtx_jax.types import UserError

SLOW_S = 60


@pytest.fixture
def flags(bundle, cache):
  return f'--bundle={bundle}', f'--data_cache={cache}', '--port=0'


def post(url, documents):
  request = urllib.request.Request(
    f'{url}/v1/tag',
    json.dumps({'documents': documents}).encode(),
    {'Content-Type': 'application/json'},
  )
  with urllib.request.urlopen(request, timeout=SLOW_S) as response:
    return json.load(response)['results']


def address(process):
  """Where it says that it serves."""
  for line in process.stderr:
    if found := re.search(r'serving at (http://\S+)', line):
      return found[1]
  raise AssertionError(f'it ended with {process.wait(SLOW_S)}')


def wait_for(url):
  until = time.monotonic() + SLOW_S
  while True:
    try:
      with urllib.request.urlopen(f'{url}/health') as response:
        return json.load(response)
    except OSError:
      assert time.monotonic() < until
      time.sleep(0.05)


def await_work(url, done):
  """Returns once documents wait, or are answered."""
  until = time.monotonic() + SLOW_S
  while time.monotonic() < until and not done:
    with urllib.request.urlopen(f'{url}/metrics') as response:
      text = response.read().decode()
    waiting = re.search(r'^lmtx_waiting_documents (\S+)$', text, re.M)
    if float(waiting[1]):
      return


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_answer_what_it_has(flags, number):
  process = spawn('serve', *flags)
  try:
    url = address(process)
    wait_for(url)
    documents = [{'content': f'word{i} ' * 20} for i in range(256)]
    rows = []
    asking = threading.Thread(target=lambda: rows.extend(post(url, documents)))
    asking.start()
    await_work(url, rows)
    process.send_signal(number)
    asking.join(SLOW_S)
    assert len(rows) == 256
    assert all(len(row['labels']) == 10 for row in rows)
    assert process.wait(SLOW_S) == 0
    assert 'Traceback' not in process.stderr.read()
  finally:
    process.kill()
    process.communicate()


def test_two_processes_serve_one_bundle_alike(flags):
  processes = [spawn('serve', *flags) for _ in range(2)]
  try:
    urls = [address(process) for process in processes]
    documents = [{'content': f'word{i} text'} for i in range(5)]
    first, second = (post(url, documents) for url in urls)
    assert urls[0] != urls[1]
    check_same(first, second)
  finally:
    for process in processes:
      process.kill()
      process.communicate()


@pytest.mark.parametrize('again', [False, True])
def test_requests_that_last_too_long_are_cut(flags, again):
  process = spawn('serve', *flags, f'--stop_s={30 if again else 0}')
  try:
    url = address(process)
    documents = [{'content': f'word{i} ' * 20} for i in range(256)]
    ends = []

    def ask():
      try:
        ends.append(len(post(url, documents)))
      except urllib.error.HTTPError as e:
        ends.append(json.load(e)['error']['status'])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
      thread.start()
    await_work(url, ends)
    process.send_signal(signal.SIGINT)
    if again:
      process.send_signal(signal.SIGINT)
    assert process.wait(SLOW_S) == 0
    for thread in threads:
      thread.join(SLOW_S)
    assert len(ends) == 2
    assert set(ends) <= {256, 503}
    assert 'Traceback' not in process.stderr.read()
  finally:
    process.kill()
    process.communicate()


def test_an_address_is_taken_before_the_bundle_is_opened():
  config = dataclasses.replace(ServeConfig(), port=0)
  with serve.listening(config) as first:
    taken = dataclasses.replace(config, port=first.getsockname()[1])
    with pytest.raises(UserError, match='is in use'):
      serve.listening(taken)


def test_a_port_in_use_is_told_before_anything_else(flags):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    result = call('serve', *flags, '--bundle=/none', f'--port={port}')
  assert result.code == 1
  assert f'--port={port} is in use' in result.error


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--bundle=', '--bundle is not set'),
    ('--bundle=/none/such', '--bundle=/none/such: there is no such folder'),
    ('--host=no.such.host.invalid', '--host=no.such.host.invalid'),
    ('--host=192.0.2.1', '--host=192.0.2.1'),
    ('--host=..', '--host=..: is no name of a host'),
    (f'--host={"a" * 70}', 'is no name of a host'),
    ('--max_reading_bytes=2000', '--max_body_bytes is more than --max_reading'),
    ('--api_key_file=/none/key', '--api_key_file=/none/key: no such file'),
    ('--labels_key_file=/none/key', '--labels_key_file=/none/key'),
    ('--max_docs=600', '--max_docs is more than --max_client_docs'),
    ('--max_client_docs=2000', 'is more than --max_waiting_docs'),
  ],
)
def test_flags_that_cannot_be(flags, flag, message):
  result = call('serve', *flags, flag)
  assert result.code == 1
  assert message in result.error


@pytest.mark.parametrize(('port', 'code'), [('70000', 2), ('-1', 2), ('x', 2)])
def test_ports_that_are_none(flags, port, code):
  assert call('serve', *flags, f'--port={port}').code == code


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'has no key in it'),
    ('\n  \n', 'has no key in it'),
    ('good-enough\nshort\n', 'key 2 must be at least 8'),
    ('schlüssel-eins\n', 'key 1 must be at least 8 ASCII'),
    (b'\xff\xfe\x00\x01', 'is not UTF-8'),
  ],
)
def test_key_files_that_cannot_be(flags, tmp_path, text, message):
  path = tmp_path / 'keys'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  result = call('serve', *flags, f'--api_key_file={path}')
  assert result.code == 1
  assert message in result.error
  assert str(path) in result.error


def test_one_key_is_not_for_both(flags, tmp_path):
  for name in ('api', 'labels'):
    (tmp_path / name).write_text('the-same-key\n')
  result = call(
    'serve',
    *flags,
    f'--api_key_file={tmp_path / "api"}',
    f'--labels_key_file={tmp_path / "labels"}',
  )
  assert result.code == 1
  assert 'a key of its own' in result.error


@pytest.mark.parametrize(
  'name', ['lmtx.json', 'labels.jsonl', 'label_embeddings.npy']
)
def test_a_broken_bundle_is_one_line(flags, bundle, tmp_path, name):
  broken = shutil.copytree(bundle, tmp_path / 'broken')
  content = (broken / name).read_bytes()
  (broken / name).write_bytes(content[: len(content) // 2])
  result = call('serve', *flags, f'--bundle={broken}')
  assert result.code == 1
  assert name in result.error


def test_help_names_every_flag():
  result = call('serve', '--help')
  assert result.code == 0
  for name in ('host', 'port', 'api_key_file', 'labels_key_file', 'max_docs'):
    assert f'--{name} ' in result.out
