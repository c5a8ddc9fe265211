"""ICXML against the real server, whose model writes noise."""

import contextlib
import json
import random
import sqlite3
import threading

from asking_fakes import make_pairs
from icxml_fakes import DOCS as FEW_DOCS
from icxml_fakes import LABELS, tag, write_data
from live_fixtures import SglangServer, requires_sglang
import numpy as np
import pytest
from run_fixtures import TINY, succeed

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher.llm.answer_store import AnswerStore
from lmtx_jax.teacher.llm.generate import Generator
from lmtx_jax.teacher.llm.teacher import LlmTeacher

pytestmark = requires_sglang
WORDS = ['the', 'law', 'of', 'cats', 'owls', 'red', 'blue', 'about', '2', ':']
ANSWER_TOKENS = 24


def made_docs(num_docs):
  rng = random.Random(0)
  docs = [
    (' '.join(rng.choices(WORDS, k=3)), ' '.join(rng.choices(WORDS, k=n)))
    for n in rng.choices(range(5, 900), k=num_docs - 1)
  ]
  return [*docs, ('', '')]


DOCS = made_docs(6)


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  with SglangServer(tmp_path_factory.mktemp('live_icxml')) as server:
    yield server


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'answers.sqlite')


def run(path, server, docs=DOCS, api='sglang', **flags):
  config = LlmConfig(
    teacher_url=server.url, teacher_api=api, teacher_doc_tokens=200
  )
  generator = Generator(config, ANSWER_TOKENS)
  with contextlib.closing(AnswerStore(path)) as store:
    filters = [[i % len(LABELS)] for i in range(len(docs))]
    names, report = tag(store, generator, docs, filters=filters, **flags)
  for i, row in enumerate(names):
    assert row and len(row) == len(set(row))
    assert LABELS[filters[i][0]] not in row
  return names, report, generator.usage()


@pytest.mark.parametrize(
  ('api', 'kind'), [('sglang', 'content'), ('openai', 'label')]
)
def test_from_end_to_end(server, path, api, kind):
  flags = {'icxml_demonstrations': kind, 'api': api}
  names, report, usage = run(path, server, **flags)
  assert report['documents'] == len(DOCS) and report['unanswered'] == 0
  assert report['asked'] >= 2 * (len(DOCS) - 1)
  assert report['prompt_tokens'] == usage['prompt_tokens']
  assert 0 < report['generated_tokens'] <= ANSWER_TOKENS * report['asked']
  assert report['seconds_per_document'] > 0
  again, report, usage = run(path, server, asked_by='again', **flags)
  assert again == names
  assert report['asked'] == usage['prompt_tokens'] == 0


def test_tokens_are_those_of_the_server(server, path):
  _, report, _ = run(path, server, DOCS[:4])
  with sqlite3.connect(path) as db:
    rows = db.execute('SELECT text, is_cut, new_tokens FROM answers').fetchall()
  assert len(rows) == report['asked']
  for text, is_cut, new_tokens in rows:
    assert new_tokens == ANSWER_TOKENS if is_cut else text is not None


def test_beside_a_teacher_of_the_same_server(server, path):
  """Plain generation at the same time as log-probabilities would end it."""
  pairs = make_pairs([x for _, x in DOCS], LABELS)
  config = LlmConfig(teacher_url=server.url, teacher_batch_size=8)
  p_yes = []

  def judge():
    for _, verdicts in LlmTeacher(config, 'tag').judge(pairs):
      p_yes.extend(verdicts.p_yes)

  judging = threading.Thread(target=judge)
  judging.start()
  _, report, usage = run(path, server)
  judging.join()
  assert len(p_yes) == len(pairs) and report['unanswered'] == 0
  assert usage['retries'] == 0 and server.is_healthy()


def count_answers(path):
  try:
    with contextlib.closing(
      sqlite3.connect(f'file:{path}?mode=ro', uri=True)
    ) as db:
      return db.execute('SELECT count(*) FROM answers').fetchone()[0]
  except sqlite3.OperationalError:  # it is being made
    return 0


def test_killed_and_started_again(server, path):
  """What was answered before is not asked again."""
  run_is_over = threading.Event()

  def kill_and_start():
    while not count_answers(path):  # the first are stored, others under way
      if run_is_over.wait(0.005):
        return
    server.kill()
    # No /health: its plain generation would meet ours in one batch, of which
    # sglang 0.5.20 dies.
    server.launch()
    while not run_is_over.wait(1.0):
      if not server.is_running:  # it ended while it started
        server.stop()
        server.launch()

  killing = threading.Thread(target=kill_and_start)
  killing.start()
  try:
    _, report, usage = run(path, server, made_docs(48))
  finally:
    run_is_over.set()
    killing.join()
  assert report['unanswered'] == 0 and usage['given_up'] == 0
  with sqlite3.connect(path) as db:
    counts = db.execute('SELECT num_asked FROM answers').fetchall()
  assert counts == [(1,)] * report['asked']
  assert usage['retries'] > 0


def test_a_whole_run(server, cache, path, tmp_path):
  """As a user starts it; a second one on its answers asks nothing."""
  flags = (
    *(f'--data_dir={write_data(tmp_path / "data")}', f'--data_cache={cache}'),
    *(*TINY, '--method=icxml', '--teacher=sglang', '--icxml_domain=document'),
    *(f'--teacher_url={server.url}', f'--icxml_answer_tokens={ANSWER_TOKENS}'),
    f'--answer_store={path}',
  )
  found = []
  for name in ('first', 'second'):
    folder = tmp_path / name
    succeed('main', *flags, f'--run_dir={folder}')
    summary = json.loads((folder / 'summary.json').read_text())
    with np.load(folder / 'icxml' / 'labels.npz') as arrays:
      labels = arrays['labels']
    assert labels.shape == (len(FEW_DOCS), 100) and labels.max() < len(LABELS)
    assert (labels[:, 0] >= 0).all()
    assert 0 <= summary['test']['P@1'] <= 100
    found.append((labels.tolist(), summary['test'], summary['cost']))
  first, second = (cost for *_, cost in found)
  assert found[0][:2] == found[1][:2]
  assert first['asked'] == count_answers(path) >= 2 * (len(FEW_DOCS) - 1)
  assert first['unanswered'] == second['asked'] == 0
  assert second['reused'] == second['questions'] == first['questions']
