"""The layouts in which owners distribute the named datasets."""

import gzip
import json

import numpy as np
import pytest
import scipy.sparse

from lmtx_jax.config import SourceConfig
from lmtx_jax.data import builders
from lmtx_jax.types import Record, UserError


def write(folder, files):
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith('.gz'):
      path.write_bytes(gzip.compress(content.encode()))
    else:
      path.write_text(content, encoding='utf-8')
  return folder


def prepared(slug, folder, tmp_path):
  cache = str(tmp_path / 'cache')
  builders.prepare_dataset(slug, str(folder), cache)
  return builders.load_dataset(SourceConfig(dataset=slug, data_cache=cache))


def rows(ragged):
  return [row.tolist() for row in ragged]


RAW = {
  'train_raw_texts.txt': 'Fish quotas /SEP/ cod and hake\n\n',
  'test_raw_texts.txt': 'milk prices\n',
}
MAP = 'fishery\ndairy_product\nmarket price\n'


@pytest.mark.parametrize(
  ('train', 'test'),
  [('2 0\n\n', '1\n'), ('market_price fishery\n\n', 'dairy_product\n')],
)
@pytest.mark.parametrize('map_name', ['label_map.txt', 'output-items.txt'])
def test_raw_text_with_indices_or_words(tmp_path, train, test, map_name):
  files = {**RAW, 'train_labels.txt': train, 'test_labels.txt': test}
  folder = write(tmp_path / 'raw', {**files, map_name: MAP})
  data = prepared('eurlex4k', folder, tmp_path)
  assert data.name == 'eurlex4k'
  assert data.labels.records(range(3)) == [
    Record('0', 'fishery', ''),
    Record('1', 'dairy product', ''),
    Record('2', 'market price', ''),
  ]
  assert data.train.records([0, 1]) == [
    Record('0', 'Fish quotas', 'cod and hake'),
    Record('1', '', ''),
  ]
  assert rows(data.train.targets) == [[2, 0], []]
  assert rows(data.test.targets) == [[1]]


def test_raw_text_numbers_that_are_labels_and_no_indices(tmp_path):
  files = {**RAW, 'train_labels.txt': '1984\n\n', 'test_labels.txt': '7\n'}
  folder = write(tmp_path / 'raw', {**files, 'label_map.txt': '7\n1984\n'})
  data = prepared('wiki10_31k', folder, tmp_path)
  assert rows(data.train.targets) == [[1], []]
  assert rows(data.test.targets) == [[0]]


def test_raw_text_without_a_label_map(tmp_path):
  files = {**RAW, 'train_labels.txt': 'sea cod_fish\n\n'}
  folder = write(tmp_path / 'raw', {**files, 'test_labels.txt': 'milk\n'})
  data = prepared('wiki10_31k', folder, tmp_path)
  titles = [r.title for r in data.labels.records(range(3))]
  assert titles == ['cod fish', 'milk', 'sea']
  assert rows(data.train.targets) == [[2, 0], []]
  write(folder, {'train_labels.txt': '1 2\n\n', 'test_labels.txt': '0\n'})
  with pytest.raises(UserError, match='numbers, which needs a file'):
    prepared('wiki10_31k', folder, tmp_path)


def test_xr_transformer_layout(tmp_path):
  files = {'X.trn.txt': 'a b\nc\n', 'X.tst.txt': 'd\n', 'output-items.txt': MAP}
  folder = write(tmp_path / 'xr', files)
  train = scipy.sparse.csr_matrix(
    [[0, 1.0, 1.0], [1.0, 0, 0]], dtype=np.float32
  )
  scipy.sparse.save_npz(folder / 'Y.trn.npz', train)
  scipy.sparse.save_npz(folder / 'Y.tst.npz', train[1:])
  data = prepared('eurlex4k', folder, tmp_path)
  assert rows(data.train.targets) == [[1, 2], [0]]
  assert rows(data.test.targets) == [[0]]
  (folder / 'Y.trn.npz').write_bytes(b'no matrix')
  with pytest.raises(UserError, match=r'Y\.trn\.npz: not a scipy'):
    prepared('eurlex4k', folder, tmp_path)


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'train_labels.txt': '0\n'}, r'train_labels\.txt:2: missing'),
    ({'train_labels.txt': '0\n\n1\n'}, r'train_raw_texts\.txt:3: missing'),
    ({'test_labels.txt': '3\n'}, r"test_labels\.txt:1: label '3' is neither"),
    ({'test_labels.txt': 'x y\n'}, r"test_labels\.txt:1: label 'x' is neither"),
    ({'label_map.txt': 'a\n\nc\n'}, r'label_map\.txt:2: the label has no text'),
  ],
)
def test_raw_text_mistakes(tmp_path, changed, message):
  files = {**RAW, 'train_labels.txt': '0\n\n', 'test_labels.txt': '1\n'}
  folder = write(tmp_path / 'd', {**files, 'label_map.txt': MAP, **changed})
  with pytest.raises(UserError, match=message):
    prepared('eurlex4k', folder, tmp_path)


