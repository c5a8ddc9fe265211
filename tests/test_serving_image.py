"""launch/Dockerfile: what it copies is there, what it starts is understood."""

import json
import pathlib
import re

import pytest

from lmtx_jax import cli
from lmtx_jax.serve import ServeConfig

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def steps():
  """Instruction and rest of each, in their order; continued lines are one."""
  text = (ROOT / 'launch' / 'Dockerfile').read_text().replace('\\\n', ' ')
  return re.findall(r'^([A-Z]+) +(.+)$', text, re.MULTILINE)


def only(steps, instruction):
  (found,) = [rest for name, rest in steps if name == instruction]
  return found


def test_it_copies_what_is_there(steps):
  sources = [rest.split()[0] for name, rest in steps if name == 'COPY']
  assert sources == ['requirements.txt', 'lmtx_jax']
  assert all((ROOT / source).exists() for source in sources)


def test_it_starts_the_service_without_a_shell(steps):
  words = json.loads(only(steps, 'ENTRYPOINT'))
  assert words[:3] == ['python', '-m', 'lmtx_jax.serve']
  config = cli.build(ServeConfig, cli.parse(words[2:], (ServeConfig,)))
  assert (config.bundle, config.host) == ('/bundle', '0.0.0.0')
  assert f'{config.port}' == only(steps, 'EXPOSE')
  check = only(steps, 'HEALTHCHECK').partition(' CMD ')[2]
  *python, code = json.loads(check)
  assert python == ['python', '-c']
  compile(code, 'healthcheck', 'exec')
  assert f'http://127.0.0.1:{config.port}/health' in code


def test_it_does_not_run_as_root(steps):
  names = [name for name, _ in steps]
  user = only(steps, 'USER')
  assert user not in ('root', '0')
  made = next(
    rest for name, rest in steps if name == 'RUN' and 'useradd' in rest
  )
  assert made.split('&&')[0].split()[-1] == user
  # The folder of compiled programs is the user's, before it becomes a volume.
  cache = only(steps, 'ENV').removeprefix('LMTX_CACHE=')
  assert f'install -d -o {user} -g {user} {cache}' in made
  assert only(steps, 'VOLUME') == cache
  assert names.index('USER') < names.index('ENTRYPOINT')
