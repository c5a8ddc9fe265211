"""A data folder comes back as it was written, or fails in one clear line."""

import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax.config import SourceConfig
from lmtx_jax.data.builders import load_dataset
from lmtx_jax.types import Record, UserError

TRAIN = [
  {'uid': 'a', 'title': 'Apple', 'content': 'red fruit', 'target_ind': [1, 0]},
  {'uid': 'b', 'title': 'Bee', 'content': 'buzzes'},
  {'uid': 3, 'title': None, 'target_ind': []},
]
TEST = [{'uid': 'a', 'content': 'x', 'target_ind': [2], 'target_rel': [1.0]}]
LABELS = [{'uid': f'l{i}', 'title': f'label {i}'} for i in range(3)]
FILES = {'trn.json': TRAIN, 'tst.json': TEST, 'lbl.json': LABELS}


def json_lines(items) -> bytes:
  return b''.join(json.dumps(item).encode() + b'\n' for item in items)


def write(folder: pathlib.Path, end: str = '', **changed: bytes | None):
  """Writes a good folder; `trn_json=b'...'` changes or (None) drops a file."""
  folder.mkdir(parents=True, exist_ok=True)
  files = {name: json_lines(items) for name, items in FILES.items()}
  files |= {
    key[::-1].replace('_', '.', 1)[::-1]: v for key, v in changed.items()
  }
  for name, content in files.items():
    if content is not None:
      compress = gzip.compress if end == '.gz' else bytes
      (folder / (name + end)).write_bytes(compress(content))
  return folder


def load(folder, cache):
  return load_dataset(SourceConfig(data_dir=str(folder), data_cache=str(cache)))


def everything(corpus):
  return corpus.records(range(len(corpus)))


@pytest.mark.parametrize('end', ['', '.gz'])
def test_reads_what_was_written(tmp_path, end):
  folder = write(
    tmp_path / 'mine', end, filter_labels_train_txt=b'2 1\n0 2\n2 0\n'
  )
  data = load(folder, tmp_path / 'cache')
  assert data.name == 'mine'
  assert everything(data.train) == [
    Record('a', 'Apple', 'red fruit'),
    Record('b', 'Bee', 'buzzes'),
    Record('3', '', ''),  # an empty document is kept
  ]
  assert everything(data.test) == [Record('a', '', 'x')]
  assert [r.title for r in everything(data.labels)] == [
    'label 0', 'label 1', 'label 2',
  ]  # fmt: skip
  assert data.train.records([2, 0])[0].uid == '3'
  assert [row.tolist() for row in data.train.targets] == [[1, 0], [], []]
  assert [row.tolist() for row in data.test.targets] == [[2]]
  assert [row.tolist() for row in data.train.filters] == [[2], [], [1, 0]]
  assert data.test.filters.lengths.tolist() == [0]
  assert data.train.targets.values.dtype == np.int32
  assert data.train.targets.offsets.dtype == np.int64


text = st.text(st.characters(codec='utf-8'), max_size=20)


@settings(
  max_examples=15,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=6))
def test_any_text_survives(tmp_path, pairs):
  items = [
    {'uid': str(i), 'title': title, 'content': content}
    for i, (title, content) in enumerate(pairs)
  ]
  with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
    folder = write(pathlib.Path(folder), trn_json=json_lines(items))
    data = load(folder, folder / 'cache')
    assert everything(data.train) == [Record(**item) for item in items]


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path):
  line = b'{"uid": "a", "title": "x\\ud83dy \\ud83d\\ude00"}\n'
  data = load(write(tmp_path / 'd', trn_json=line), tmp_path / 'cache')
  assert data.train.records([0])[0].title == 'x\ufffdy \U0001f600'


def test_line_separators_within_a_text_end_no_line(tmp_path):
  line = '{"uid": "a", "title": "x\u2028y\u0085z\x0b"}\r\n'
  line = line.replace('\x0b', '\\u000b').encode()
  data = load(write(tmp_path / 'd', trn_json=line), tmp_path / 'cache')
  assert everything(data.train)[0].title == 'x\u2028y\u0085z\x0b'


