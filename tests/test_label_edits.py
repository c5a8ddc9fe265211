"""Labels come and go without training, and no reader sees half of it."""

import json
import os
import pathlib
import shutil
import tempfile
import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from lmtx_jax import bundle_labels, label_edits, scann_index
from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import FORMAT, open_labels
from lmtx_jax.label_edits import (
  LabelExistsError,
  LastLabelError,
  ReadOnlyError,
  UnknownLabelError,
  add_labels,
  remove_labels,
)
from lmtx_jax.label_file import Label
from lmtx_jax.mips import ExactIndex, ScannIndex
from lmtx_jax.scann_index import is_installed
from lmtx_jax.types import Record, UserError

POOL = [
  Record(f'new-{i}', f'{"bada kifo " * (i % 3)}lu{i}', '') for i in range(9)
]


@pytest.fixture(scope='module')
def opened(bundle) -> Bundle:
  return Bundle(str(bundle))


@pytest.fixture
def tagger(opened, bundle, tmp_path, monkeypatch) -> Bundle:
  """A bundle to change; the encoder is in memory already."""
  shutil.copytree(bundle, tmp_path / 'bundle')
  monkeypatch.setattr(opened, 'folder', str(tmp_path / 'bundle'))
  monkeypatch.setattr(opened, 'state', opened.state)
  opened.state = open_labels(opened.folder)
  return opened


def label_list(folder) -> list[Label]:
  return list(open_labels(folder).labels)


def check_whole(state, expected: dict[Label, np.ndarray]):
  """All of a state fits together, and each label has its own embedding."""
  labels = list(state.labels)
  assert len(labels) == len(state.embeddings) == state.about['num_labels']
  for label, row in zip(labels, np.asarray(state.embeddings), strict=True):
    np.testing.assert_allclose(row, expected[label], atol=1e-6)


def embedded(tagger, labels) -> dict[Label, np.ndarray]:
  rows = tagger.embed_labels([Record(*label, '') for label in labels])
  return dict(zip(labels, rows, strict=True))


