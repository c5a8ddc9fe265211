"""Labels are read from the file when they are asked for."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_fixtures import label_corpus
import numpy as np
import pytest

from lmtx_jax import label_file
from lmtx_jax.label_file import Label, LabelFile, write_labels
from lmtx_jax.types import UserError

TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=12)


@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  names=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30),
  chunk=st.integers(1, 40),
)
def test_come_back_in_any_order(tmp_path, monkeypatch, names, chunk):
  """Line breaks in texts, and chunks that end anywhere."""
  monkeypatch.setattr(label_file, '_CHUNK', chunk)
  monkeypatch.setattr(label_file, '_BLOCK', 7)
  path = str(tmp_path / 'labels.jsonl')
  write_labels(path, label_corpus(names))
  labels = LabelFile(path, len(names))
  assert len(labels) == len(names)
  order = np.arange(len(names))[::-1]
  assert labels.get(order) == [Label(*names[i]) for i in order]


def test_the_last_line_may_lack_its_break(tmp_path):
  path = tmp_path / 'labels.jsonl'
  path.write_text('{"uid": "a", "title": "A"}\n{"uid": "b", "title": "B"}')
  assert LabelFile(str(path), 2).get([1]) == [Label('b', 'B')]


@pytest.mark.parametrize(('num', 'text'), [(2, 'a\n'), (0, 'a\n'), (1, '')])
def test_another_number_of_lines(tmp_path, num, text):
  path = tmp_path / 'labels.jsonl'
  path.write_text(text)
  has = len(text.splitlines())
  with pytest.raises(UserError, match=f'has {has} labels, not {num}'):
    LabelFile(str(path), num)


@pytest.mark.parametrize(
  'line',
  [
    *(b'{', b'[]', b'3', b'', b'{"uid": "a"}', b'\xff'),
    b'{"uid": 3, "title": "A"}',
  ],
)
def test_a_broken_line_is_named(tmp_path, line):
  path = tmp_path / 'labels.jsonl'
  whole = b'{"uid": "a", "title": "A"}\n'
  path.write_bytes(whole + line + b'\n' + whole)
  labels = LabelFile(str(path), 3)
  assert labels.get([0]) == [Label('a', 'A')]
  with pytest.raises(UserError, match=r'labels\.jsonl:2: not a label: ') as e:
    labels.get([0, 1])
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('line', [b'{"uid": "b", "ti', b'{"uid": "b"}\n'])
def test_a_last_line_that_is_cut_is_seen_at_once(tmp_path, line):
  path = tmp_path / 'labels.jsonl'
  path.write_bytes(b'{"uid": "a", "title": "A"}\n' + line)
  with pytest.raises(UserError, match=r'labels\.jsonl:2: not a label'):
    LabelFile(str(path), 2)
