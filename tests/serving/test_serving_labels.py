"""Labels by uid and by words."""

import numpy as np
import pytest

from lmtx_jax.bundle_labels import LabelState
from lmtx_jax.label_file import Label, LabelFile, write_rows
from lmtx_jax.mips import ExactIndex
from lmtx_jax.serving.labels import LabelView

LABELS = [
  Label('a', 'Maize'),
  Label('b', 'maize oil'),
  Label('ab', 'Straße'),
  Label('a b', 'two words'),
  Label('line\nbreak', 'MAIZE flour'),
  Label('line break', 'another'),
  Label('http://x/é?q=1', ''),
]


@pytest.fixture
def view(tmp_path):
  path = str(tmp_path / 'labels.jsonl')
  write_rows(path, LABELS)
  embeddings = np.eye(len(LABELS), dtype=np.float32)
  file = LabelFile(path, len(LABELS))
  return LabelView(LabelState({}, file, embeddings, ExactIndex(embeddings)))


def test_every_uid_is_found(view):
  assert [view.index_of(label.uid) for label in LABELS] == list(range(7))


@pytest.mark.parametrize('uid', ['', 'c', 'Maize', 'A', 'line', 'b\na', '\n'])
def test_no_other_uid_is(view, uid):
  assert view.index_of(uid) == -1


@pytest.mark.parametrize(
  ('query', 'expected'),
  [
    ('maize', [0, 1, 4]),
    ('MAIZE O', [1]),
    ('strasse', [2]),
    ('b', [1, 2, 3, 4, 5]),
    ('http://X/É', [6]),
    ('nothing', []),
    ('', list(range(7))),
  ],
)
def test_words_are_found_in_whatever_case(view, query, expected):
  labels, more = view.search(query, 0, 10)
  assert labels == [LABELS[i] for i in expected]
  assert not more


@pytest.mark.parametrize(('query', 'total'), [('maize', 3), ('', 7)])
def test_pages_follow_each_other(view, query, total):
  every, _ = view.search(query, 0, 10)
  for limit in (1, 2, 3):
    found = []
    while True:
      labels, more = view.search(query, len(found), limit)
      found += labels
      if not more:
        break
    assert found == every
    assert len(found) == total


def test_it_stays_as_it_was_while_the_file_is_another(view, tmp_path):
  write_rows(str(tmp_path / 'new.jsonl'), LABELS[:2])
  (tmp_path / 'new.jsonl').rename(tmp_path / 'labels.jsonl')
  assert view.index_of('ab') == 2
  assert view.search('straße', 0, 5) == ([LABELS[2]], False)
