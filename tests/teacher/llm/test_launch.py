"""A server that the run starts ends with the run, however that ends."""

import http.client
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading

import fake_launched_server
from processes import end_group, gone, group, wait_until
import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm import launch
from lmtx_jax.teacher.llm.launch import LaunchedServer
from lmtx_jax.teacher.llm.memory_saver import MemorySaver, call
from lmtx_jax.teacher.llm.server_command import ServerCommand, jax_environ
from lmtx_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[3]
LAUNCHER = shlex.join([sys.executable, fake_launched_server.__file__])
DRIVER = """
import os, sys, time
from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.launch import LaunchedServer

config = LlmConfig(teacher_launch=sys.argv[1], teacher_launcher=sys.argv[2])
server = LaunchedServer(config, sys.argv[3])
server.start()
try:
  server.wait(30)
  if sys.argv[4] == 'fork' and not os.fork():
    time.sleep(60)
    os._exit(0)
  print(server.url, flush=True)
  if sys.argv[4] == 'raise':
    raise SystemExit(5)
  # One long sleep would miss a signal that comes just as it begins.
  for _ in range(600):
    time.sleep(0.1)
finally:
  server.stop()
"""


def config_of(flags, launcher=LAUNCHER):
  return LlmConfig(teacher_launch=flags, teacher_launcher=launcher)


@pytest.fixture
def log(tmp_path):
  """Path of a server's log; the server's processes are ended at last."""
  path = tmp_path / 'server.log'
  yield path
  if path.exists() and pids(path):
    end_group(pids(path)[0])


def pids(log):
  """The server and its child, by what it wrote when it last started."""
  lines = [line.split() for line in log.read_text().splitlines()]
  lines = [x for x in lines if len(x) == 2 and all(map(str.isdigit, x))]
  return [int(word) for word in lines[-1]] if lines else []


class TestCommand:
  def test_what_is_given_and_what_is_added(self, tmp_path):
    program = tmp_path / 'my python'
    program.symlink_to(sys.executable)
    config = config_of("org/model --foo 'a b'", f"'{program}' -m sglang.x")
    command = ServerCommand.from_config(config)
    assert command.words == (
      *(str(program), '-m', 'sglang.x', '--model-path', 'org/model'),
      *('--host', '127.0.0.1', '--port', str(command.port)),
      *('--mem-fraction-static', '0.6', '--foo', 'a b'),
    )
    assert command.saved_memory == ()

  def test_the_users_own_flags_win(self):
    command = ServerCommand.from_config(
      config_of('m --port=1234 --host 0.0.0.0 --mem-fraction-static 0.7')
    )
    assert (command.host, command.port) == ('127.0.0.1', 1234)
    assert command.memory_fraction == 0.7
    text = ' '.join(command.words)
    assert '--host 0.0.0.0 --port 1234 --mem-fraction-static 0.7' in text

  def test_memory_saver(self):
    saver = 'm --enable-memory-saver'
    command = ServerCommand.from_config(config_of(saver))
    assert command.memory_fraction == 0.8
    # Weights without a copy in the host's memory would come back as noise.
    assert command.saved_memory == ('kv_cache',)
    command = ServerCommand.from_config(
      config_of(f'{saver} --enable-weights-cpu-backup')
    )
    assert command.saved_memory == ('kv_cache', 'weights')

  def test_on_the_cpu_no_share_is_set(self):
    command = ServerCommand.from_config(config_of('m --device cpu'))
    assert '--mem-fraction-static' not in command.words

  @pytest.mark.parametrize('flags', ['--port 1', ' ', "''"])
  def test_no_model(self, flags):
    with pytest.raises(UserError, match='must begin with a model'):
      ServerCommand.from_config(config_of(flags))

  @pytest.mark.parametrize('name', ['--port', '--mem-fraction-static'])
  def test_no_number(self, name):
    with pytest.raises(UserError, match=f"{name} needs a number, not 'x'"):
      ServerCommand.from_config(config_of(f'm {name} x'))

  def test_the_default_launcher_is_this_python(self):
    command = ServerCommand.from_config(LlmConfig(teacher_launch='m'))
    assert command.words[:3] == (sys.executable, '-m', 'sglang.launch_server')


