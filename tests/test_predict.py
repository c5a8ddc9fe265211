"""Tagging documents with a bundle, from the command line."""

import gzip
import json
import pathlib

import numpy as np
import pytest
from run_fixtures import (
  NUM_LABELS,
  call,
  made_corpus,
  read_jsonl,
  succeed,
  write_jsonl,
)

from lmtx_jax.bundle import Bundle
from lmtx_jax.types import Record

DOCUMENTS = [
  {'uid': str(i), 'title': d['title'], 'content': d['content'] * (1 + i % 5)}
  for i, d in enumerate(made_corpus()['tst'])
]


@pytest.fixture
def flags(bundle, cache, tmp_path):
  return (
    f'--bundle={bundle}',
    f'--data_cache={cache}',
    f'--input={tmp_path / "docs.jsonl"}',
    f'--output={tmp_path / "tags.jsonl"}',
  )


def tag(flags, tmp_path, documents, *more):
  write_jsonl(tmp_path / 'docs.jsonl', documents)
  succeed('predict', *flags, *more)
  return read_jsonl(tmp_path / 'tags.jsonl')


def test_keeps_the_order_and_sorts_the_scores(flags, tmp_path):
  rows = tag(flags, tmp_path, DOCUMENTS)
  assert [row['uid'] for row in rows] == [d['uid'] for d in DOCUMENTS]
  for row in rows:
    scores = [label['score'] for label in row['labels']]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert len({label['uid'] for label in row['labels']}) == 10


def test_scores_are_cosines(flags, tmp_path, bundle):
  rows = tag(flags, tmp_path, DOCUMENTS, f'--top_k={NUM_LABELS}')
  tagger = Bundle(str(bundle))
  records = [Record(d['uid'], d['title'], d['content']) for d in DOCUMENTS]
  inputs = tagger.inputs(records)
  widths = np.array([tagger.max_doc_tokens])
  documents = np.asarray(tagger.encoder.encode(inputs, widths))
  expected = documents @ np.asarray(tagger.label_embeddings).T
  np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-5)
  for row, scores in zip(rows, expected, strict=True):
    found = {label['uid']: label['score'] for label in row['labels']}
    for label, score in enumerate(scores):
      assert found[f'L{label}'] == pytest.approx(score, abs=1e-5)


def test_titles_are_the_labels(flags, tmp_path, data_dir):
  titles = {r['uid']: r['title'] for r in read_jsonl(data_dir / 'lbl.json')}
  for row in tag(flags, tmp_path, DOCUMENTS[:3]):
    for label in row['labels']:
      assert label['title'] == titles[label['uid']]


def test_tags_are_right_more_often_than_not(flags, tmp_path):
  truth = [d['target_ind'] for d in made_corpus()['tst']]
  rows = tag(flags, tmp_path, DOCUMENTS, '--top_k=1')
  hits = [
    row['labels'][0]['uid'] in {f'L{t}' for t in targets}
    for row, targets in zip(rows, truth, strict=True)
  ]
  assert np.mean(hits) > 0.6  # by chance 0.08


def test_a_document_has_the_same_tags_alone(flags, tmp_path):
  together = tag(flags, tmp_path, DOCUMENTS)[7]
  alone = tag(flags, tmp_path, [DOCUMENTS[7]])[0]
  assert [x['uid'] for x in alone['labels']] == [
    x['uid'] for x in together['labels']
  ]
  for a, b in zip(alone['labels'], together['labels'], strict=True):
    assert a['score'] == pytest.approx(b['score'], abs=1e-5)


def test_gz_is_the_same(flags, tmp_path):
  plain = tag(flags, tmp_path, DOCUMENTS[:5])
  text = (tmp_path / 'docs.jsonl').read_bytes()
  (tmp_path / 'docs.jsonl.gz').write_bytes(gzip.compress(text))
  succeed('predict', *flags, f'--input={tmp_path / "docs.jsonl.gz"}')
  assert read_jsonl(tmp_path / 'tags.jsonl') == plain


def test_odd_documents_are_tagged_too(flags, tmp_path):
  rows = tag(
    flags,
    tmp_path,
    [
      {'content': 'no uid'},
      {'uid': 'empty', 'title': '', 'content': ''},
      {},
      {'uid': 'é', 'title': '標題 🎈', 'content': 'naïve\u2028\u0000 text'},
      {'uid': 5, 'title': 'only a title'},
      {'uid': 'long', 'content': 'word ' * 50_000},
    ],
  )
  assert [r['uid'] for r in rows] == ['1', 'empty', '3', 'é', '5', 'long']
  for row in rows:
    assert len(row['labels']) == 10
    assert np.isfinite([label['score'] for label in row['labels']]).all()


def test_more_labels_than_there_are(flags, tmp_path):
  rows = tag(flags, tmp_path, DOCUMENTS[:2], '--top_k=1000')
  assert [len(row['labels']) for row in rows] == [NUM_LABELS] * 2


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    ('{"uid": "a"}\n{"uid": \n', 'docs.jsonl:2: not JSON'),
    ('{"uid": "a"}\n[]\n', 'docs.jsonl:2: not a JSON object'),
    ('{"uid": "a", "content": 3}\n', 'docs.jsonl:1: content is not a string'),
    ('{"uid": "a"}\n\n', 'docs.jsonl:2: not JSON: an empty line'),
    ('', 'docs.jsonl: is empty'),
  ],
)
def test_a_bad_line_is_named_and_nothing_is_written(
  flags, tmp_path, lines, message
):
  (tmp_path / 'docs.jsonl').write_text(lines)
  (tmp_path / 'tags.jsonl').write_text('precious\n')
  result = call('predict', *flags)
  assert result.code == 1
  assert message in result.error
  assert (tmp_path / 'tags.jsonl').read_text() == 'precious\n'
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'docs.jsonl',
    'tags.jsonl',
  ]


def test_output_never_takes_the_place_of_a_folder(flags, tmp_path):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:1])
  folder = tmp_path / 'folder'
  folder.mkdir()
  (folder / 'precious').touch()
  result = call('predict', *flags, f'--output={folder}')
  assert result.code == 1
  assert str(folder) in result.error
  assert (folder / 'precious').exists()


@pytest.mark.parametrize('name', ['bundle', 'input', 'output'])
def test_flags_that_must_be_set(flags, name):
  result = call('predict', *flags, f'--{name}=')
  assert result.code == 1
  assert result.error == f'error: --{name} is not set'


@pytest.mark.parametrize('name', ['bundle', 'input'])
def test_what_is_not_there(flags, tmp_path, name):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:1])
  result = call('predict', *flags, f'--{name}=/none/such')
  assert result.code == 1
  assert f'--{name}=/none/such' in result.error


def test_a_folder_that_cannot_be_written_to(flags, tmp_path):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:1])
  below = tmp_path / 'docs.jsonl' / 'tags.jsonl'
  result = call('predict', *flags, f'--output={below}')
  assert result.code == 1
  assert str(pathlib.Path(below).parent) in result.error


def test_writes_plain_json(flags, tmp_path):
  tag(flags, tmp_path, [{'uid': 'ü', 'content': 'x'}])
  line = (tmp_path / 'tags.jsonl').read_text(encoding='utf-8')
  assert '"ü"' in line
  assert json.loads(line).keys() == {'uid', 'labels'}