def test_extreme_classification_repository(tmp_path):
  line = json.dumps({'uid': '9', 'title': 't', 'target_ind': [1]}) + '\n'
  labels = ''.join(
    json.dumps({'uid': str(i), 'title': f'page {i}'}) + '\n' for i in range(2)
  )
  files = {'trn.json.gz': line, 'tst.json.gz': line, 'lbl.json.gz': labels}
  folder = write(tmp_path / 'xc', {**files, 'filter_labels_test.txt': '0 0\n'})
  data = prepared('wiki500k', folder, tmp_path)
  assert rows(data.test.filters) == [[0]]
  assert data.propensity == (0.5, 0.4)


def test_repository_with_label_texts_in_a_file_of_lines(tmp_path):
  line = json.dumps({'uid': '9', 'title': 't', 'target_ind': [1]}) + '\n'
  files = {'trn.json.gz': line, 'tst.json.gz': line, 'Yf.txt': 'books\nfilms\n'}
  data = prepared('amazoncat13k', write(tmp_path / 'xc', files), tmp_path)
  assert data.labels.records([1]) == [Record('1', 'films', '')]
  assert data.propensity == (0.55, 1.5)


def eurlex57k(folder, inner):
  def document(uid, concepts):
    return json.dumps(
      {
        'celex_id': uid, 'title': f'Act {uid}', 'header': 'THE COUNCIL',
        'recitals': 'whereas', 'main_body': ['Article 1', 'Article 2'],
        'attachments': '', 'concepts': concepts,
      }
    )  # fmt: skip

  concepts = {
    '10': {'label': 'cod', 'alt_labels': ['codfish', 'morue'], 'parents': []},
    '20': {'label': 'never used', 'alt_labels': []},
    '30': {'label': 'milk', 'alt_labels': []},
    '40': {'label': 'dev only', 'alt_labels': []},
  }
  return write(
    folder,
    {
      f'{inner}train/b.json': document('B', ['30', '999']),
      f'{inner}train/a.json': document('A', ['30', '10']),
      f'{inner}train/._a.json': 'not a document',
      f'{inner}dev/c.json': document('C', ['40']),
      f'{inner}test/d.json': document('D', ['10']),
      'EURLEX57K.json': json.dumps(concepts),
    },
  )


@pytest.mark.parametrize('inner', ['', 'dataset/'])
def test_eurlex57k(tmp_path, inner):
  data = prepared('eurlex57k', eurlex57k(tmp_path / 'd', inner), tmp_path)
  assert data.labels.records(range(3)) == [
    Record('10', 'cod', 'codfish, morue'),
    Record('30', 'milk', ''),
    Record('40', 'dev only', ''),
  ]
  assert [r.uid for r in data.train.records([0, 1])] == ['A', 'B']
  assert data.train.records([0])[0].content == (
    'THE COUNCIL\nwhereas\nArticle 1\nArticle 2'
  )
  assert rows(data.train.targets) == [[1, 0], [1]]
  assert rows(data.test.targets) == [[0]]


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('train/a.json', '{', r'train/a\.json: not JSON'),
    ('test/d.json', '{"title": "t"}', r'test/d\.json: lacks celex_id'),
    ('train/b.json', '{"celex_id": "A"}', r'b\.json: duplicate uid.*a\.json'),
    (
      'EURLEX57K.json',
      '{"10": {"label": ""}}',
      r'concept 10: the label has',
    ),
  ],
)
def test_eurlex57k_mistakes(tmp_path, name, content, message):
  folder = write(eurlex57k(tmp_path / 'd', ''), {name: content})
  with pytest.raises(UserError, match=message):
    prepared('eurlex57k', folder, tmp_path)


@pytest.mark.parametrize(
  ('name', 'slug'),
  [
    ('EURLex-4K', 'eurlex4k'),
    ('eurlex-4k', 'eurlex4k'),
    ('Wiki10-31K', 'wiki10_31k'),
    ('wiki1031k', 'wiki10_31k'),
    ('LF-WikiSeeAlso-320K', 'wikiseealso320k'),
    ('LF-Wikipedia-500K', 'wiki500k'),
    ('WIKI500K', 'wiki500k'),
    ('EURLEX57K', 'eurlex57k'),
    ('scipy-see-also', 'scipy_see_also'),
  ],
)
def test_names_in_any_spelling(name, slug):
  assert builders.slug_of(name) == slug


def test_changed_files_are_converted_anew(tmp_path):
  files = {**RAW, 'train_labels.txt': '0\n\n', 'test_labels.txt': '1\n'}
  folder = write(tmp_path / 'd', {**files, 'label_map.txt': MAP})
  first = prepared('eurlex4k', folder, tmp_path)
  write(folder, {'test_raw_texts.txt': 'butter\n'})
  second = prepared('eurlex4k', folder, tmp_path)
  assert first.test.records([0])[0].content == 'milk prices'
  assert second.test.records([0])[0].content == 'butter'


def test_unknown_layout(tmp_path):
  with pytest.raises(UserError, match='no layout that is known'):
    prepared('eurlex4k', tmp_path, tmp_path)
  with pytest.raises(UserError, match='no such folder'):
    prepared('eurlex4k', tmp_path / 'none', tmp_path)
