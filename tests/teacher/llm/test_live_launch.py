"""The real server, started by a driver."""

import os
import shlex
import signal
import subprocess
import sys
import threading

from live_fixtures import (
  CPU_FLAGS,
  SglangServer,
  launcher,
  model_path,
  requires_sglang,
)
from processes import children, end_group, gone, group, wait_until
import pytest
from test_launch import DRIVER, ROOT

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.launch import LaunchedServer
from lmtx_jax.teacher.llm.memory_saver import MemorySaver, call
from lmtx_jax.types import UserError

pytestmark = requires_sglang


def config_of(model, *flags):
  return LlmConfig(
    teacher_launch=shlex.join([model, *CPU_FLAGS, *flags]),
    teacher_launcher=launcher(),
  )


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  with SglangServer(tmp_path_factory.mktemp('live')) as server:
    yield server


def generate(server, num_prompts, num_words):
  body = {
    'text': [f'{i} ' + 'na lo mi ' * num_words for i in range(num_prompts)],
    'sampling_params': {'max_new_tokens': 0, 'temperature': 0},
  }
  status, content = call(server.url, 'POST', '/generate', body, timeout_s=900)
  assert status == 200, content
  return content


class TestMemory:
  def test_only_an_idle_server_flushes_its_cache(self, server):
    assert call(server.url, 'POST', '/flush_cache')[0] == 200
    asking = threading.Thread(target=generate, args=(server, 200, 500))
    asking.start()
    assert wait_until(
      lambda: call(server.url, 'POST', '/flush_cache')[0] == 400
    )
    status, text = call(server.url, 'POST', '/flush_cache')
    assert (status, text) == (400, b'Flush cache failed.\n')
    asking.join()

  def test_release_and_resume(self, server):
    asking = threading.Thread(target=generate, args=(server, 200, 500))
    asking.start()
    assert wait_until(
      lambda: call(server.url, 'POST', '/flush_cache')[0] == 400
    )
    # Without CUDA no memory changes hands, but the rules are the same.
    memory = MemorySaver(server.url)
    for _ in range(2):
      memory.release()
      memory.release()
      memory.resume()
      memory.resume()
    asking.join()
    assert generate(server, 1, 1)

  def test_killed_and_started_again(self, server):
    leader = server.group
    members = group(leader)
    assert len(members) >= 3  # it has a scheduler and a detokenizer
    server.kill()
    assert not group(leader)
    server.start()
    assert generate(server, 1, 1)

  def test_a_resume_without_a_release_ends_the_server(self, server):
    leader = server.group
    with pytest.raises(OSError):
      call(
        server.url, 'POST', '/resume_memory_occupation', {'tags': ['kv_cache']}
      )
    assert gone(leader, 120)


def test_a_killed_driver_leaves_nothing(tmp_path):
  log = tmp_path / 'server.log'
  config = config_of(model_path())
  driver = subprocess.Popen(
    [
      *(sys.executable, '-c', DRIVER.replace('wait(30)', 'wait(240)')),
      *(config.teacher_launch, config.teacher_launcher, str(log), 'sleep'),
    ],
    stdout=subprocess.PIPE,
    start_new_session=True,
    cwd=ROOT,
  )
  try:
    assert driver.stdout.readline().startswith(b'http://'), log.read_text()
    (guardian,) = children(driver.pid)
    (leader,) = children(guardian)
    assert len(group(leader)) >= 3
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(30)
    assert gone(leader, 60)
  finally:
    end_group(driver.pid)
    driver.wait()
    driver.stdout.close()


@pytest.mark.parametrize(
  ('model', 'flags', 'said'),
  [
    ('/no/such/model', (), '/no/such/model'),
    ('tiny', ('--no-such-flag',), 'unrecognized arguments: --no-such-flag'),
  ],
)
def test_what_it_fails_of_is_told(tmp_path, model, flags, said):
  path = model_path() if model == 'tiny' else model
  log = tmp_path / 'server.log'
  server = LaunchedServer(config_of(path, *flags), str(log))
  server.start()
  try:
    with pytest.raises(UserError) as caught:
      server.wait(240)
  finally:
    server.stop()
  message = str(caught.value)
  assert said in message
  assert str(log) in message
  assert '\n' not in message
