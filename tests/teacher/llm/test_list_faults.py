"""Lists of labels, when servers, answers or the run itself fail."""

import sqlite3

from asking_fakes import (
  DOCS,
  LABELS,
  FakeMeddler,
  after,
  judge,
  make_pairs,
  plain_prompt,
)
from fake_server import FakeSglangServer
from fault_proxy import KINDS
from list_fakes import (
  PAIRS,
  asked,
  assert_verdicts,
  expected,
  list_prompt,
  list_teacher,
  right,
  spoil_third,
)
import numpy as np
import pytest

from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import INVALID, UserError

pytestmark = pytest.mark.usefixtures(
  'short_pauses', 'no_leftovers', 'right_lists'
)


def swapped(lines, p_yes):
  """The second and the third line are."""
  order = (0, 2, 1, 3)
  return [lines[i] for i in order], [p_yes[i] for i in order]


def no_third(lines, p_yes):
  """The third line is missing."""
  return lines[:2] + lines[3:], p_yes[:2] + p_yes[3:]


def killed_after(num, teacher):
  def die():
    raise KeyboardInterrupt

  return FakeMeddler(teacher, after(num, die))


@pytest.mark.parametrize('num', [1, 9, 20, 33])
def test_a_run_that_was_killed_goes_on_with_the_same_lists(
  server, tmp_path, num
):
  server.answer = lambda prompt: right(prompt, spoil_third(swapped))
  found = {}
  for name in ('undisturbed', 'killed'):
    path = str(tmp_path / f'{name}.sqlite')
    server.answered.clear()
    store = VerdictStore(path)
    flags = {'teacher_batch_size': 2, 'teacher_in_flight': 2}
    if name == 'killed':
      with pytest.raises(KeyboardInterrupt):
        judge(store, killed_after(num, list_teacher(server, **flags)), PAIRS)
      assert 0 < store.known(list_teacher(server), PAIRS).sum() < 63
    verdicts, tally = judge(store, list_teacher(server, **flags), PAIRS)
    store.close()
    found[name] = verdicts.p_yes, set(server.answered)
    assert tally.asked == 63
  np.testing.assert_array_equal(found['killed'][0], found['undisturbed'][0])
  assert found['killed'][1] == found['undisturbed'][1]
  with sqlite3.connect(path) as db:
    assert db.execute('SELECT MAX(num_asked) FROM verdicts').fetchone() == (1,)


@pytest.mark.parametrize('kind', KINDS)
def test_each_kind_of_fault(store, proxy, kind):
  teacher = list_teacher(
    proxy, teacher_timeout_s=0.5, teacher_batch_size=4, teacher_in_flight=16
  )
  teacher.prepare()
  proxy.script.append(kind)
  proxy.set_faults({kind: 0.3})
  verdicts, tally = judge(store, teacher, PAIRS)
  assert_verdicts(verdicts, expected())
  assert proxy.done[kind] > 0
  assert tally.asked == 63 and tally.usage['given_up'] == 0


def test_two_servers_of_which_one_dies(servers, store):
  one, two = servers
  teacher = list_teacher(one, two, teacher_batch_size=1, teacher_in_flight=2)
  verdicts, tally = judge(
    store, FakeMeddler(teacher, after(8, one.stop)), PAIRS
  )
  assert_verdicts(verdicts, expected())
  assert tally.usage['given_up'] == 0


def test_too_long_lists_are_asked_alone(folder, store):
  labels = [f'tag {i}' for i in range(4)] + [
    f'tag {i} ' + 'the ' * 40 for i in range(4, 8)
  ]
  pairs = make_pairs(DOCS, labels)
  with FakeSglangServer(folder, context_length=200, answer=right) as server:
    _, tally = judge(store, list_teacher(server), pairs)
    in_lists, alone = asked(server)
    assert set(in_lists) == {list_prompt(doc, labels[:4]) for doc in DOCS}
    assert set(alone) == {plain_prompt(d, x) for d in DOCS for x in labels[4:]}
    assert tally.usage['asked_again'] == 28 and tally.invalid == 0


def test_all_lists_are_too_long(folder, store):
  labels = ['the ' * 40 + str(i) for i in range(4)]
  pairs = make_pairs([f'{i}' for i in range(40)], labels)
  with (
    FakeSglangServer(folder, context_length=150, answer=right) as server,
    pytest.raises(UserError, match='--list_size'),
  ):
    judge(store, list_teacher(server), pairs)


def test_a_list_that_breaks_the_server(server, store):
  poison = list_prompt(DOCS[2], LABELS[4:8])

  def answer(prompt):
    assert prompt != poison
    return right(prompt)

  server.answer = answer
  verdicts, _ = judge(store, list_teacher(server), PAIRS)
  assert_verdicts(
    verdicts, expected(lambda d, x: d == DOCS[2] and x in LABELS[4:8])
  )


def test_a_pair_without_any_answer_costs_its_list_nothing_else(server, store):
  poison = plain_prompt(DOCS[0], LABELS[2])

  def answer(prompt):
    assert prompt != poison
    return right(prompt, spoil_third(no_third))

  server.answer = answer
  verdicts, tally = judge(store, list_teacher(server), PAIRS)
  assert tally.invalid == 1 and verdicts.answer[2] == INVALID
  assert store.known(list_teacher(server), PAIRS).sum() == 62
