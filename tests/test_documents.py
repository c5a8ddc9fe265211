"""Documents come in blocks, whatever the file or pipe they come from."""

import gzip
import json
import threading
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from lmtx_jax.documents import ahead, decoded_lines, read_blocks
from lmtx_jax.types import UserError


def blocks(path, **kwargs):
  return list(read_blocks(str(path), list, **kwargs))


@settings(
  max_examples=50,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  texts=st.lists(
    st.text('ab', max_size=9) | st.none(), min_size=1, max_size=20
  ),
  most=st.integers(1, 6),
  characters=st.integers(20, 90),
  data=st.data(),
)
def test_blocks_are_the_same_wherever_one_goes_on(
  tmp_path, texts, most, characters, data
):
  path = tmp_path / 'docs.jsonl'
  lines = ['[]' if t is None else json.dumps({'content': t}) for t in texts]
  path.write_text('\n'.join(lines))
  limits = dict(skip_errors=True, max_documents=most, max_characters=characters)
  whole = blocks(path, **limits)
  assert [uid for b in whole for uid in b.uids] == [
    None if t is None else str(n) for n, t in enumerate(texts, 1)
  ]
  assert [r.content for b in whole for r in b.inputs] == [
    t for t in texts if t is not None
  ]
  at = 1
  for block in whole:
    assert block.first == at
    assert 1 <= len(block.uids) <= most
    assert len(block.errors) == block.uids.count(None)
    at += len(block.uids)
  answered = data.draw(st.integers(0, len(texts)))
  rest = blocks(path, **limits, answered=answered)
  assert rest == [b for b in whole if b.first + len(b.uids) - 1 > answered]


def test_fewer_lines_than_were_answered(tmp_path):
  path = tmp_path / 'docs.jsonl'
  path.write_text('{"title": ""}\n' * 2)
  with pytest.raises(UserError, match='has 2 lines, but 3 were answered'):
    blocks(path, answered=3)


@pytest.mark.parametrize(
  ('line', 'but'),
  [
    ('{"uid": "b", "text": "x"}', r", but \['text'\]"),
    ('{"foo": 1}', r", but \['foo'\]"),
    ('{"uid": "b"}', ''),
    ('{}', ''),
  ],
)
def test_a_line_without_title_and_content_is_a_mistake(tmp_path, line, but):
  path = tmp_path / 'docs.jsonl'
  path.write_text(f'{{"title": ""}}\n{{"content": null}}\n{line}\n')
  message = f':3: has neither title nor content{but}$'
  with pytest.raises(UserError, match=message):
    blocks(path)


def test_documents_before_a_bad_line_come_first(tmp_path):
  path = tmp_path / 'docs.jsonl'
  rows = [json.dumps({'uid': uid, 'title': ''}) for uid in 'abc']
  path.write_text('\n'.join([*rows[:2], '{', rows[2]]))
  found = read_blocks(str(path), list)
  assert next(found).uids == ['a', 'b']
  with pytest.raises(UserError, match=r'docs\.jsonl:3: not JSON'):
    next(found)


@pytest.mark.parametrize('skip', [True, False])
def test_a_damaged_gz_ends_it(tmp_path, skip):
  path = tmp_path / 'docs.jsonl.gz'
  path.write_bytes(gzip.compress(b'{"title": "a"}\n' * 9)[:-9])
  with pytest.raises(UserError, match=r'gz:\d+: the gzip file is cut short'):
    blocks(path, skip_errors=skip)


def test_lines_of_no_file(tmp_path):
  with pytest.raises(UserError, match='--input=none: no such file'):
    list(decoded_lines('none'))


class TestAhead:
  def test_the_same_items(self):
    assert list(ahead(iter(range(50)), 3)) == list(range(50))

  def test_items_of_nothing(self):
    assert list(ahead(iter([]), 1)) == []

  def test_an_error_comes_in_its_turn(self):
    def items():
      yield 1
      yield 2
      raise UserError('third')

    found = ahead(items(), 5)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(UserError, match='third'):
      next(found)

  def test_no_more_than_asked_for(self):
    made = []
    found = ahead((made.append(i) or i for i in range(100)), 2)
    next(found)
    time.sleep(0.3)
    assert len(made) <= 4  # one taken, two waiting, one in hand
    found.close()

  def test_the_thread_ends_when_nobody_wants_more(self):
    before = set(threading.enumerate())
    found = ahead(iter(range(100)), 1)
    next(found)
    (thread,) = set(threading.enumerate()) - before
    found.close()
    thread.join(5)
    assert not thread.is_alive()
