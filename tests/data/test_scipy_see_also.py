"""The embedded dataset is what it says it is."""

import subprocess
import sys

import numpy as np
import pytest

from lmtx_jax.config import SourceConfig
from lmtx_jax.data.builders import load_dataset


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='module')
def data(cache):
  return load_dataset(SourceConfig(dataset='scipy_see_also', data_cache=cache))


def records(corpus):
  return corpus.records(range(len(corpus)))


def test_size(data):
  assert 3_000 < len(data.labels) < 5_000
  assert len(data.train) + len(data.test) == len(data.labels)
  lengths = np.concatenate(
    [data.train.targets.lengths, data.test.targets.lengths]
  )
  assert 1_500 < (lengths > 0).sum() < 2_300
  assert 2.3 < lengths[lengths > 0].mean() < 3.1


def test_documents_with_truth_are_split_in_halves(data):
  assert (data.test.targets.lengths > 0).all()
  kept = (data.train.targets.lengths > 0).sum()
  assert 0.8 < kept / len(data.test) < 1.25
  train, test = ({r.uid for r in records(c)} for c in (data.train, data.test))
  assert not train & test
  assert train | test == {r.uid for r in records(data.labels)}


def test_a_document_is_filtered_from_its_own_label_only(data):
  labels = [r.title for r in records(data.labels)]
  assert len(set(labels)) == len(labels)
  for corpus in (data.train, data.test):
    for i, record in enumerate(records(corpus)):
      assert [labels[j] for j in corpus.filters[i]] == [record.title]
      assert not set(corpus.filters[i]) & set(corpus.targets[i])


def test_truth_is_what_the_see_also_section_names(data):
  labels = [r.title for r in records(data.labels)]
  titles = {}
  for corpus in (data.train, data.test):
    for i, record in enumerate(records(corpus)):
      titles[record.title] = {labels[j] for j in corpus.targets[i]}
  assert titles['scipy.fft.rfft'] == {
    'scipy.fft.irfft', 'scipy.fft.fft', 'scipy.fft.fftn', 'scipy.fft.rfft2',
    'scipy.fft.rfftn',
  }  # fmt: skip
  # An alias, and a name without its module.
  assert 'numpy.linalg.eigh' in titles['numpy.linalg.eig']
  assert {'numpy.abs', 'numpy.absolute'} & titles.keys() == {'numpy.abs'}


def test_no_see_also_section_is_left_in_the_text(data):
  for corpus in (data.train, data.test):
    for record in records(corpus):
      assert 'See Also\n---' not in record.content
      assert record.content.strip()


def test_labels_are_name_and_summary(data):
  by_title = {r.title: r.content for r in records(data.labels)}
  summary = 'Singular Value Decomposition.'
  assert by_title['numpy.linalg.svd'] == summary
  assert all('\n' not in text and text for text in by_title.values())
  assert not any(title.startswith('numpy.str_.') for title in by_title)


def test_extraction_is_deterministic_and_silent(data, tmp_path):
  code = (
    'import sys; from lmtx_jax.config import SourceConfig\n'
    'from lmtx_jax.data.builders import load_dataset\n'
    'data = load_dataset(SourceConfig(dataset="scipy_see_also",'
    ' data_cache=sys.argv[1]))\nprint(data.fingerprint)'
  )
  done = subprocess.run(
    [sys.executable, '-W', 'always', '-c', code, str(tmp_path)],
    capture_output=True,
    text=True,
    check=True,
    env={'PYTHONHASHSEED': '7', 'PYTHONPATH': ':'.join(sys.path)},
  )
  assert done.stdout.strip() == data.fingerprint
  assert 'numpy' not in done.stderr
  assert 'scipy/' not in done.stderr


def test_a_second_start_extracts_nothing(data, cache, monkeypatch):
  monkeypatch.setattr('lmtx_jax.data.scipy_see_also._entries', None)
  again = load_dataset(SourceConfig(dataset='scipy_see_also', data_cache=cache))
  assert again.fingerprint == data.fingerprint
