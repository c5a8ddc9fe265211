"""ICXML with an LLM whose right answers are known."""

from icxml_fakes import (
  ANIMALS,
  COLOURS,
  DOCS,
  EMPTY,
  LABELS,
  FakeLlm,
  doc_texts,
  label_of,
  listed_in,
  tag,
  wanted,
  words_in_common,
)
import numpy as np
import pytest
from writer_fakes import FakeCrash, FakeWriter

from lmtx_jax import processes
from lmtx_jax.baselines import icxml
from lmtx_jax.teacher.llm.answer_store import AnswerStore
from lmtx_jax.types import UserError

KINDS = pytest.mark.parametrize('kind', ['content', 'label'])
ASKED = [i for i in range(len(DOCS)) if i != EMPTY]


@pytest.fixture
def store(tmp_path):
  store = AnswerStore(str(tmp_path / 'answers.sqlite'))
  yield store
  store.close()


def picks_of(names):
  return [names[i][: len(wanted(DOCS[i][1]))] for i in range(len(DOCS))]


@KINDS
def test_the_labels_that_the_llm_picks_come_first(store, kind):
  writer = FakeWriter(FakeLlm())
  names, _ = tag(store, writer, icxml_demonstrations=kind)
  assert picks_of(names) == [wanted(content) for _, content in DOCS]
  for row in names:
    assert len(row) == len(set(row))


def test_the_rest_follows_in_the_order_of_the_list(store):
  writer = FakeWriter(FakeLlm())
  names, _ = tag(store, writer)
  prompts = writer.llm.prompts['picks']
  for i in ASKED:
    (prompt,) = [p for p in prompts if DOCS[i][1].strip() in p]
    rest = [label for label in listed_in(prompt) if label not in names[i][:3]]
    assert [label for label in names[i] if label in rest] == rest


def test_nearest_labels_are_merged_in_turns(store):
  docs = [('', 'One. wanted: red cat, blue dog.')]
  writer = FakeWriter(FakeLlm(picks='[1]'))
  (names,), _ = tag(store, writer, docs)
  retrieve = words_in_common()
  cats, dogs = (
    [LABELS[x] for x in row]
    for row in retrieve(['very red cat', 'very blue dog'], 10)
  )
  turns = [label for pair in zip(cats, dogs, strict=True) for label in pair]
  assert names == list(dict.fromkeys(turns))
  assert set(listed_in(writer.llm.prompts['picks'][0])) <= set(names)


def test_demonstrations_of_similar_titles(store):
  writer = FakeWriter(FakeLlm())
  tag(store, writer, icxml_num_demonstrations=2, icxml_demonstration_labels=3)
  (prompt,) = [p for p in writer.llm.prompts['labels'] if 'A tale' in p]
  shown = prompt.split('Text of a document')[0]
  cats = ''.join(f'- {colour} cat\n' for colour in COLOURS[:3])
  dogs = ''.join(f'- {colour} dog\n' for colour in COLOURS[:3])
  assert (
    f'Title: All about cats\n{cats}\nTitle: All about dogs\n{dogs}' in shown
  )
  assert shown.count('Title:') == 2
  (prompt,) = [p for p in writer.llm.prompts['titles'] if 'A tale' in p]
  assert 'Think of 2 other' in prompt


def test_no_demonstration_has_the_title_of_the_document_or_is_its_own_label(
  store,
):
  docs = [('On cats', 'A tale. wanted: red cat.')]
  llm = FakeLlm(titles='- on  Cats\n- Blue cat\n- Cats at sea\n- Cats at home')
  writer = FakeWriter(llm)
  tag(store, writer, docs, icxml_num_demonstrations=2)
  (prompt,) = llm.prompts['labels']
  assert 'on Cats' not in prompt and prompt.count('Title:') == 2
  _, blue, sea = prompt.partition('Text of')[0].split('Title: ')
  assert blue.startswith('Blue cat\n') and '- blue cat' not in blue
  assert blue.count('\n- ') == 10 and '- blue cat' in sea


def test_demonstrations_for_retrieved_labels(store):
  """Titles whose label is retrieved in turn go first."""
  docs = [('', 'A red cat. wanted: red cat.')]
  llm = FakeLlm(title=lambda p: 'Pink' if label_of(p) == 'red cat' else None)
  writer = FakeWriter(llm)
  tag(
    store,
    writer,
    docs,
    icxml_demonstrations='label',
    icxml_retrieved=6,
    icxml_num_demonstrations=5,
    icxml_demonstration_labels=2,
  )
  nearest = words_in_common()(['A red cat. wanted: red cat.'], 6)[0]
  assert {label_of(p) for p in llm.prompts['title']} == {
    LABELS[x] for x in nearest
  }
  (prompt,) = llm.prompts['labels']
  titles = [f'A song of the {LABELS[x]}' for x in nearest[1:]]
  shown = [x.split('\n')[0] for x in prompt.split('Title: ')[1:]]
  assert LABELS[nearest[0]] == 'red cat'  # whose title has no word of it
  assert shown == titles


