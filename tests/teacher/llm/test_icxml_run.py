"""`python -m lmtx_jax.main --method=icxml`, with a fake server."""

import contextlib
import json
import sqlite3

from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from icxml_fakes import DOCS, FakeLlm, write_data
import numpy as np
from processes import wait_until
import pytest
from run_fixtures import TINY, call, spawn, succeed

from lmtx_jax.teacher.verdict_store import VerdictStore


@pytest.fixture(scope='module')
def llm(tmp_path_factory):
  folder = write_tokenizer(tmp_path_factory.mktemp('tokenizer'))
  with FakeSglangServer(folder, answer=FakeLlm()) as server:
    server.context_length = 8192
    yield server
    assert not server.crimes


@pytest.fixture(scope='module')
def flags(tmp_path_factory, cache, llm):
  folder = write_data(tmp_path_factory.mktemp('data') / 'made')
  return (
    *(f'--data_dir={folder}', f'--data_cache={cache}', *TINY),
    *('--teacher=sglang', f'--teacher_url={llm.url}', '--method=icxml'),
    *('--icxml_domain=document', '--chat_format=vicuna'),
  )


def test_whole_run_resumed_and_shared_out(flags, llm, tmp_path):
  run = tmp_path / 'run'
  out = succeed('main', *flags, f'--run_dir={run}').out
  assert 'icxml' in out and 'bundle' in out
  summary = json.loads((run / 'summary.json').read_text())
  assert summary['test']['P@1'] == 100.0 > summary['initial']['P@1']
  assert summary['method'] == 'icxml' and summary['cycles'] == []
  cost = summary['cost']
  assert cost['asked'] == llm.answered.total() == cost['questions']
  assert cost['tokens_per_document'] > 10 and cost['documents'] == len(DOCS)
  per_doc = np.load(run / summary['test_documents'])
  assert per_doc['P@1'].mean() == summary['test']['P@1']
  # What is lost is made again from the answers, and none is asked for twice.
  before = llm.answered.total()
  (run / 'summary.json').unlink()
  (run / 'icxml' / 'labels.npz').unlink()
  succeed('main', *flags, f'--run_dir={run}')
  again = json.loads((run / 'summary.json').read_text())
  assert again['test'] == summary['test']
  assert llm.answered.total() == before


def rows_of(store):
  """How often each stored answer came; none while there is no store."""
  with contextlib.suppress(sqlite3.OperationalError):
    uri = f'file:{store}?mode=ro'
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
      return [n for (n,) in db.execute('SELECT num_asked FROM answers')]
  return []


def outcome(run):
  """What a run came to, whoever was asked how often."""
  summary = json.loads((run / 'summary.json').read_text())
  with np.load(run / 'icxml' / 'labels.npz') as arrays:
    labels = arrays['labels'].tolist()
  return labels, summary['test'], summary['cost']


def test_killed_and_resumed_then_shared(flags, llm, tmp_path):
  run, killed, again = (tmp_path / name for name in ('run', 'killed', 'again'))
  succeed('main', *flags, f'--run_dir={run}')
  labels, test, cost = outcome(run)
  store = tmp_path / 'answers.sqlite'
  flags = (*flags, f'--answer_store={store}')
  slowly = ('--teacher_batch_size=1', '--teacher_in_flight=1')
  llm.latency_s = 0.3
  process = spawn('main', *flags, *slowly, f'--run_dir={killed}')
  try:
    assert wait_until(lambda: len(rows_of(store)) >= 4, 240)
  finally:
    process.kill()
    process.communicate()
    llm.latency_s = 0.0
  stored = rows_of(store)
  assert 4 <= len(stored) < cost['asked']  # amid answers
  assert not (killed / 'icxml' / 'labels.npz').exists()
  llm.received.clear()
  succeed('main', *flags, f'--run_dir={killed}')
  assert outcome(killed)[:2] == (labels, test)
  asked = outcome(killed)[2]['asked']
  assert asked == cost['asked']  # of all its attempts
  assert llm.received.total() == asked - len(stored)
  assert rows_of(store) == [1] * asked
  # Another run on this store asks nothing, and keeps none of its own.
  llm.received.clear()
  succeed('main', *flags, f'--run_dir={again}')
  assert not llm.received
  assert outcome(again)[:2] == (labels, test)
  cost = outcome(again)[2]
  assert (cost['asked'], cost['reused']) == (0, cost['questions'])
  assert not (again / 'answers.sqlite').exists()


def test_a_file_that_is_no_answer_store(flags, tmp_path):
  path = tmp_path / 'verdicts.sqlite'
  VerdictStore(str(path)).close()
  run = f'--run_dir={tmp_path / "run"}'
  result = call('main', *flags, f'--answer_store={path}', run)
  assert result.code == 1
  assert str(path) in result.error and '--answer_store' in result.error


def test_no_server(flags, tmp_path):
  result = call(
    *('main', *flags, '--teacher_url=http://127.0.0.1:9'),
    *('--teacher_patience=1', f'--run_dir={tmp_path / "run"}'),
  )
  assert result.code == 1
  assert '127.0.0.1:9' in result.error
