"""`python -m lmtx_jax.main --method=icxml`, with a fake server."""

import json

from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from icxml_fakes import DOCS, LABELS, FakeLlm, wanted
import numpy as np
import pytest
from run_fixtures import TINY, call, succeed, write_corpus


@pytest.fixture(scope='module')
def llm(tmp_path_factory):
  folder = write_tokenizer(tmp_path_factory.mktemp('tokenizer'))
  with FakeSglangServer(folder, answer=FakeLlm()) as server:
    server.context_length = 8192
    yield server
    assert not server.crimes


@pytest.fixture(scope='module')
def flags(tmp_path_factory, cache, llm):
  def row(uid, title, content):
    targets = [LABELS.index(label) for label in wanted(content)]
    doc = {'uid': uid, 'title': title, 'content': content}
    return doc | {'target_ind': targets}

  test = [row(f'd{i}', *doc) for i, doc in enumerate(DOCS)]
  train = [row(f't{i}', f'{label}', f'A {label}.') for i, label in
           enumerate(LABELS)]  # fmt: skip
  labels = [{'uid': x, 'title': x, 'content': ''} for x in LABELS]
  folder = write_corpus(
    tmp_path_factory.mktemp('data') / 'made',
    {'trn': train, 'tst': test, 'lbl': labels},
  )
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


def test_no_server(flags, tmp_path):
  result = call(
    *('main', *flags, '--teacher_url=http://127.0.0.1:9'),
    *('--teacher_patience=1', f'--run_dir={tmp_path / "run"}'),
  )
  assert result.code == 1
  assert '127.0.0.1:9' in result.error