def test_a_title_for_a_label_is_asked_once_for_all_documents(store):
  docs = [('', f'Number {i} of cats. wanted: red cat.') for i in range(5)]
  writer = FakeWriter(FakeLlm())
  _, report = tag(
    store, writer, docs, icxml_demonstrations='label', icxml_retrieved=8
  )
  assert len(writer.llm.prompts['title']) == 8
  assert report['questions'] == report['asked'] == 8 + 5 + 5


def test_the_report(store):
  writer = FakeWriter(FakeLlm())
  _, report = tag(store, writer)
  num = len(ASKED)
  assert len(writer.asked) == 3 * num
  seconds = report.pop('seconds')
  assert seconds > 0
  assert report.pop('seconds_per_document') == pytest.approx(
    seconds / len(DOCS), abs=1e-3
  )
  assert report == {
    'documents': len(DOCS),
    'questions': 3 * num,
    'asked': 3 * num,
    'reused': 0,
    'unanswered': 0,
    'bad_answers': 0,
    'retried': 0,
    'prompt_tokens': 30 * num,
    'cached_tokens': 12 * num,
    'generated_tokens': 9 * num,
    'tokens_per_document': round(39 * num / len(DOCS), 1),
  }


def test_another_run_reuses_all_answers(store):
  names, first = tag(store, FakeWriter(FakeLlm()))
  writer = FakeWriter(FakeLlm())
  again, report = tag(store, writer, asked_by='another/icxml')
  assert again == names and not writer.asked
  assert report['asked'] == report['prompt_tokens'] == 0
  assert report['reused'] == first['asked']
  assert report['tokens_per_document'] == first['tokens_per_document']


@pytest.mark.parametrize(
  'bad',
  ['I like the second.', '[]', '[1, 1]', '[0]', '[51]', '[1, "red cat"]'],
)
def test_a_bad_answer_is_asked_again_once(store, bad):
  writer = FakeWriter(FakeLlm(picks=bad))
  names, report = tag(store, writer)
  assert picks_of(names) == [wanted(content) for _, content in DOCS]
  assert report['retried'] == report['bad_answers'] == len(ASKED)
  assert len(writer.llm.prompts['firm_picks']) == len(ASKED)


def test_two_bad_answers_leave_the_order_of_the_list(store):
  writer = FakeWriter(FakeLlm(picks='none', firm_picks='[1, 2'))
  names, report = tag(store, writer)
  for prompt in writer.llm.prompts['picks']:
    (i,) = [i for i in ASKED if DOCS[i][1] in prompt]
    listed = listed_in(prompt)
    assert names[i][: len(listed)] == listed
  assert report['bad_answers'] == 2 * report['retried'] == 2 * len(ASKED)


def test_no_filtered_label_and_no_own_title(store):
  filters = [[] for _ in DOCS]
  filters[0] = [LABELS.index('gold cat'), LABELS.index('red cat')]
  llm = FakeLlm(picks='[1]', labels=f'- all {ANIMALS[3]}s\n- a red cat')
  names, _ = tag(store, FakeWriter(llm), filters=filters)
  assert not {'gold cat', 'red cat'} & set(names[0])
  assert 'red owl' in names[0] and 'red owl' not in names[3]  # its title
  assert 'red cat' in names[3]
  for prompt in llm.prompts['picks']:
    if DOCS[3][1] in prompt:
      assert 'red owl' not in listed_in(prompt)


@KINDS
def test_an_empty_document_asks_nothing_and_keeps_what_was_retrieved(
  store, kind
):
  writer = FakeWriter(FakeLlm())
  names, report = tag(
    store, writer, docs=[('', ' \n'), ('', '')], icxml_demonstrations=kind
  )
  nearest = words_in_common()([''], 40)[0]
  assert names == [[LABELS[x] for x in nearest]] * 2
  assert not writer.asked and report['questions'] == 0


@pytest.mark.parametrize('nothing', ['', '...', None])
def test_without_any_label_it_picks_from_what_was_retrieved(store, nothing):
  llm = FakeLlm(picks='[3]')
  writer = FakeWriter(
    lambda p: nothing if 'List at least' in p else llm(p), chunk=1
  )
  names, report = tag(store, writer)
  texts = doc_texts().get(range(len(DOCS)))
  nearest = words_in_common()(texts, 40)
  for i in ASKED:
    row = [LABELS[x] for x in nearest[i] if LABELS[x] != DOCS[i][0]]
    assert names[i] == [row[2], *row[:2], *row[3:]]
  bad, missing = (0, 5) if nothing is None else (5, 0)
  assert (report['bad_answers'], report['unanswered']) == (bad, missing)


