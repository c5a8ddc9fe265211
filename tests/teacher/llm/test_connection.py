"""What a user may get wrong about servers is told in one line."""

import asyncio
import contextlib
import pathlib
import socket

from asking_fakes import in_time
from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from fault_proxy import FaultProxy
import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm import connection
from lmtx_jax.teacher.llm import server as server_lib
from lmtx_jax.types import UserError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write_tokenizer(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='module')
def other_folder(tmp_path_factory):
  """A tokenizer that cuts otherwise."""
  return write_tokenizer(tmp_path_factory.mktemp('other'), spellings=())


@pytest.fixture
def server(folder):
  with FakeSglangServer(folder) as server:
    yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
  monkeypatch.setattr(connection, '_POLL_S', 0.01)


def connect(*urls, **flags):
  flags = {'teacher_timeout_s': 2.0, 'teacher_patience': 2.0, **flags}
  config = LlmConfig(teacher_urls=','.join(urls), **flags)

  def run():
    return asyncio.run(connection.connect(config, config.urls))

  return in_time(run)


def complaint(*urls, **flags):
  """The one line that the user sees."""
  with pytest.raises(UserError) as info:
    connect(*urls, **flags)
  assert len(str(info.value).splitlines()) == 1
  return str(info.value)


def dead_url(folder):
  """An address where nobody is any more."""
  with FakeSglangServer(folder) as server:
    return server.url


def test_model_and_tokenizer(folder, server):
  found = connect(server.url)
  assert found.urls == (server.url,)
  assert found.model == {'model': folder, 'tokenizer': folder}
  assert found.tokenizer.encode('yes') == [
    found.tokenizer.convert_tokens_to_ids('yes')
  ]
  assert connect(server.url + '/').model == found.model
  assert not server.crimes
  assert connect(server.url, teacher_api='openai').model == {'model': folder}


def test_weight_version_and_other_looks(folder, server):
  server.weight_version = 'v2'
  assert connect(server.url).model['weights'] == 'v2'
  server.odd = {'/server_info': '[1]'}
  assert connect(server.url).model['weights'] == 'v2'
  server.missing = ('/server_info', '/tokenize')
  assert connect(server.url).model['weights'] == 'v2'


def test_no_server(folder):
  url = dead_url(folder)
  for api in ('sglang', 'openai'):
    said = complaint(url, teacher_api=api)
    assert url in said and '--teacher_url' in said and 'refused' in said


def test_address_without_a_host():
  said = complaint('http://no-such-host.invalid:1')
  assert 'no-such-host.invalid' in said and '--teacher_url' in said


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_key(server, tmp_path, api):
  server.api_key = 'sesame'
  assert '--teacher_api_key_file' in complaint(server.url, teacher_api=api)
  path = tmp_path / 'key'
  path.write_text('wrong\n')
  flags = {'teacher_api': api, 'teacher_api_key_file': str(path)}
  said = complaint(server.url, **flags)
  assert '--teacher_api_key_file' in said and 'wrong' not in said
  path.write_text('sesame\n')
  assert connect(server.url, **flags).model
  assert all(h['Authorization'] == 'Bearer sesame' for h in server.headers)


@pytest.mark.parametrize('content', [b'', b'\n', b'a\nb', b'\xff', b'a\x00', 0])
def test_key_file_without_a_key(server, tmp_path, content):
  path = tmp_path / 'key'
  if content != 0:
    path.write_bytes(content)
  said = complaint(server.url, teacher_api_key_file=str(path))
  assert f'--teacher_api_key_file={path}' in said
  said = complaint(server.url, teacher_api_key_file=str(tmp_path))
  assert f'--teacher_api_key_file={tmp_path}' in said


def test_wrong_api(server):
  server.missing = ('/model_info', '/get_model_info', '/generate')
  said = complaint(server.url)
  assert server.url in said and '--teacher_api=openai' in said
  server.missing = ('/v1/models', '/v1/completions')
  said = complaint(server.url, teacher_api='openai')
  assert server.url in said and 'OpenAI' in said


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_half_an_api(server, api):
  """It tells its model, but takes no questions."""
  server.missing = ('/generate', '/v1/completions', '/tokenize')
  said = complaint(server.url, teacher_api=api)
  assert server.url in said and '--teacher_api' in said


@pytest.mark.parametrize(
  'flags',
  [{}, {'missing': ('/tokenize',)}, {'api': 'openai'}],
)
def test_tokenizer_of_another_model(folder, other_folder, flags):
  api = flags.pop('api', 'sglang')
  with FakeSglangServer(folder, **flags) as server:
    said = complaint(
      server.url, teacher_api=api, teacher_tokenizer=other_folder
    )
    assert '--teacher_tokenizer' in said and other_folder in said
    assert connect(server.url, teacher_api=api, teacher_tokenizer=folder)
    assert not server.crimes


