"""Lists of labels, put to an LLM behind a verdict store."""

import collections
import json
import re

from asking_fakes import (
  DOCS,
  LABELS,
  judge,
  make_pairs,
  plain_prompt,
  texts_of,
)
from fake_model import right_p_yes
from fake_server import FakeSglangServer
from fake_tokenizer import write_tokenizer
from list_fakes import (
  PAIRS,
  SIZE,
  asked,
  assert_verdicts,
  expected,
  labels_of,
  lines_of,
  list_prompt,
  list_teacher,
  right,
  spoil_third,
)
import numpy as np
import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.llm import lists
from lmtx_jax.types import UserError

pytestmark = pytest.mark.usefixtures(
  'short_pauses', 'no_leftovers', 'right_lists'
)


@pytest.mark.parametrize('batch_size', [1, 3, 32])
def test_a_document_is_asked_about_in_lists(server, store, batch_size):
  teacher = list_teacher(server, teacher_batch_size=batch_size)
  verdicts, tally = judge(store, teacher, PAIRS)
  assert_verdicts(verdicts, expected())
  in_lists, alone = asked(server)
  assert in_lists == collections.Counter(
    list_prompt(doc, LABELS[i : i + SIZE]) for doc in DOCS for i in (0, 4)
  )
  assert alone == collections.Counter(plain_prompt(d, LABELS[8]) for d in DOCS)
  assert (tally.asked, tally.invalid) == (63, 0)
  assert tally.usage['listed'] == 56 and tally.usage['asked_again'] == 0
  assert tally.usage['written_tokens'] > 0 == tally.usage['retries']


def test_the_second_time_nothing_is_asked(server, store):
  first, _ = judge(store, list_teacher(server), PAIRS)
  server.received.clear()
  again, tally = judge(store, list_teacher(server), PAIRS, 'run/1')
  np.testing.assert_array_equal(first.p_yes, again.p_yes)
  assert not server.received and tally.asked == 0
  # A cycle later some labels are new: they alone are asked.
  more = make_pairs(DOCS, [*LABELS, 'new', 'newer'])
  judge(store, list_teacher(server), more, 'run/2')
  assert server.received == collections.Counter(
    list_prompt(doc, ('new', 'newer')) for doc in DOCS
  )


SPOILERS = {
  'missing': (lambda x, p: (x[:2] + x[3:], p[:2] + p[3:]), {2}),
  'repeated': (
    lambda x, p: ([*x[:3], x[2], x[3]], [*p[:3], p[2], p[3]]),
    {2},
  ),
  'out of order': (
    lambda x, p: ([x[i] for i in (0, 2, 1, 3)], [p[i] for i in (0, 2, 1, 3)]),
    {1, 2},
  ),
  'wrong number': (lambda x, p: (['0' + x[0][1:], *x[1:]], p), {0}),
  'number too high': (lambda x, p: ([*x[:3], '7' + x[3][1:]], p), {3}),
  'text in a line': (
    lambda x, p: ([x[0], x[1] + ', as it seems', *x[2:]], p),
    {1},
  ),
  'neither': (
    lambda x, p: ([*x[:3], '4. perhaps'], p[:3]),
    {3},
  ),
  'text around': (
    lambda x, p: (['Gladly.', '', *x, '', 'That is all.'], p),
    set(),
  ),
  'twice': (lambda x, p: (x * 2, p * 2), {0, 1, 2, 3}),
  'nothing': (lambda x, p: (['Who can say.'], []), {0, 1, 2, 3}),
  'word against probability': (
    lambda x, p: (x, [p[0], 1 - p[1], *p[2:]]),
    {1},
  ),
  'a second word': (
    lambda x, p: ([x[0] + '\nyes', *x[1:]], [p[0], 0.9, *p[1:]]),
    set(),
  ),
}  # fmt: skip


@pytest.mark.parametrize('api', ['sglang', 'openai'])
@pytest.mark.parametrize('case', SPOILERS)
def test_what_is_uncertain_is_asked_again_alone(server, store, case, api):
  change, uncertain = SPOILERS[case]
  server.answer = lambda prompt: right(prompt, spoil_third(change))

  def again(doc, label):
    return DOCS.index(doc) % 2 == 0 and LABELS.index(label) in uncertain

  teacher = list_teacher(server, teacher_api=api)
  verdicts, tally = judge(store, teacher, PAIRS)
  assert_verdicts(verdicts, expected(again), 1e-6 if api == 'sglang' else 0.05)
  _, alone = asked(server)
  assert alone == collections.Counter(
    plain_prompt(doc, label)
    for doc, label in texts_of(PAIRS)
    if label == LABELS[8] or again(doc, label)
  )
  assert tally.usage['asked_again'] == 4 * len(uncertain)
  assert (tally.asked, tally.invalid) == (63, 0)


@pytest.mark.parametrize('api', ['sglang', 'openai'])
def test_text(server, store, api):
  server.answer = lambda prompt: (
    str(right(prompt))
    if labels_of(prompt)
    else ('Yes' if right_p_yes(prompt) > 0.5 else 'No')
  )
  teacher = list_teacher(server, verdict='text', teacher_api=api)
  verdicts, _ = judge(store, teacher, PAIRS)
  assert_verdicts(verdicts, (expected() > 0.5).astype(float))


