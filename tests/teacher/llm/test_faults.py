"""Whatever comes back, each pair is answered once and rightly."""

import collections
import time

from asking_fakes import (
  DOCS,
  LABELS,
  FakeMeddler,
  after,
  assert_right,
  delivered,
  judge,
  make_pairs,
  plain_prompt,
  prompts_of,
  right_answers,
  small_teacher,
  stops,
  texts_of,
)
from fault_proxy import KINDS, FaultProxy
import numpy as np
import pytest

from lmtx_jax.teacher.llm import dispatch
from lmtx_jax.types import INVALID, UserError

pytestmark = pytest.mark.usefixtures('short_pauses', 'no_leftovers')
# A busy machine holds this process up for longer than half a second: an answer
# that comes too late is asked for once more.
TIMEOUT_S = 2.0


@pytest.mark.parametrize('kind', KINDS)
def test_each_kind_of_fault(store, proxy, kind):
  pairs = make_pairs(DOCS, LABELS)
  proxy.set_faults({kind: 0.3})
  verdicts, tally = judge(
    store, small_teacher(proxy, teacher_timeout_s=TIMEOUT_S), pairs
  )
  assert_right(verdicts, pairs)
  assert proxy.done[kind] > 0
  assert tally.asked == 63 and tally.usage['given_up'] == 0
  assert tally.usage['retries'] > 0
  assert delivered(proxy) == collections.Counter(prompts_of(pairs))


@pytest.mark.parametrize(
  ('flags', 'none', 'atol'),
  [
    ({}, (), 1e-6),
    # Completions have no names: nobody can tell that they were swapped, and
    # in which order they come does not matter.
    ({'teacher_api': 'openai'}, ('swapped_rids', 'swapped_items'), 0.04),
  ],
)
@pytest.mark.parametrize('seed', [2, 4])
def test_all_kinds_of_faults(servers, store, flags, none, atol, seed):
  faults = {kind: 0.2 / len(KINDS) for kind in KINDS if kind not in none}
  pairs = make_pairs(DOCS * 2, [f'label {i}' for i in range(40)])
  one, two = (FaultProxy(x.url, seed=seed + i) for i, x in enumerate(servers))
  with one, two:
    teacher = small_teacher(one, two, teacher_timeout_s=TIMEOUT_S, **flags)
    teacher.prepare()
    for proxy in (one, two):
      proxy.answered.clear()
      proxy.set_faults(faults)
    verdicts, tally = judge(store, teacher, pairs)
    assert_right(verdicts, pairs, atol)
    assert one.num_faults + two.num_faults > 5
    assert tally.usage['given_up'] == 0
    assert delivered(one, two) == collections.Counter(prompts_of(pairs))


def assert_all_but(verdicts, pairs, poison):
  is_bad = np.array([poison(plain_prompt(*t)) for t in texts_of(pairs)])
  right = right_answers(pairs)
  np.testing.assert_allclose(verdicts.p_yes[~is_bad], right[~is_bad], atol=1e-6)
  assert (verdicts.answer[is_bad] == INVALID).all() and is_bad.any()
  return is_bad


@pytest.mark.parametrize(
  'flags', [{}, {'teacher_batch_size': 1, 'teacher_in_flight': 1}]
)
@pytest.mark.parametrize(
  'poison',
  [
    lambda prompt: 'of 2 is' in prompt and 'tag 4 ' in prompt,
    lambda prompt: 'of 0 is' in prompt,  # the first document
    lambda prompt: 'tag 0 ' in prompt,  # every opener
    lambda prompt: 'of 2 is' in prompt or 'tag 5 ' in prompt,
  ],
)
def test_a_poison_prompt_is_left_out(store, proxy, poison, flags, monkeypatch):
  monkeypatch.setattr(dispatch, '_GIVE_UP_AFTER', 5)
  proxy.poison = poison
  pairs = make_pairs(DOCS[:3], LABELS[:6])
  verdicts, tally = judge(store, small_teacher(proxy, **flags), pairs)
  is_bad = assert_all_but(verdicts, pairs, poison)
  assert tally.usage['given_up'] == is_bad.sum()
  assert tally.asked == 18 - is_bad.sum()
  # With nothing else to ask, they are left out again.
  before = delivered(proxy)
  verdicts, _ = judge(store, small_teacher(proxy, **flags), pairs)
  assert_all_but(verdicts, pairs, poison)
  assert delivered(proxy) == before
  proxy.poison = None
  verdicts, _ = judge(store, small_teacher(proxy, **flags), pairs)
  assert_right(verdicts, pairs)
  assert prompts_of(pairs) <= set(delivered(proxy))


@pytest.mark.parametrize('num_before', [0, 20])
def test_a_server_that_fails_on_everything(store, proxy, num_before):
  pairs = make_pairs(DOCS, LABELS)

  def break_it():
    proxy.poison = lambda prompt: True

  if not num_before:
    break_it()
  teacher = small_teacher(proxy, teacher_patience=1.0)
  said = stops(
    store,
    FakeMeddler(teacher, after(num_before or 99, break_it)),
    pairs,
    '--teacher_patience',
  )
  assert proxy.url in said and '500' in said
  assert teacher.usage()['given_up'] == 0
  assert store.known(teacher, pairs).sum() == sum(delivered(proxy).values())
  proxy.poison = None
  verdicts, _ = judge(store, teacher, pairs)
  assert_right(verdicts, pairs)
  assert set(delivered(proxy).values()) == {1}


@pytest.mark.parametrize('max_queued', [1, 3, 10])
def test_a_server_with_a_short_queue(server, store, max_queued):
  server.max_queued, server.latency_s = max_queued, 0.002
  pairs = make_pairs(DOCS, LABELS)
  verdicts, tally = judge(store, small_teacher(server), pairs)
  assert_right(verdicts, pairs)
  assert tally.usage['given_up'] == 0
  assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'api_key': 'new'}, '--teacher_api_key_file'),
    ({'missing': ('/generate',)}, '--teacher_api'),
  ],
)
def test_a_setting_that_is_wrong_all_at_once(server, store, change, match):
  pairs = make_pairs(DOCS, LABELS)
  server.latency_s = 0.002
  teacher = small_teacher(server)
  meddler = FakeMeddler(teacher, after(20, lambda: vars(server).update(change)))
  said = stops(store, meddler, pairs, match)
  assert server.url in said
  # What came at the same time is stored.
  assert store.known(teacher, pairs).sum() == server.answered.total() < 63


def test_what_came_beside_an_error_is_kept(server, proxy, store):
  """Answers and an error that are found in the same moment."""
  pairs = make_pairs(DOCS, LABELS)
  teacher = small_teacher(proxy, teacher_batch_size=1, teacher_timeout_s=5.0)

  def spoil():
    server.api_key = 'new'
    # What is in flight comes back while nobody looks.
    time.sleep(0.2)

  server.latency_s = 0.02
  stops(
    store, FakeMeddler(teacher, after(20, spoil)), pairs, 'teacher_api_key_file'
  )
  assert store.known(teacher, pairs).sum() == delivered(proxy).total()


def test_documents_that_cannot_be_read(server, store):
  pairs = make_pairs([f'document {i}' for i in range(200)], LABELS)
  read = pairs.documents.get

  def get(rows):
    if max(rows) > 100:
      raise UserError('the disk is gone')
    return read(rows)

  pairs.documents.get = get
  teacher = small_teacher(server)
  stops(store, teacher, pairs, 'the disk is gone')