class TestJaxEnviron:
  @pytest.mark.parametrize('flags', ['', 'm --device cpu'])
  def test_all_is_jaxs(self, flags):
    assert jax_environ(config_of(flags)) == {}

  @pytest.mark.parametrize(
    ('flags', 'share'),
    [
      ('m', '0.35'),
      ('m --mem-fraction-static 0.5', '0.45'),
      ('m --mem-fraction-static=0.95', '0.10'),
    ],
  )
  def test_the_rest_is_jaxs(self, flags, share):
    assert jax_environ(config_of(flags)) == {
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
      'XLA_CLIENT_MEM_FRACTION': share,
    }

  def test_in_turns(self):
    assert jax_environ(config_of('m --enable-memory-saver')) == {
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
      'XLA_PYTHON_CLIENT_ALLOCATOR': 'platform',
    }


class TestServer:
  def test_from_start_to_stop(self, log):
    server = LaunchedServer(config_of('m --start-s 0.5'), str(log))
    assert not server.alive()
    server.start()
    server.start()  # there is one already
    server.wait(30)
    assert server.alive()
    assert call(server.url, 'GET', '/health')[0] == 200
    leader, child = pids(log)
    assert set(group(leader)) == {leader, child}
    assert os.getsid(leader) != os.getsid(0)  # a Ctrl-C does not reach it
    server.stop()
    assert not group(leader)
    assert not server.alive()
    server.stop()

  def test_it_starts_again_at_the_same_address(self, log):
    server = LaunchedServer(config_of('m'), str(log))
    url = server.url
    try:
      for _ in range(2):
        server.start()
        server.wait(30)
        leader = pids(log)[0]
        os.kill(leader, signal.SIGKILL)
        assert wait_until(lambda: not server.alive())
        assert 'ended (SIGKILL)' in str(server.ended())
        assert not group(leader)  # the child too
        assert server.url == url
    finally:
      server.stop()

  def test_one_that_ignores_sigterm(self, log):
    server = LaunchedServer(config_of('m --stubborn'), str(log), grace_s=0.5)
    server.start()
    server.wait(30)
    leader = pids(log)[0]
    server.stop()
    assert not group(leader)

  def test_what_it_leaves_behind_ends_too(self, log):
    server = LaunchedServer(config_of('m --deserter'), str(log))
    server.start()
    with pytest.raises(UserError, match=r'ended \(exit code 0\)'):
      server.wait(30)
    assert not group(pids(log)[0])
    server.stop()

  def test_one_that_dies_at_start(self, log):
    server = LaunchedServer(config_of('absent'), str(log))
    server.start()
    with pytest.raises(UserError) as caught:
      server.wait(30)
    assert str(caught.value) == (
      '--teacher_launch: the server ended (exit code 3): OSError: absent is not'
      f' a local folder; its log is {log}'
    )
    server.stop()
    assert not group(pids(log)[0])

  def test_no_such_program(self, log):
    with pytest.raises(UserError, match="no program '/no/such/python'"):
      LaunchedServer(config_of('m', '/no/such/python -m x'), str(log))

  def test_program_that_does_not_start(self, log, tmp_path):
    program = tmp_path / 'python'
    program.write_text('#!/no/such/interpreter\n')
    program.chmod(0o755)
    server = LaunchedServer(config_of('m', str(program)), str(log))
    server.start()
    with pytest.raises(UserError) as caught:
      server.wait(30)
    assert 'exit code 127' in str(caught.value)
    assert f'cannot start {program}: No such file' in str(caught.value)
    server.stop()

  def test_not_ready_in_time(self, log, monkeypatch, caplog):
    monkeypatch.setattr(launch, '_SAY_S', 0.0)
    caplog.set_level('INFO', logger='absl')
    server = LaunchedServer(config_of('m --start-s 60'), str(log))
    server.start()
    try:
      with pytest.raises(UserError, match='does not answer after') as e:
        server.wait(1.5)
      assert str(log) in str(e.value)
      assert 'waiting for the teacher: ' in caplog.text
    finally:
      server.stop()

  def test_a_port_in_use(self, log):
    with socket.create_server(('127.0.0.1', 0)) as taken:
      port = taken.getsockname()[1]
      server = LaunchedServer(config_of(f'm --port {port}'), str(log))
      with pytest.raises(UserError, match=f'port {port} is in use'):
        server.start()