def test_a_label_given_twice_counts_once(tmp_path):
  line = b'{"uid": "a", "target_ind": [2, 0, 2]}\n'
  data = load(write(tmp_path / 'd', tst_json=line), tmp_path / 'cache')
  assert data.test.targets[0].tolist() == [2, 0]


GOOD = b'{"uid": "x", "title": "t"}\n'
LABEL_2 = b'{"uid": "l", "title": "t"}\n'
BAD = [
  ('trn_json', None, 'trn.json: no such file'),
  ('lbl_json', None, 'lbl.json: no such file'),
  ('tst_json', b'', 'tst.json: is empty'),
  ('trn_json', GOOD + b'{"uid": \n', 'trn.json:2: not JSON'),
  ('trn_json', GOOD + b'\n' + GOOD, 'trn.json:2: not JSON: an empty line'),
  ('trn_json', GOOD + b'[1, 2]\n', 'trn.json:2: not a JSON object'),
  ('trn_json', b'[' * 100_000 + b'\n', 'trn.json:1: not JSON'),
  ('tst_json', GOOD + b'{"title": "t"}\n', 'tst.json:2: lacks uid'),
  ('tst_json', b'{"uid": ""}\n', 'tst.json:1: lacks uid'),
  ('tst_json', b'{"uid": [1]}\n', 'tst.json:1: uid is not a string'),
  ('trn_json', b'{"uid": "x", "content": 7}\n', ':1: content is not a string'),
  (
    'trn_json',
    b'{"uid": "y"}\n' + GOOD + b'{"uid": "z"}\n' + GOOD,
    ['trn.json:4: duplicate uid, the same as ', 'trn.json:2'],
  ),
  ('lbl_json', LABEL_2 * 2, 'lbl.json:2: duplicate uid'),
  ('trn_json', b'{"uid": 5}\n{"uid": "5"}\n', 'trn.json:2: duplicate uid'),
  ('trn_json', GOOD + b'{"uid": "\xff"}\n', 'trn.json:2: not UTF-8'),
  (
    'tst_json',
    b'{"uid": "x", "target_ind": [0, "1"]}\n',
    'tst.json:1: target_ind is not a list of integers',
  ),
  ('tst_json', b'{"uid": "x", "target_ind": 1}\n', 'not a list of integers'),
  ('tst_json', b'{"uid": "x", "target_ind": [true]}\n', 'not a list of integ'),
  (
    'tst_json',
    b'{"uid": "x", "target_ind": [3]}\n',
    'tst.json:1: label 3 is out of range, there are 3',
  ),
  (
    'trn_json',
    GOOD + b'{"uid": "y", "target_ind": [-1]}\n',
    'trn.json:2: label -1 is out of range',
  ),
  (
    'trn_json',
    b'{"uid": "x", "target_ind": [99999999999]}\n',
    'trn.json:1: label 99999999999 is out of range',
  ),
  (
    'lbl_json',
    LABEL_2 + b'{"uid": "m"}\n',
    ':2: the label has no text',
  ),
  ('lbl_json', b'{"uid": "m", "title": " "}\n', ':1: the label has no text'),
  (
    'lbl_json',
    b'{"uid": "m", "content": "c"}\n',
    'lbl.json:1: the label has content but no title',
  ),
  (
    'filter_labels_test_txt',
    b'0 1\n0\n',
    'filter_labels_test.txt:2: expected "document_index label_index"',
  ),
  ('filter_labels_test_txt', b'0 -1\n', 'test.txt:1: expected "document_ind'),
  (
    'filter_labels_test_txt',
    b'1 0\n',
    'test.txt:1: document 1 is out of',
  ),
  ('filter_labels_train_txt', b'0 3\n', 'train.txt:1: label 3 is out of range'),
]


@pytest.mark.parametrize(('file', 'content', 'message'), BAD)
def test_a_mistake_is_named_by_file_and_line(tmp_path, file, content, message):
  folder = write(tmp_path / 'd', **{file: content})
  with pytest.raises(UserError) as e:
    load(folder, tmp_path / 'cache')
  for part in [message] if isinstance(message, str) else message:
    assert part in str(e.value)
  assert '\n' not in str(e.value)
  assert str(folder) in str(e.value)
  # Nothing stays behind, and the mended folder loads.
  assert not list((tmp_path / 'cache').rglob('*.json'))
  for old in folder.iterdir():
    old.unlink()
  assert len(load(write(folder), tmp_path / 'cache').train) == 3


