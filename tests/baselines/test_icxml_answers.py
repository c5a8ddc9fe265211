"""Reading what an LLM writes."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from lmtx_jax.baselines.icxml_answers import read_items, read_picks


@pytest.mark.parametrize(
  'text',
  [
    'One\nTwo, too\nThree',
    '- One\n- Two, too\n- Three',
    '1. One\n2. Two, too\n3. Three',
    ' 1) "One"\n 2) "Two, too"\n10) "Three"\n',
    '* **One**\n* **Two, too**\n* Three',
    '**1. One**\n**2. Two, too**\n**3. Three**',
    '\u2022 One\r\n\u2022 Two, too\r\n\u2022 Three',
    'Sure! Here are they:\n\n- One\n- Two, too\n- Three\n\nI hope it helps.',
    'Here are some labels:\nOne\nTwo, too\nThree',
    '["One", "Two, too", "Three"]',
    'As JSON:\n```json\n[\n  "One",\n  "Two, too",\n  "Three"\n]\n```',
    '<think>\n- Four?\n</think>\n\nOne\nTwo, too\nThree',
    'One\none\nTwo,  too\n---\nThree\nTHREE',
    'One\n' + 'talk ' * 50 + '\nTwo, too\nThree',
  ],
)
@pytest.mark.parametrize('splits', [False, True])
def test_lists_in_every_form(text, splits):
  items = read_items(text, False, 9, splits)
  assert [x.replace('THREE', 'Three') for x in items] == [
    'One',
    'Two, too',
    'Three',
  ]


@pytest.mark.parametrize(
  'text',
  ['One, two, three', 'Labels: One; two; three.', 'Labels:\nOne, two, three'],
)
def test_a_single_line_is_split_if_it_may_be(text):
  items = read_items(text, False, 9, splits=True)
  assert [x.strip('.') for x in items] == ['One', 'two', 'three']


def test_a_single_title_keeps_its_commas():
  text = 'Title: "Sense, Sensibility, and Seamonsters"'
  assert read_items(text, False, 9, splits=False) == [
    'Sense, Sensibility, and Seamonsters'
  ]


def test_a_number_is_part_of_a_title():
  text = '- 1984 in music\n- 3.5 mm jack [1]\n- Best labels: 7 Up'
  assert read_items(text, False, 9, True) == [
    '1984 in music',
    '3.5 mm jack [1]',
    'Best labels: 7 Up',
  ]


@pytest.mark.parametrize(
  'text', ['- One\n- Two\n- Thr', '["One", "Two", "Thr', 'One, Two, Thr']
)
def test_half_an_item_is_none(text):
  assert read_items(text, True, 9, True) == ['One', 'Two']
  assert len(read_items(text, False, 9, True)) == 3


def test_half_of_the_only_item_is_better_than_nothing():
  assert read_items('A very long tit', True, 9, False) == ['A very long tit']


def test_no_more_than_wanted():
  assert read_items('a\nb\nc', False, 2, True) == ['a', 'b']


@pytest.mark.parametrize('text', ['', ' \n', '...', '[]', '```\n```', '[1, 2]'])
def test_no_list(text):
  assert read_items(text, False, 9, True) == []


@pytest.mark.parametrize(
  ('text', 'picks'),
  [
    ('[3, 1, 2]', [2, 0, 1]),
    ('```json\n[3]\n```', [2]),
    ('{"indices": [2, 5]}', [1, 4]),
    ('The best are ["4", "1"].', [3, 0]),
    ('<think>[1]?</think>[2]', [1]),
    ('[1, 2, 3, 4, 5]', [0, 1, 2]),
    ('', None),
    ('1, 2, 3', None),
    ('[1, 2', None),
    ('[]', None),
    ('[0]', None),
    ('[6]', None),
    ('[-1]', None),
    ('[2, 2]', None),
    ('[1.0]', None),
    ('[true]', None),
    ('[null]', None),
    ('[1, [2]', [1]),
    ('["one"]', None),
    ('[1 2]', None),
    ('[{"index": 1}]', None),
    ('["' + '9' * 5000 + '"]', None),
  ],
)
def test_picks(text, picks):
  assert read_picks(text, 5, 3) == picks


@given(
  st.text('[]{}",:;-*0123456789. \n\tabcTitle', max_size=60), st.booleans()
)
def test_nothing_breaks_it(text, flag):
  items = read_items(text, flag, 9, flag)
  assert len(items) <= 9 and all(item.strip() == item != '' for item in items)
  picks = read_picks(text, 12, 10)
  assert picks is None or (picks and set(picks) <= set(range(12)))
