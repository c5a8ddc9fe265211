"""Two fake servers of one model, proxies before them, and a verdict store."""

import threading

from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from fault_proxy import FaultProxy
from list_fakes import right
import pytest

from lmtx_jax.teacher.llm import dispatch, lane
from lmtx_jax.teacher.verdict_store import VerdictStore


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  return write_tokenizer(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture
def servers(folder):
  """Two servers of the same model."""
  with FakeSglangServer(folder) as one, FakeSglangServer(folder) as two:
    yield one, two
    assert not one.crimes and not two.crimes


@pytest.fixture
def server(servers):
  return servers[0]


@pytest.fixture
def proxies(servers):
  one, two = (FaultProxy(server.url) for server in servers)
  with one, two:
    yield one, two


@pytest.fixture
def proxy(proxies):
  return proxies[0]


@pytest.fixture
def store(tmp_path):
  store = VerdictStore(str(tmp_path / 'verdicts.sqlite'))
  yield store
  store.close()


@pytest.fixture
def short_pauses(monkeypatch):
  monkeypatch.setattr(lane, '_FIRST_PAUSE_S', 0.005)
  monkeypatch.setattr(lane, '_LONGEST_PAUSE_S', 0.05)
  monkeypatch.setattr(dispatch, '_TICK_S', 0.2)


@pytest.fixture
def right_lists(servers):
  """Both servers answer every list rightly."""
  for server in servers:
    server.answer = right


@pytest.fixture
def no_leftovers(caplog):
  """Tasks that nobody waits for are told of in the log only."""
  before = set(threading.enumerate())
  yield
  assert not [r.message for r in caplog.records if r.name == 'asyncio']
  left = {t for t in threading.enumerate() if not t.daemon} - before
  assert not left