@pytest.mark.parametrize('missing', [(), ('/tokenize',)])
def test_start_token(tmp_path, missing):
  folder = write_tokenizer(tmp_path, bos=True)
  with FakeSglangServer(folder, missing=missing) as server:
    assert connect(server.url).model['model'] == folder


def test_tokenizer_that_does_not_load(server, tmp_path):
  server.tokenizer_path = str(tmp_path / 'gone')
  said = complaint(server.url)
  assert '--teacher_tokenizer' in said and 'gone' in said
  (tmp_path / 'broken').mkdir()
  (tmp_path / 'broken' / 'tokenizer.json').write_text('{')
  said = complaint(server.url, teacher_tokenizer=str(tmp_path / 'broken'))
  assert '--teacher_tokenizer' in said and 'broken' in said
  pathlib.Path(tmp_path, 'broken', 'tokenizer.json').write_text('{}')
  pathlib.Path(tmp_path, 'broken', 'tokenizer_config.json').write_text(
    '{"tokenizer_class": "PreTrainedTokenizerFast"}'
  )
  said = complaint(server.url, teacher_tokenizer=str(tmp_path / 'broken'))
  assert '--teacher_tokenizer' in said


def test_embedding_model(server):
  server.is_generation = False
  said = complaint(server.url)
  assert server.url in said and 'embedding' in said


def test_servers_with_different_models(folder, other_folder, server):
  with FakeSglangServer(other_folder) as other:
    said = complaint(server.url, other.url)
    assert '--teacher_urls' in said
    assert server.url in said and other.url in said
  with FakeSglangServer(folder, weight_version='2') as other:
    assert '--teacher_urls' in complaint(server.url, other.url)
  with FakeSglangServer(folder) as other:
    assert len(connect(server.url, other.url).urls) == 2


def test_one_of_several_is_dead(folder, server, caplog):
  url = dead_url(folder)
  found = connect(url, server.url)
  assert found.urls == (url, server.url)  # it may come back
  assert any(url in record.message for record in caplog.records)
  assert complaint(url, dead_url(folder)).startswith('no teacher answers')


def test_a_server_that_is_still_starting(server):
  server.starting = 3
  assert connect(server.url).model
  assert server.num_requests['/model_info'] == 4
  server.starting = 10**6
  said = complaint(server.url, teacher_patience=0.1)
  assert server.url in said and '503' in said


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_a_server_that_is_busy_with_others(server, api):
  server.missing = ('/tokenize',)
  with FaultProxy(server.url) as proxy:
    proxy.script.extend(['burst_503', 'error_429'])
    assert connect(proxy.url, teacher_api=api).model
    assert proxy.num_questions == 3
    proxy.set_faults({'burst_503': 1.0})
    said = complaint(proxy.url, teacher_api=api, teacher_patience=0.1)
    assert proxy.url in said and '503' in said


def test_a_machine_that_does_not_answer(server, monkeypatch):
  """Nobody is waited for who cannot even be connected to."""
  monkeypatch.setattr(server_lib, '_CONNECT_S', 0.2)
  with contextlib.ExitStack() as stack:
    listener = stack.enter_context(socket.socket())
    listener.bind(('127.0.0.1', 0))
    listener.listen(0)
    for _ in range(3):  # fill its queue
      client = stack.enter_context(socket.socket())
      client.setblocking(False)
      client.connect_ex(listener.getsockname())
    url = f'http://127.0.0.1:{listener.getsockname()[1]}'
    said = complaint(url, teacher_patience=10**6)
    assert url in said and 'no connection in time' in said
    assert connect(url, server.url, teacher_patience=10**6).urls


def test_sglang_jax(server):
  server.sglang_jax = True
  assert connect(server.url).model['model'] == server.model_path


@pytest.mark.parametrize('html', ['<html>\n<body>Hi\n</body>', ''])
@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_a_page_instead_of_json(server, html, api):
  server.odd = {'*': html}
  said = complaint(server.url, teacher_api=api)
  assert server.url in said and '--teacher_url' in said


@pytest.mark.parametrize('json', ['[]', '3', 'null', '{"data": {}}', '"a"'])
@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_json_of_something_else(server, json, api):
  server.odd = {'*': json}
  assert server.url in complaint(server.url, teacher_api=api)


@pytest.mark.parametrize(
  ('path', 'content'),
  [
    ('/server_info', '<html>'),
    ('/tokenize', '{"tokens": [["a"]]}'),
    ('/tokenize', '{"tokens": "a"}'),
    ('/tokenize', '[]'),
    ('/tokenize', '{"tokens": [[]]}'),
  ],
)
def test_odd_details(server, path, content):
  server.odd = {path: content}
  assert server.url in complaint(server.url)
