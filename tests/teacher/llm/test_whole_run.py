"""`python -m lmtx_jax.main --teacher=sglang`, with a fake server."""

import json
import re
import shutil
import sqlite3

from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
import pytest
from run_fixtures import call, read_jsonl, succeed


def is_named(prompt):
  """Yes where a word of the label stands in the document."""
  pattern = r'document = (.*)\. Is the tag (.*) relevant to'
  doc, label = re.search(pattern, prompt, re.DOTALL).groups()
  return 0.9 if set(label.split()) & set(re.findall(r'\w+', doc)) else 0.2


@pytest.fixture(scope='module')
def llm(tmp_path_factory):
  folder = write_tokenizer(tmp_path_factory.mktemp('tokenizer'))
  with FakeSglangServer(folder, answer=is_named) as server:
    yield server
    assert not server.crimes


@pytest.fixture(scope='module')
def flags(tiny, llm):
  return (*tiny, '--teacher=sglang', f'--teacher_url={llm.url}')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, flags):
  run = tmp_path_factory.mktemp('runs') / 'llm'
  return run, succeed('main', *flags, f'--run_dir={run}')


def test_it_learns_and_tells_what_it_cost(finished, llm):
  run, result = finished
  summary = json.loads((run / 'summary.json').read_text())
  best = summary['cycles'][summary['best_cycle']]
  assert best['test']['P@1'] > summary['initial']['P@1'] + 10
  first = summary['cycles'][0]
  for part in (first, first['dev']):
    assert part['prompt_tokens'] > part['asked'] * 10
    assert part['pairs_per_s'] > 0 and part['tokens_per_s'] > 0
    assert part['retries'] == part['given_up'] == 0
  assert first['cache_hit_share'] > 0.3
  assert 'reused=' in result.err and 'cached=' in result.err
  (row,) = (
    row
    for row in read_jsonl(run / 'metrics.jsonl')
    if row['cycle'] == 0 and 'teach/asked' in row
  )
  for name in ('pairs_per_s', 'tokens_per_s', 'cache_hit_share', 'yes_rate'):
    assert row[f'teach/{name}'] == first[name]
  assert max(llm.answered.values()) == 1


def test_a_second_run_on_its_store_asks_nothing(finished, flags, llm, tmp_path):
  run, _ = finished
  before = llm.answered.total()
  store = tmp_path / 'store.sqlite'
  with sqlite3.connect(run / 'verdicts.sqlite') as db:
    db.execute('VACUUM INTO ?', (str(store),))
  again = tmp_path / 'again'
  succeed('main', *flags, f'--run_dir={again}', f'--verdict_store={store}')
  assert llm.answered.total() == before
  first, second = (
    json.loads((x / 'summary.json').read_text())['cycles'] for x in (run, again)
  )
  for a, b in zip(first, second, strict=True):
    assert b['asked'] == b['dev']['asked'] == 0
    assert b['pairs'] == b['reused'] and a['test'] == b['test']
    assert 'prompt_tokens' not in b


def test_a_finished_run_needs_no_server(finished, flags):
  run, _ = finished
  succeed(
    'main', *flags, '--teacher_url=http://127.0.0.1:9', f'--run_dir={run}'
  )


def test_dry_run(flags, llm, tmp_path):
  run = tmp_path / 'run'
  before = llm.answered.total()
  dry = ('--dry_run', '--teacher_usd_per_mtok=2000')
  out = succeed('main', *flags, *dry, f'--run_dir={run}').out
  assert llm.answered.total() - before == 8 + 64
  assert llm.model_path in out and '64 pairs' in out
  first = re.search(r'first cycle +(\S+) +72 +(\S+) +(\S+) M +\S+ +(\S+)', out)
  pairs, to_ask, tokens, dollars = (
    float(x.replace(',', '')) for x in first.groups()
  )
  assert pairs - 72 == to_ask > 400
  assert dollars == pytest.approx(tokens * 2000, rel=0.2)
  assert not list(run.glob('cycle_00/pseudo_labels*'))
  # A second one knows the answers of the first, and the run uses all.
  again = succeed('main', *flags, *dry, f'--run_dir={run}').out
  assert re.search(
    rf'first cycle +{int(pairs)} +144 +{int(pairs) - 144} ', again
  )
  succeed('main', *flags, f'--run_dir={run}')
  assert (
    max(
      count
      for (count,) in sqlite3.connect(run / 'verdicts.sqlite').execute(
        'SELECT num_asked FROM verdicts'
      )
    )
    == 1
  )


def test_dry_run_without_an_llm(tiny, tmp_path):
  out = succeed(
    'main', *tiny, '--teacher=oracle', '--dry_run', f'--run_dir={tmp_path}/run'
  ).out
  assert 'oracle' in out and 'first cycle' in out


def test_another_model_cannot_go_on_with_a_run(finished, flags, llm, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(finished[0], run)
  (run / 'summary.json').unlink()
  (run / 'cycle_01' / 'dev_score.json').unlink(missing_ok=True)
  (run / 'cycle_00' / 'dev_score.json').unlink()
  model = llm.model_path
  try:
    llm.model_path = 'other-model'
    before = llm.answered.total()
    error = call('main', *flags, f'--run_dir={run}').error
    assert 'teacher' in error and 'another' in error
    assert llm.answered.total() == before
  finally:
    llm.model_path = model


def test_a_missing_chat_template_is_told_before_any_work(flags, tmp_path):
  folder = write_tokenizer(tmp_path / 'tokenizer', chat_template=None)
  run = tmp_path / 'run'
  more = (f'--teacher_tokenizer={folder}', f'--run_dir={run}')
  assert '--chat_format' in call('main', *flags, *more).error
  assert not list(run.glob('cycle_*'))


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (['--teacher_url='], '--teacher_url'),
    (['--teacher_url=http://127.0.0.1:9'], 'http://127.0.0.1:9'),
    (['--teacher_url=127.0.0.1:30000'], '127.0.0.1:30000'),
    (['--teacher_tokenizer=/none/such'], '--teacher_tokenizer'),
    (['--prompt_template=Is {doc} good?'], '{label}'),
    (['--teacher_api=openai', '--teacher_url=http://127.0.0.1:9'], ':9'),
    (['--teacher_api_key_file=/none/such'], '--teacher_api_key_file'),
    (
      ['--teacher_launch=model --device cpu', '--teacher_launcher=/none/such'],
      '/none/such',
    ),
    (['--teacher_launch=--tp 2'], '--teacher_launch'),
    (['--yes_threshold=2'], '--yes_threshold=2'),
  ],
)
def test_what_cannot_work_is_told_before_any_work(
  flags, tmp_path, more, message
):
  run = tmp_path / 'run'
  result = call('main', *flags, *more, f'--run_dir={run}')
  assert result.code in (1, 2)
  assert message in result.error
  assert not list(run.glob('cycle_*'))