class TestDriver:
  """The process that starts a server ends in some way."""

  @pytest.fixture
  def start(self, log):
    """Starts a driver and waits for its server; gives back the driver."""
    drivers = []

    def listen():
      # A shell's background jobs, and so their children, ignore SIGINT; what
      # nohup starts ignores SIGHUP.
      for sign in (signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, signal.SIG_DFL)

    def start(mode='sleep'):
      driver = subprocess.Popen(
        [sys.executable, '-c', DRIVER, 'm', LAUNCHER, str(log), mode],
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=listen,
        cwd=ROOT,
      )
      drivers.append(driver)
      assert driver.stdout.readline().startswith(b'http://')
      return driver

    yield start
    for driver in drivers:
      end_group(driver.pid)
      driver.wait()
      driver.stdout.close()

  @pytest.mark.parametrize(
    'sign', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
  )
  def test_a_signal_to_its_whole_group(self, start, log, sign):
    driver = start()
    leader, child = pids(log)
    assert set(group(leader)) == {leader, child}
    os.killpg(driver.pid, sign)
    driver.wait(30)
    assert gone(leader)

  def test_killed_with_a_child_that_holds_the_pipe(self, start, log):
    driver = start('fork')
    driver.kill()
    driver.wait(30)
    assert gone(pids(log)[0])

  def test_interrupted_with_a_child_that_holds_the_pipe(self, start, log):
    driver = start('fork')
    driver.send_signal(signal.SIGINT)
    driver.wait(30)
    assert not group(pids(log)[0])

  def test_failed(self, start, log):
    assert start('raise').wait(30) == 5
    assert not group(pids(log)[0])


class TestMemory:
  @pytest.fixture
  def server(self, log):
    """A server that can give back its memory."""
    flags = 'm --enable-memory-saver --enable-weights-cpu-backup --api-key k'
    server = LaunchedServer(config_of(flags), str(log))
    server.start()
    server.wait(30)
    yield server
    server.stop()

  def test_release_and_resume_as_often_as_you_like(self, server):
    memory = server.memory
    assert server.has_memory_saver
    memory.resume()  # nothing to resume
    for _ in range(2):
      memory.release()
      memory.release()
      assert memory.released
      memory.resume()
      memory.resume()
      assert not memory.released
    assert call(server.url, 'GET', '/health')[0] == 200
    assert server.alive()

  def test_a_request_is_ended_before(self, server):
    answers = []

    def ask():
      answers.append(call(server.url, 'POST', '/generate', {}, 'k'))

    asking = threading.Thread(target=ask)
    asking.start()
    assert wait_until(
      lambda: call(server.url, 'POST', '/flush_cache', None, 'k')[0] == 400
    )
    server.memory.release()
    asking.join()
    assert answers == [(200, b'[]')]
    server.memory.resume()
    assert server.alive()

  def test_one_that_does_not_become_idle(self, server, monkeypatch):
    memory = MemorySaver(server.url, api_key='k', timeout_s=0.5)
    # As one with a request that cannot be aborted.
    monkeypatch.setattr(memory, '_post', lambda *_, busy=0: not busy)
    with pytest.raises(UserError, match=r'still works after 0\.5 s'):
      memory.release()
    assert not memory.released

  def test_a_wrong_key(self, server):
    with pytest.raises(UserError, match='/abort_request: 401 '):
      MemorySaver(server.url).release()

  def test_a_dead_server(self, server):
    memory = server.memory
    memory.release()
    server.stop()
    with pytest.raises(UserError, match='the server does not answer'):
      memory.resume()

  @pytest.mark.parametrize(
    'path', ['/resume_memory_occupation', '/release_memory_occupation']
  )
  def test_the_fake_dies_where_a_rule_is_broken(self, server, path):
    if path.startswith('/release'):
      ask = http.client.HTTPConnection(server.url.removeprefix('http://'))
      ask.request('POST', '/generate', '{}', {'Authorization': 'Bearer k'})
      assert wait_until(
        lambda: call(server.url, 'POST', '/flush_cache', None, 'k')[0] == 400
      )
    with pytest.raises((OSError, http.client.HTTPException)):
      call(server.url, 'POST', path, {'tags': ['kv_cache']}, 'k')
    assert wait_until(lambda: not server.alive())
    assert 'AssertionError: re' in str(server.ended())

  def test_without_a_memory_saver_there_is_none(self, log):
    server = LaunchedServer(config_of('m'), str(log))
    server.start()
    assert server.memory is None
    assert not server.has_memory_saver
    server.stop()


def test_the_guardian_needs_nothing_but_python():
  code = (
    'import json, runpy, sys\n'
    f'runpy.run_path({launch.guardian.__file__!r})\n'
    'print(json.dumps(sorted(sys.modules)))'
  )
  out = subprocess.run(
    [sys.executable, '-I', '-S', '-c', code], capture_output=True, check=True
  ).stdout
  assert not {'lmtx_jax', 'numpy', 'jax', 'absl'} & set(json.loads(out))