def test_a_gz_file_cut_short_is_named(tmp_path):
  folder = write(tmp_path / 'd', '.gz')
  whole = gzip.compress(os.urandom(4000).hex().encode())
  (folder / 'trn.json.gz').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match=r'trn\.json\.gz:1: .*cut short'):
    load(folder, tmp_path / 'cache')
  (folder / 'trn.json.gz').write_bytes(GOOD)
  with pytest.raises(UserError, match=r'trn\.json\.gz:1: .*damaged'):
    load(folder, tmp_path / 'cache')


def test_plain_and_gz_side_by_side_is_an_error(tmp_path):
  write(tmp_path / 'd')
  write(tmp_path / 'd', '.gz')
  with pytest.raises(UserError, match='keep one'):
    load(tmp_path / 'd', tmp_path / 'cache')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ({}, 'neither --dataset nor --data_dir'),
    ({'dataset': 'eurlex4k', 'data_dir': 'x'}, 'are both set'),
    ({'dataset': 'nonesuch'}, r'--dataset=nonesuch: unknown.*wiki10_31k'),
    ({'data_dir': '/none/such'}, 'data_dir=/none/such: no such folder'),
  ],
)
def test_wrong_flags(flags, message, tmp_path):
  with pytest.raises(UserError, match=message):
    load_dataset(SourceConfig(**flags, data_cache=str(tmp_path)))


def test_fingerprints_follow_the_content(tmp_path):
  def fingerprints(**changed):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    data = load(write(folder, **changed), tmp_path / 'cache')
    return [c.fingerprint for c in (data.train, data.test, data.labels)]

  base = fingerprints()
  assert fingerprints() == base
  assert len(set(base)) == 3
  moved = fingerprints(trn_json=json_lines(TRAIN[::-1]))
  assert moved[0] != base[0]
  assert moved[1:] == base[1:]
  truth = [{**TEST[0], 'target_ind': [1]}]
  assert fingerprints(tst_json=json_lines(truth))[1] != base[1]
  assert fingerprints(filter_labels_test_txt=b'0 0\n')[1] != base[1]
  glued = [{'uid': 'a', 'title': 'x', 'content': '', 'target_ind': [2]}]
  assert fingerprints(tst_json=json_lines(glued))[1] != base[1]


def test_second_load_reads_no_record(tmp_path, monkeypatch):
  folder = write(tmp_path / 'd')
  first = load(folder, tmp_path / 'cache')
  monkeypatch.setattr('lmtx_jax.data.reading.lines', None)
  again = load(folder, tmp_path / 'cache')
  assert again.fingerprint == first.fingerprint
  assert everything(again.train) == everything(first.train)
  assert isinstance(again.train.targets.values, np.memmap)


LOAD = """
import sys
from lmtx_jax.config import SourceConfig
from lmtx_jax.data.builders import load_dataset
data = load_dataset(SourceConfig(data_dir=sys.argv[1], data_cache=sys.argv[2]))
print(data.fingerprint, 'tensorflow' in sys.modules, 'torch' in sys.modules)
"""


def start(*args) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', LOAD, *map(str, args)],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )


def test_killed_and_concurrent_conversions(tmp_path):
  items = [{'uid': str(i), 'content': 'word ' * 400} for i in range(30_000)]
  folder = write(tmp_path / 'd', trn_json=json_lines(items))
  cache = tmp_path / 'cache'
  victim = start(folder, cache)
  deadline = time.monotonic() + 60
  while not list(cache.rglob('*.unfinished/records/*train*')):
    assert time.monotonic() < deadline
    assert victim.poll() is None
    time.sleep(0.01)
  victim.send_signal(signal.SIGKILL)
  victim.communicate()
  assert list(cache.rglob('*.unfinished'))  # it was killed at work
  racers = [start(folder, cache), start(folder, cache)]
  outputs = [racer.communicate(timeout=60)[0].split() for racer in racers]
  data = load(folder, cache)
  assert outputs == [[data.fingerprint, 'False', 'False']] * 2
  assert len(data.train) == 30_000
  assert data.train.records([29_999])[0].uid == '29999'
  assert not list(cache.rglob('*.unfinished'))