def test_no_single_token_for_an_answer(tmp_path, store):
  folder = write_tokenizer(tmp_path / 't', spellings=(' yes', 'Yes'))
  with FakeSglangServer(folder, answer=right) as server:
    verdicts, tally = judge(store, list_teacher(server), PAIRS)
    assert_verdicts(verdicts, (expected() > 0.5).astype(float))
    assert tally.usage['asked_again'] == 0 and not server.crimes


def test_verdicts_of_lists_are_another_teachers(server, store):
  by_list, longer, by_pair = (
    list_teacher(server, **flags)
    for flags in ({}, {'list_size': 5}, {'question': 'pair'})
  )
  identity = json.loads(by_list.identity)
  assert (
    identity['question'] == 'list of 4'
    and '{labels}' in (identity['list_prompt'])
  )
  assert len({x.identity for x in (by_list, longer, by_pair)}) == 3
  assert by_list.one_by_one.identity == by_pair.identity
  assert 'list' not in by_pair.identity
  judge(store, by_list, PAIRS)
  assert not store.known(by_pair, PAIRS).any()
  assert not store.known(longer, PAIRS).any()
  # Asked about alone, it is the teacher that everybody else asks alone.
  judge(store, by_list.one_by_one, PAIRS)
  assert store.known(by_pair, PAIRS).all()


def test_own_template(server, store):
  flags = {
    'prompt_template': '{label}, {doc}?',
    'list_template': '{doc}:\\n{labels}\\nWhich?',
  }
  server.answer = lambda prompt: 0.7
  judge(store, list_teacher(server, **flags), PAIRS)
  assert f'{DOCS[1]}:\n1. tag 4\n2. tag 5\n3. tag 6\n4. tag 7\nWhich?' in (
    server.answered
  )
  assert f'tag 8, {DOCS[0]}?' in server.answered


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    ({'list_template': '{labels}'}, '{doc}'),
    ({'list_template': '{doc} {label}'}, '{labels}'),
    ({'question': 'list', 'list_template': '{doc} {labels}'}, '--prompt_tem'),
    ({'question': 'list', 'prompt_template': '{doc} {label}'}, '--list_tem'),
  ],
)
def test_what_cannot_be_meant(flags, named):
  with pytest.raises(UserError, match=re.escape(named)) as info:
    LlmConfig(**flags)
  assert '\n' not in str(info.value)


def test_every_question_has_a_form_for_lists():
  assert prompts.LIST_TEMPLATES.keys() == prompts.TEMPLATES.keys()
  for template in prompts.LIST_TEMPLATES.values():
    asked = prompts.render_list(template, 'THE DOC', ['A', 'B'])
    assert 'THE DOC' in asked and '\n1. A\n2. B\n' in asked


def test_a_label_stays_on_its_line(server, store):
  labels = ['a\n2. b', ' c\r\n\td ', '{doc} {labels}', 'e']
  pairs = make_pairs(['the {labels} document'], labels)
  judge(store, list_teacher(server), pairs)
  (prompt,) = server.answered
  assert '\n1. a 2. b\n2. c d\n3. {doc} {labels}\n4. e\n' in prompt


def test_a_server_that_binds_no_answers(server):
  server.grammar_backend = 'none'
  with pytest.raises(UserError, match='--grammar-backend') as info:
    list_teacher(server).prepare()
  assert '\n' not in str(info.value)
  list_teacher(server, question='pair').prepare()


def test_an_llm_that_makes_no_lists_is_told_of(server, caplog):
  server.answer = lambda prompt: 'I see.' if labels_of(prompt) else 0.7
  pairs = make_pairs([f'document {i}' for i in range(260)], LABELS[:4])
  list(list_teacher(server).judge(pairs))
  told = [r.message for r in caplog.records if '--question=pair' in r.message]
  assert len(told) == 1 and '1040 of 1040' in told[0]


def test_parts_hold_whole_documents(monkeypatch, server, store):
  monkeypatch.setattr(lists, '_PART_PAIRS', 10)
  verdicts, tally = judge(store, list_teacher(server), PAIRS)
  assert_verdicts(verdicts, expected())
  assert tally.usage['listed'] == 56


def test_lists_never_hold_two_documents(server, store):
  rows = [(0, 1), (0, 2), (1, 1), (0, 3), (2, 5), (2, 4), (2, 3), (2, 2)]
  pairs = make_pairs(DOCS, LABELS, rows)
  judge(store, list_teacher(server), pairs)
  in_lists, alone = asked(server)
  assert in_lists == collections.Counter(
    [
      list_prompt(DOCS[0], ('tag 1', 'tag 2')),
      list_prompt(DOCS[2], ('tag 5', 'tag 4', 'tag 3', 'tag 2')),
    ]
  )
  assert len(alone) == 2


def test_the_answer_wanted():
  assert lines_of([0.2, 0.7]) == ['1. no', '2. yes']
