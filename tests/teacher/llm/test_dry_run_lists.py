"""`--dry_run --question=list` tells what lists cost and how they differ."""

import re
import sqlite3

from fake_model import Said
from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from list_fakes import labels_of
import numpy as np
import pytest
from run_fixtures import succeed

from lmtx_jax.dry_run import cohens_kappa

_PAIR = re.compile(r'document = (.*)\. Is the tag (.*) relevant to', re.DOTALL)


def is_named(doc, label):
  return bool(set(label.split()) & set(re.findall(r'\w+', doc)))


@pytest.fixture
def llm(tmp_path):
  """Yes where a label is named; a list is wrong about its first label."""

  def answer(prompt):
    asked = labels_of(prompt)
    if asked is None:
      return 0.9 if is_named(*_PAIR.search(prompt).groups()) else 0.2
    doc, labels = asked
    yes = [is_named(doc, label) for label in labels]
    yes[0] = not yes[0]
    lines = [f'{i}. {"yes" if y else "no"}' for i, y in enumerate(yes, 1)]
    if len(labels) > 6:
      lines[5] = 'Perhaps.'  # the sixth is asked again
    p_yes = [0.9 if y else 0.2 for y in yes]
    p_yes = p_yes if len(labels) < 7 else p_yes[:5] + p_yes[6:]
    return Said('\n'.join(lines), p_yes)

  folder = write_tokenizer(tmp_path / 'tokenizer')
  with FakeSglangServer(folder, answer=answer) as server:
    yield server
    assert not server.crimes


def test_cost_and_agreement(tiny, llm, tmp_path):
  run = tmp_path / 'run'
  flags = (*tiny, '--teacher=sglang', f'--teacher_url={llm.url}')
  flags += ('--question=list', f'--run_dir={run}', '--shortlist_size=10')
  flags += ('--num_cycles=1', '--epochs=1')
  out = succeed('main', *flags, '--dry_run').out
  assert 'question: list of 10' in out and '{labels}' in out
  # Whole documents: one that is not timed, and seven that are.
  assert '70 pairs' in out
  listed, again = re.search(
    r'(\d+) of these pairs were asked about in lists, (\d+) of them again', out
  ).groups()
  assert (listed, again) == ('70', '7')
  equal, compared, kappa = re.search(
    r'(\d+)% of (\d+) verdicts .* kappa (-?[\d.]+)', out
  ).groups()
  assert (equal, compared) == ('89', '63')  # 8 of 9 of each list
  assert 0.3 < float(kappa) < 0.9
  by_list, alone = map(
    int, re.search(r'(\d+) in lists, (\d+) alone; stored', out).groups()
  )
  assert by_list < alone
  asked_again = [p for p in llm.answered if labels_of(p) is None]
  assert len(asked_again) == 8 + 63 and max(llm.answered.values()) == 1
  # No list was cut short by the sample, and all answers are kept.
  lists = {p for p in llm.answered if labels_of(p)}
  assert {len(labels_of(p)[1]) for p in lists} == {10}
  first = set(llm.received)
  llm.received.clear()
  assert 'first cycle' in succeed('main', *flags, '--dry_run').out
  assert any(map(labels_of, llm.received)) and not first & set(llm.received)
  with sqlite3.connect(run / 'verdicts.sqlite') as db:
    assert db.execute('SELECT MAX(num_asked) FROM verdicts').fetchone() == (1,)
    assert db.execute('SELECT COUNT(*) FROM teachers').fetchone() == (2,)


@pytest.mark.parametrize(
  ('one', 'other', 'kappa'),
  [
    ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
    ([1, 1, 0, 0], [0, 0, 1, 1], -1.0),
    ([1, 1, 0, 0], [1, 0, 1, 0], 0.0),
    # Cohen (1960): of 50, both yes 20, both no 15, 5 and 10 apart.
    ([1] * 25 + [0] * 25, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15, 0.4),
    ([1, 1], [1, 1], np.nan),
    ([], [], np.nan),
  ],
)
def test_kappa(one, other, kappa):
  found = cohens_kappa(np.array(one, bool), np.array(other, bool))
  assert found == pytest.approx(kappa, nan_ok=True)


def test_an_llm_that_makes_no_lists(tiny, llm, tmp_path):
  llm.answer = lambda prompt: 'I see.' if labels_of(prompt) else 0.7
  out = succeed(
    'main',
    *(*tiny, '--teacher=sglang', f'--teacher_url={llm.url}', '--dry_run'),
    *('--question=list', f'--run_dir={tmp_path}/run'),
  ).out
  assert '70 of these pairs were asked about in lists, 70 of them again' in out
  assert 'nan' not in out and 'kappa' not in out