def test_what_no_server_answers_leaves_the_order_of_the_list(store):
  writer = FakeWriter(FakeLlm())
  llm = writer.llm
  writer.llm = lambda p: None if 'JSON' in p or 'titles' in p[-80:] else llm(p)
  names, report = tag(store, writer)
  assert all(names) and report['retried'] == 0
  assert report['unanswered'] == 2 * len(ASKED)
  # Without an answer nothing is stored, and it is asked again.
  again = FakeWriter(llm)
  names, report = tag(store, again)
  assert len(llm.prompts['picks']) == len(llm.prompts['titles']) == len(ASKED)
  assert picks_of(names) == [wanted(content) for _, content in DOCS]


@pytest.mark.parametrize('num_labels', [1, 2, 7])
@KINDS
def test_few_labels(store, num_labels, kind):
  labels = LABELS[:num_labels]
  docs = [('', f'Small. wanted: {labels[-1]}.')]
  writer = FakeWriter(FakeLlm())
  (names,), _ = tag(store, writer, docs, labels, icxml_demonstrations=kind)
  assert names == [labels[-1], *labels[:-1]]
  assert len(writer.llm.prompts['picks']) == (num_labels > 1)


def test_a_label_named_twice_counts_once(store):
  docs = [('', 'Twice. wanted: red cat.')]
  llm = FakeLlm(labels='- Red cat\n- red  cat\n- blue dog')
  (names,), _ = tag(store, FakeWriter(llm), docs)
  once = FakeLlm(labels='- Red cat\n- blue dog')
  (expected,), _ = tag(store, FakeWriter(once, name='other'), docs)
  assert names == expected


def test_the_list_to_pick_from_is_bounded(store, monkeypatch):
  monkeypatch.setattr(icxml, '_SHOWN', 5)
  docs = [('', 'Many. wanted: red cat.')]
  writer = FakeWriter(FakeLlm(picks='[5, 6]', firm_picks='[5]'))
  (names,), report = tag(store, writer, docs)
  (prompt,) = writer.llm.prompts['picks']
  listed = listed_in(prompt)
  assert len(listed) == 5 and 'Which 5 of' in prompt
  assert names[:5] == [listed[4], *listed[:4]] and len(names) == 10
  assert report['retried'] == 1


@pytest.mark.parametrize('block', [1, 2, 5])
@KINDS
def test_blocks_change_nothing(store, tmp_path, monkeypatch, block, kind):
  names, report = tag(store, FakeWriter(FakeLlm()), icxml_demonstrations=kind)
  monkeypatch.setattr(icxml, '_BLOCK', block)
  other = AnswerStore(str(tmp_path / 'other.sqlite'))
  again, other_report = tag(
    other, FakeWriter(FakeLlm()), icxml_demonstrations=kind
  )
  other.close()
  assert again == names
  assert other_report['asked'] == report['asked']


@pytest.mark.parametrize('crash_after', range(0, 14, 3))
def test_goes_on_where_it_broke_off_and_asks_nothing_twice(
  store, tmp_path, crash_after
):
  other = AnswerStore(str(tmp_path / 'other.sqlite'))
  expected, undisturbed = tag(other, FakeWriter(FakeLlm()))
  other.close()
  first, second = (
    FakeWriter(FakeLlm(), crash_after=crash_after),
    FakeWriter(FakeLlm()),
  )
  with pytest.raises(FakeCrash):
    tag(store, first)
  names, report = tag(store, second)
  assert names == expected
  assert len(first.asked) > crash_after
  assert not set(first.asked) & set(second.asked)
  assert len(first.asked) + len(second.asked) == undisturbed['asked']
  for timed in ('seconds', 'seconds_per_document'):
    del report[timed], undisturbed[timed]
  assert report == undisturbed


def test_no_documents(store):
  names, report = tag(store, FakeWriter(FakeLlm()), docs=[])
  assert names == [] and report['tokens_per_document'] == 0


def test_several_processes_are_one_too_many(store, monkeypatch):
  monkeypatch.setattr(processes, 'count', lambda: 2)
  with pytest.raises(UserError, match='--method=icxml runs in one process'):
    tag(store, FakeWriter(FakeLlm()))


def test_long_label_titles_are_shortened_in_prompts(store):
  labels = ['red ' + 'very ' * 100 + 'long', 'two\nlines']
  docs = [('', 'One. wanted: two lines.')]
  writer = FakeWriter(FakeLlm())
  (names,), _ = tag(store, writer, docs, labels)
  assert names == ['two\nlines', labels[0]]
  (prompt,) = writer.llm.prompts['picks']
  assert max(map(len, prompt.splitlines())) <= 210


def test_output_of_no_more_than_a_hundred(store):
  labels = [f'{i} {x}' for x in 'abcdefghijklmn' for i in range(10)]
  llm = FakeLlm(
    labels='\n'.join(f'- {x}' for x in 'abcdefghijklmn'), picks='[2]'
  )
  (names,), _ = tag(store, FakeWriter(llm), [('', 'Many.')], labels)
  assert len(names) == 100 and names[:2] == ['0 b', '0 a']
  assert np.unique(names).size == 100
