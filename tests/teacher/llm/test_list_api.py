"""Which lines of an answer count."""

import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from lmtx_jax.teacher.llm.list_api import ListPrompt, SglangLists, read_lines


def read(text, is_cut=False):
  """Numbers and words of the lines that count."""
  words = re.findall(r'\b(?:yes|no)\b', text.lower())
  said = [(word, 0.9 if word == 'yes' else 0.1) for word in words]
  found = read_lines(text, said, is_cut)
  return {i: {0.9: 'yes', 0.1: 'no'}[p] for i, p in found.items()}


@pytest.mark.parametrize(
  ('text', 'found'),
  [
    ('1. yes\n2. no', {1: 'yes', 2: 'no'}),
    (' 1) Yes.\r\n2: NO \n', {1: 'yes', 2: 'no'}),
    ('Here you are:\n\n1. yes\n\n2. no\nThat is all.', {1: 'yes', 2: 'no'}),
    ('1. yes\n3. no', {1: 'yes', 3: 'no'}),
    ('1. yes\n2. no\n2. yes\n3. no', {1: 'yes', 3: 'no'}),
    ('1. yes\n1. yes\n2. no', {2: 'no'}),
    ('1. yes\n3. no\n2. yes\n4. no', {1: 'yes', 4: 'no'}),
    ('2. yes\n1. no', {}),
    ('1. yes\n2. no\n1. yes\n2. no', {}),
    ('1. yes\n12. no\n2. no', {1: 'yes'}),
    ('1. yes, it is\n2. no', {2: 'no'}),
    ('1. maybe\n2. no', {2: 'no'}),
    ('1. yes no\n2. no', {2: 'no'}),
    ('1. a tag: yes\n2. no', {2: 'no'}),
    ('1 yes\n2. no', {2: 'no'}),
    ('1. yes 2. no', {}),
    ('yes\nno', {}),
    ('yes 1.\nno 2.', {}),
    ('1.\nyes', {}),
    ('', {}),
    ('9999999999999. yes\n1. no', {}),
    ('-1. yes\n1. no', {1: 'no'}),
    ('\u0661. yes\n1. no', {1: 'no'}),
  ],
)
def test_lines(text, found):
  assert read(text) == found


def test_a_line_that_was_cut_may_have_gone_on():
  assert read('1. yes\n2. no', is_cut=True) == {1: 'yes'}
  assert read('1. yes\n2. no\n', is_cut=True) == {1: 'yes', 2: 'no'}


def test_word_and_probability_must_agree():
  text = '1. yes\n2. no\n3. yes'
  said = [('yes', 0.4), ('no', 0.6), ('yes', 0.6)]
  assert read_lines(text, said, False) == {3: 0.6}


@pytest.mark.parametrize(
  'said',
  [
    [('yes', 0.9)],
    [('no', 0.1), ('yes', 0.9)],
    [('yes', 0.9), ('no', 0.1), ('no', 0.1)],
    [],
  ],
)
def test_tokens_that_are_not_the_words_of_the_text(said):
  assert read_lines('1. yes\n2. no', said, False) == {}


def test_words_elsewhere_are_counted():
  text = 'Yes, gladly, no doubt:\n1. no\n2. yes'
  said = [('yes', 0.99), ('no', 0.01), ('no', 0.2), ('yes', 0.8)]
  assert read_lines(text, said, False) == {1: 0.2, 2: 0.8}


@given(
  st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(['yes', 'no', 'perhaps'])),
    max_size=8,
  )
)
def test_what_counts_stands_once_and_in_order(rows):
  found = read('\n'.join(f'{i}. {word}' for i, word in rows))
  numbers = [i for i, _ in rows]
  assert list(found) == sorted(found)
  for i, word in found.items():
    assert numbers.count(i) == 1 and dict(rows)[i] == word
    place = numbers.index(i)
    assert all(j < i for j in numbers[:place])
    assert all(j > i for j in numbers[place + 1 :])
  if numbers == list(range(1, len(rows) + 1)):
    assert len(found) == sum(word != 'perhaps' for _, word in rows)


def test_the_server_is_told_what_an_answer_looks_like():
  body = SglangLists(((1, 2), (3,))).body(
    [ListPrompt('a', 2), ListPrompt('b', 11)], ['x', 'y']
  )
  two, eleven = body['sampling_params']
  assert re.fullmatch(two['regex'], '1. yes\n2. No')
  for wrong in ('1. yes', '1. yes\n2. no\n3. no', '2. yes\n1. no', '1. yes2'):
    assert not re.fullmatch(two['regex'], wrong)
  lines = '\n'.join(f'{i}. no' for i in range(1, 12))
  assert re.fullmatch(eleven['regex'], lines)
  assert eleven['max_new_tokens'] > two['max_new_tokens'] >= 10
  assert two['temperature'] == 0 and body['token_ids_logprob'] == [1, 2, 3]