@settings(
  max_examples=8,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_edits_make_the_bundle_of_the_final_labels(opened, bundle, data):
  with tempfile.TemporaryDirectory() as temporary:
    folder = os.path.join(temporary, 'bundle')
    shutil.copytree(bundle, folder)
    expected = label_list(folder)
    opened.folder = folder
    for _ in range(data.draw(st.integers(1, 4))):
      known = {label.uid for label in expected}
      new = [label for label in POOL if label.uid not in known]
      if len(known) == 1 or (new and data.draw(st.booleans())):
        added = data.draw(st.permutations(new))
        added = added[: data.draw(st.integers(1, len(new)))]
        add_labels(opened, added)
        expected += [Label(label.uid, label.title) for label in added]
      else:
        uids = data.draw(
          st.lists(
            st.sampled_from(sorted(known)),
            unique=True,
            min_size=1,
            max_size=len(known) - 1,
          )
        )
        remove_labels(folder, uids)
        expected = [label for label in expected if label.uid not in uids]
    state = open_labels(folder)
    assert list(state.labels) == expected
    whole = embedded(opened, expected)
    check_whole(state, whole)
    queries = np.stack(list(whole.values()))
    found, scores = state.index.search(queries, 3)
    other, best = ExactIndex(queries).search(queries, 3)
    np.testing.assert_allclose(scores, best, atol=1e-5)
    sure = best[:, 0] - best[:, min(1, best.shape[1] - 1)] > 1e-4
    np.testing.assert_array_equal(found[sure, 0], other[sure, 0])


def test_new_labels_are_found_and_gone_ones_are_not(tagger):
  text = Record('d', POOL[4].title, '')
  add_labels(tagger, POOL[4:5])
  assert tagger.reload()
  assert not tagger.reload()
  best = tagger.predictions([text], 3)[0]['labels']
  assert 'new-4' in {label['uid'] for label in best}
  remove_labels(tagger.folder, ['new-4'])
  tagger.reload()
  told = tagger.predictions([text], 100)[0]['labels']
  assert 'new-4' not in {label['uid'] for label in told}
  assert len(told) == len(tagger.labels) == 24


def test_content_counts_where_it_did_in_training(tagger, monkeypatch):
  titles = tagger.embed_labels([Record('a', 'bada', 'kifo lumi')])
  monkeypatch.setattr(tagger, 'text', type(tagger.text)(True, 'title_content'))
  both = tagger.embed_labels([Record('a', 'bada', 'kifo lumi')])
  assert np.abs(both - titles).max() > 1e-3
  np.testing.assert_allclose(
    both, tagger.embed_labels([Record('a', 'bada kifo', 'lumi')]), atol=1e-6
  )


def test_readers_never_see_half(tagger):
  """Readers open the folder all the time, while labels change."""
  folder = tagger.folder
  first = label_list(folder)
  expected = embedded(
    tagger, first + [Label(new.uid, new.title) for new in POOL]
  )
  held, failures, seen = open_labels(folder), [], set()
  done = threading.Event()

  def read():
    try:
      while not done.is_set():
        state = open_labels(folder)
        check_whole(state, expected)
        seen.add(len(state))
        check_whole(held, expected)
    except BaseException as e:
      failures.append(e)

  threads = [threading.Thread(target=read) for _ in range(3)]
  for thread in threads:
    thread.start()
  try:
    for _ in range(2):
      add_labels(tagger, POOL[:3])
      add_labels(tagger, POOL[3:])
      remove_labels(folder, [new.uid for new in POOL])
  finally:
    done.set()
    for thread in threads:
      thread.join()
  assert not failures
  assert len(seen) > 1
  assert len(held) == 24
  assert label_list(folder) == first


def test_labels_that_changed_twice_while_they_were_opened(tagger, monkeypatch):
  stale = bundle_labels.read_about(tagger.folder)
  add_labels(tagger, POOL[:1])
  add_labels(tagger, POOL[1:2])
  answers = [stale]

  def read_about(folder):
    return answers.pop() if answers else read(folder)

  read = bundle_labels.read_about
  monkeypatch.setattr(bundle_labels, 'read_about', read_about)
  assert len(open_labels(tagger.folder)) == 26


def files(folder) -> set[str]:
  return {n for n in os.listdir(folder) if 'label' in n or n == 'scann'}


def test_the_generation_before_stays_and_no_older_one(tagger):
  first = files(tagger.folder)
  assert {'labels.jsonl', 'label_embeddings.npy'} <= first
  add_labels(tagger, POOL[:1])
  assert files(tagger.folder) == first | {'labels_000001', '.labels.lock'}
  add_labels(tagger, POOL[1:2])
  assert files(tagger.folder) == {
    *('labels_000001', 'labels_000002', '.labels.lock')
  }
  remove_labels(tagger.folder, ['new-0'])
  assert files(tagger.folder) == {
    *('labels_000002', 'labels_000003', '.labels.lock')
  }


@pytest.mark.parametrize('at', ['create_embeddings', 'write_json', '_sweep'])
def test_an_edit_that_fails_leaves_the_labels(tagger, monkeypatch, at):
  add_labels(tagger, POOL[:1])
  before = label_list(tagger.folder)

  def fail(*_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as m:
    m.setattr(label_edits, at, fail)
    with pytest.raises(OSError, match='No space'):
      add_labels(tagger, POOL[1:2])
  assert label_list(tagger.folder) == before
  add_labels(tagger, POOL[2:3])
  assert [label.uid for label in label_list(tagger.folder)[24:]] == [
    *('new-0', 'new-2')
  ]
  generations = files(tagger.folder) - {'.labels.lock'}
  assert generations == {'labels_000001', 'labels_000002'}


@pytest.mark.skipif(not is_installed(), reason='ScaNN has no build here')
def test_an_index_that_cannot_be_written_is_one_line(tagger, monkeypatch):
  before = label_list(tagger.folder)

  def fail(*_):
    raise RuntimeError('I/O error')

  monkeypatch.setattr(scann_index, 'write_part', fail)
  with pytest.raises(UserError, match=r'I/O error.*is the disk full\?'):
    add_labels(tagger, POOL[:1])
  assert label_list(tagger.folder) == before


def test_two_editors_at_once(tagger):
  failures = []

  def add(label):
    try:
      add_labels(tagger, [label])
    except BaseException as e:
      failures.append(e)

  threads = [threading.Thread(target=add, args=[new]) for new in POOL[:5]]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failures
  uids = [label.uid for label in label_list(tagger.folder)]
  assert sorted(uids[24:]) == [label.uid for label in POOL[:5]]


def test_bfloat16_stays_so(tagger):
  folder = pathlib.Path(tagger.folder)
  rows = np.load(folder / 'label_embeddings.npy').astype(jnp.bfloat16)
  np.save(folder / 'label_embeddings.npy', rows.view('V2'))
  shutil.rmtree(folder / 'scann', ignore_errors=True)
  about = json.loads((folder / 'lmtx.json').read_text())
  (folder / 'lmtx.json').write_text(json.dumps(about | {'index': 'exact'}))
  add_labels(tagger, POOL[:2])
  state = open_labels(tagger.folder)
  assert state.embeddings.dtype == jnp.bfloat16
  np.testing.assert_array_equal(state.embeddings[:24], rows)


@pytest.mark.skipif(not is_installed(), reason='ScaNN has no build here')
def test_labels_that_become_many_get_an_index(tagger, monkeypatch):
  folder = pathlib.Path(tagger.folder)
  shutil.rmtree(folder / 'scann')
  about = json.loads((folder / 'lmtx.json').read_text())
  (folder / 'lmtx.json').write_text(json.dumps(about | {'index': 'exact'}))
  monkeypatch.setattr(bundle_labels, 'BRUTE_FORCE_BELOW', 26)
  add_labels(tagger, POOL[:1])
  assert isinstance(open_labels(folder).index, ExactIndex)
  add_labels(tagger, POOL[1:2])
  assert isinstance(open_labels(folder).index, ScannIndex)


def test_an_older_bundle_can_be_changed(tagger):
  path = pathlib.Path(tagger.folder) / 'lmtx.json'
  about = json.loads(path.read_text())
  del about['label_folder'], about['index']
  path.write_text(json.dumps(about | {'format': 2, 'version': '0.0'}))
  tagger.state = open_labels(tagger.folder)
  add_labels(tagger, POOL[:1])
  now = json.loads(path.read_text())
  assert now['format'] == FORMAT
  assert now['version'] != '0.0'
  assert len(open_labels(tagger.folder)) == 25


@pytest.mark.parity
def test_sentence_transformers_still_loads_it(tagger):
  library = pytest.importorskip('sentence_transformers')
  add_labels(tagger, POOL[:1])
  add_labels(tagger, POOL[1:2])
  model = library.SentenceTransformer(tagger.folder, device='cpu')
  np.testing.assert_allclose(
    model.encode([POOL[1].title])[0],
    open_labels(tagger.folder).embeddings[-1],
    atol=1e-5,
  )


class TestRefused:
  @pytest.fixture(autouse=True)
  def unchanged(self, tagger):
    yield
    assert len(open_labels(tagger.folder)) == 24
    assert not [n for n in os.listdir(tagger.folder) if 'labels_' in n]

  def test_a_uid_that_exists(self, tagger):
    with pytest.raises(
      LabelExistsError, match=r"^x:2: label uid 'L3' is in the bundle already$"
    ):
      labels = [POOL[0], Record('L3', 'x', '')]
      add_labels(tagger, labels, ['x:1', 'x:2'])

  def test_a_uid_that_comes_twice(self, tagger):
    with pytest.raises(LabelExistsError, match=r"'new-0' is at x:1 already$"):
      add_labels(tagger, [POOL[0], POOL[1], POOL[0]], ['x:1', 'x:2', 'x:3'])

  def test_a_label_without_text(self, tagger):
    with pytest.raises(UserError, match=r"^label 'e': .* has no text$"):
      add_labels(tagger, [POOL[0], Record('e', ' ', 'content')])

  def test_an_unknown_uid(self, tagger):
    with pytest.raises(UnknownLabelError, match=r"no label 'none' in"):
      remove_labels(tagger.folder, ['L1', 'none'])

  def test_a_uid_to_remove_twice(self, tagger):
    with pytest.raises(UnknownLabelError, match=r'comes twice'):
      remove_labels(tagger.folder, ['L1', 'L1'])

  def test_the_last_label(self, tagger):
    with pytest.raises(LastLabelError, match='these are all 24'):
      remove_labels(tagger.folder, [f'L{i}' for i in range(24)])

  def test_nothing(self, tagger):
    add_labels(tagger, [])
    remove_labels(tagger.folder, [])

  def test_no_bundle(self, tmp_path):
    with pytest.raises(UserError, match=r'no lmtx\.json'):
      remove_labels(str(tmp_path), ['a'])


@pytest.mark.parametrize('is_locked_before', [False, True])
def test_a_read_only_bundle(opened, bundle, is_locked_before):
  # Root may write anything: here it is nobody for a moment.
  with tempfile.TemporaryDirectory() as temporary:
    folder = os.path.join(temporary, 'bundle')
    shutil.copytree(bundle, folder)
    os.chmod(temporary, 0o755)
    for path in (pathlib.Path(folder), *pathlib.Path(folder).rglob('*')):
      path.chmod(0o555 if path.is_dir() else 0o444)
    if is_locked_before:
      lock = pathlib.Path(folder, '.labels.lock')
      os.chmod(folder, 0o755)
      lock.touch()
      lock.chmod(0o666)
      os.chmod(folder, 0o555)
    is_root = os.geteuid() == 0
    if is_root:
      os.seteuid(65534)
    try:
      with pytest.raises(
        ReadOnlyError, match='labels cannot be changed here: Permission denied'
      ):
        remove_labels(folder, ['L1'])
      assert len(open_labels(folder)) == 24
    finally:
      if is_root:
        os.seteuid(0)
      os.chmod(folder, 0o755)
      for path in pathlib.Path(folder).rglob('*'):
        path.chmod(0o755)
