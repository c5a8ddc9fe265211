"""Tagging documents with a bundle, from the command line."""

import csv
import functools
import gzip
import io
import json
import os
import pathlib
import signal
import subprocess

from absl import logging
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from run_fixtures import (
  NUM_LABELS,
  call,
  made_corpus,
  read_jsonl,
  spawn,
  succeed,
  write_jsonl,
)

from lmtx_jax import predict
from lmtx_jax.bundle import Bundle
from lmtx_jax.documents import read_blocks
from lmtx_jax.prediction_file import PredictionFile, csv_text
from lmtx_jax.types import Record

DOCUMENTS = [
  {'uid': str(i), 'title': d['title'], 'content': d['content'] * (1 + i % 5)}
  for i, d in enumerate(made_corpus()['tst'])
]


FIRST = '{"uid": "a", "title": ""}'


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
      {'content': None},
      {'uid': 'blank', 'title': ' ', 'content': '\n\t\u200b'},
      {'uid': 'é', 'title': '標題 🎈', 'content': 'naïve\u2028\u0000 text'},
      {'uid': 5, 'title': 'only a title'},
      {'uid': 'long', 'content': 'word ' * 50_000},
    ],
  )
  uids = ['1', 'empty', '3', 'blank', 'é', '5', 'long']
  assert [r['uid'] for r in rows] == uids
  for row in rows:  # nothing is told of a document without text
    empty = row['uid'] in ('empty', '3', 'blank')
    assert len(row['labels']) == (0 if empty else 10)
    assert np.isfinite([label['score'] for label in row['labels']]).all()


def test_more_labels_than_there_are(flags, tmp_path):
  rows = tag(flags, tmp_path, DOCUMENTS[:2], '--top_k=1000')
  assert [len(row['labels']) for row in rows] == [NUM_LABELS] * 2


@pytest.mark.parametrize(
  ('lines', 'message', 'answered'),
  [
    (f'{FIRST}\n{{"uid": \n', 'docs.jsonl:2: not JSON', ['a']),
    (f'{FIRST}\n[]\n', 'docs.jsonl:2: not a JSON object', ['a']),
    ('{"content": 3}\n', 'docs.jsonl:1: content is not a string', []),
    (f'{FIRST}\n\n', 'docs.jsonl:2: not JSON: an empty line', ['a']),
    (f'{FIRST}\n\xff\n', 'docs.jsonl:2: not UTF-8', ['a']),
    ('', 'docs.jsonl: is empty', []),
  ],
)
def test_a_bad_line_is_named_and_the_output_stays(
  flags, tmp_path, lines, message, answered
):
  (tmp_path / 'docs.jsonl').write_bytes(lines.encode('latin-1'))
  (tmp_path / 'tags.jsonl').write_text('precious\n')
  result = call('predict', *flags)
  assert result.code == 1
  assert message in result.error
  assert (tmp_path / 'tags.jsonl').read_text() == 'precious\n'
  # What was answered before it waits for the same command.
  partials = [*tmp_path.glob('tags.jsonl.partial-*')]
  assert [row['uid'] for f in partials for row in read_jsonl(f)] == answered


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


def test_the_output_must_not_be_the_input(flags, tmp_path):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:1])
  before = (tmp_path / 'docs.jsonl').read_bytes()
  (tmp_path / 'link').symlink_to(tmp_path / 'docs.jsonl')
  for name in ('docs.jsonl', 'link'):
    result = call('predict', *flags, f'--output={tmp_path / name}')
    assert result.error.endswith('is the --input')
  assert (tmp_path / 'docs.jsonl').read_bytes() == before


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'xc'])
def test_many_labels_a_document_are_handled_by_and_by(
  flags, tmp_path, monkeypatch, kind
):
  write_with_bad_lines(tmp_path / 'docs.jsonl')
  flags = (*flags, f'--format={kind}', '--on_error=skip', '--top_k=999')
  output = tmp_path / 'tags.jsonl'
  succeed('predict', *flags)
  expected = output.read_text()
  monkeypatch.setattr(predict, '_FOUND', 7 * NUM_LABELS)
  monkeypatch.setattr(predict, '_TOLD', 2 * NUM_LABELS)
  succeed('predict', *flags)
  assert len(output.read_text()) > 100 * len(DOCUMENTS)
  if kind == 'jsonl':
    rows = [json.loads(line) for line in expected.splitlines()]
    check_close(read_jsonl(output), rows)
  else:
    assert len(output.read_text().splitlines()) == len(expected.splitlines())


def check_close(found, expected):
  """The same labels; scores may differ in the last digit."""
  for a, b in zip(found, expected, strict=True):
    assert (a['uid'], a.get('error')) == (b['uid'], b.get('error'))
    scores = {label['uid']: label['score'] for label in b.get('labels', ())}
    assert len(a.get('labels', ())) == len(scores)
    for label in a.get('labels', ()):
      assert label['score'] == pytest.approx(scores[label['uid']], abs=3e-6)


def test_writes_plain_json(flags, tmp_path):
  tag(flags, tmp_path, [{'uid': 'ü', 'content': 'x'}])
  line = (tmp_path / 'tags.jsonl').read_text(encoding='utf-8')
  assert '"ü"' in line
  assert json.loads(line).keys() == {'uid', 'labels'}


BAD = ['{"uid": ', '[]', '{"title": 3}', '', '\xff', '{"uid": true}', '{}']


def write_with_bad_lines(path):
  """Documents with a bad line behind each of the first; their numbers."""
  lines, bad = [], []
  for i, document in enumerate(DOCUMENTS):
    lines.append(json.dumps(document).encode())
    if i < len(BAD):
      lines.append(BAD[i].encode('latin-1'))
      bad.append(len(lines))
  path.write_bytes(b'\n'.join(lines) + b'\n')
  return bad


def test_bad_lines_are_answered_too(flags, tmp_path):
  bad = write_with_bad_lines(tmp_path / 'docs.jsonl')
  succeed('predict', *flags, '--on_error=skip')
  rows = read_jsonl(tmp_path / 'tags.jsonl')
  assert len(rows) == len(DOCUMENTS) + len(BAD)
  for number in bad:
    row = rows[number - 1]
    assert row.keys() == {'uid', 'error'}
    assert row['uid'] is None
    assert f'docs.jsonl:{number}: ' in row['error']
  good = [row for row in rows if row['uid'] is not None]
  assert good == tag(flags, tmp_path, DOCUMENTS)


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'xc'])
def test_bad_lines_are_logged(flags, tmp_path, monkeypatch, kind):
  bad = write_with_bad_lines(tmp_path / 'docs.jsonl')
  said = []
  monkeypatch.setattr(
    logging, 'warning', lambda text, *args: said.append(text % args)
  )
  succeed('predict', *flags, '--on_error=skip', f'--format={kind}')
  *told, last = said
  assert len(told) == 5
  for number, line in zip(bad, told, strict=False):
    assert line.startswith('skipped: ')
    assert f'docs.jsonl:{number}: ' in line
  assert last == f'{len(BAD)} lines are no documents: skipped'


@pytest.mark.parametrize(('kind', 'line'), [('csv', '1,a,,,,,'), ('xc', '')])
def test_documents_without_text_have_no_labels(flags, tmp_path, kind, line):
  (tmp_path / 'docs.jsonl').write_text(f'{FIRST}\n')
  succeed('predict', *flags, f'--format={kind}')
  assert (tmp_path / 'tags.jsonl').read_text().splitlines()[1] == line


def test_nothing_but_bad_lines(flags, tmp_path):
  (tmp_path / 'docs.jsonl').write_text('{\n[]\n')
  succeed('predict', *flags, '--on_error=skip')
  rows = read_jsonl(tmp_path / 'tags.jsonl')
  assert [row['uid'] for row in rows] == [None, None]


def test_csv(flags, tmp_path):
  rows = tag(flags, tmp_path, DOCUMENTS[:8], '--top_k=3', '--min_score=0.3')
  odd = [{**DOCUMENTS[0], 'uid': 'a "b",\nc'}, *DOCUMENTS[1:8]]
  write_jsonl(tmp_path / 'docs.jsonl', odd)
  with open(tmp_path / 'docs.jsonl', 'a') as f:
    f.write('{}x\n')
  output = tmp_path / 'tags.csv'
  succeed(
    *('predict', *flags, f'--output={output}', '--format=csv', '--top_k=3'),
    *('--min_score=0.3', '--on_error=skip'),
  )
  with open(output, newline='') as f:
    found = list(csv.DictReader(f))
  by_line = {}
  for row in found:
    by_line.setdefault(int(row['line']), []).append(row)
  assert [*by_line] == [*range(1, 10)]
  assert by_line[1][0]['uid'] == odd[0]['uid']
  assert ':9: not JSON' in by_line[9][0]['error']
  for expected, (_, told) in zip(rows, by_line.items(), strict=False):
    labels = [row for row in told if row['rank']]
    assert [int(row['rank']) for row in labels] == [
      *range(1, 1 + len(expected['labels']))
    ]
    assert [(row['label'], row['title']) for row in labels] == [
      (label['uid'], label['title']) for label in expected['labels']
    ]
    assert [float(row['score']) for row in labels] == [
      label['score'] for label in expected['labels']
    ]
  assert any(len(row['labels']) < 3 for row in rows)


@pytest.mark.parametrize('end', ['', '.gz'])
def test_xc(flags, tmp_path, end):
  documents = [*DOCUMENTS[:8], 'bad']
  rows = tag(flags, tmp_path, DOCUMENTS[:8], '--top_k=3', '--min_score=0.3')
  write_jsonl(tmp_path / 'docs.jsonl', documents)
  output = tmp_path / f'tags.txt{end}'
  succeed(
    *('predict', *flags, f'--output={output}', '--format=xc', '--top_k=3'),
    *('--min_score=0.3', '--on_error=skip'),
  )
  opener = gzip.open if end else open
  with opener(output, 'rt') as f:
    head, *lines = f.read().splitlines()
  assert head == f'9 {NUM_LABELS}'
  assert lines.pop() == ''
  for line, row in zip(lines, rows, strict=True):
    pairs = [word.split(':') for word in line.split()]
    assert [f'L{label}' for label, _ in pairs] == [
      label['uid'] for label in row['labels']
    ]
    assert [float(score) for _, score in pairs] == [
      label['score'] for label in row['labels']
    ]


@pytest.mark.parametrize('score', ['0.5', '2', '-inf', '-1'])
def test_lowest_score(flags, tmp_path, score):
  every = tag(flags, tmp_path, DOCUMENTS[:9])
  rows = tag(flags, tmp_path, DOCUMENTS[:9], f'--min_score={score}')
  for row, whole in zip(rows, every, strict=True):
    assert row['labels'] == [
      label for label in whole['labels'] if label['score'] >= float(score)
    ]


def test_a_score_that_is_no_number(flags, tmp_path):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:1])
  result = call('predict', *flags, '--min_score=nan')
  assert result.error == 'error: --min_score=nan is no number'


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'xc'])
@pytest.mark.parametrize('blocks_done', [0, 1, 3])
def test_the_same_command_goes_on(
  flags, tmp_path, monkeypatch, kind, blocks_done
):
  """Stopped at some block, its last line cut: ends as if never stopped."""
  write_with_bad_lines(tmp_path / 'docs.jsonl')
  flags = (*flags, f'--format={kind}', '--on_error=skip', '--top_k=3')
  monkeypatch.setattr(
    predict,
    'read_blocks',
    functools.partial(read_blocks, max_documents=7),
  )
  succeed('predict', *flags)
  whole = (tmp_path / 'tags.jsonl').read_bytes()
  (tmp_path / 'tags.jsonl').unlink()
  with monkeypatch.context() as m:
    embed = Bundle.embed
    count = iter(range(100))

    def until(*args):
      if next(count) == blocks_done:
        raise OSError(28, 'No space left on device')
      return embed(*args)

    m.setattr(Bundle, 'embed', until)
    assert call('predict', *flags).code == 1
  partials = [*tmp_path.glob('*.partial-*')]
  assert len(partials) == (blocks_done > 0)
  for partial in partials:
    assert len(partial.read_bytes()) > 100
    os.truncate(partial, partial.stat().st_size - 9)
  seen = []
  monkeypatch.setattr(
    predict,
    'read_blocks',
    lambda *args, **kwargs: (
      seen.append(kwargs['answered'])
      or read_blocks(*args, **kwargs, max_documents=7)
    ),
  )
  succeed('predict', *flags)
  assert (tmp_path / 'tags.jsonl').read_bytes() == whole
  assert not [*tmp_path.glob('*.partial-*')]
  assert seen == [max(0, 7 * blocks_done - 1)]


@pytest.mark.parametrize(
  'change', ['--top_k=4', '--noresume', '--min_score=0.1', 'input']
)
def test_another_command_starts_anew(flags, tmp_path, change):
  (tmp_path / 'docs.jsonl').write_text(json.dumps(DOCUMENTS[0]) + '\n{\n')
  assert call('predict', *flags).code == 1
  (partial,) = tmp_path.glob('*.partial-*')
  partial.write_text('{"uid": "left behind"}\n')
  if change == 'input':
    write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:3])
    change = '--resume'
  succeed('predict', *flags, '--on_error=skip', change)
  rows = read_jsonl(tmp_path / 'tags.jsonl')
  assert rows[0]['uid'] == DOCUMENTS[0]['uid']
  assert not [*tmp_path.glob('*.partial-*')]


def test_two_commands_never_write_one_output(flags, tmp_path):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS[:1])
  output = str(tmp_path / 'tags.jsonl')
  with PredictionFile(output, 'jsonl', 'a' * 64, resume=True) as held:
    result = call('predict', *flags)
    assert f'another command writes --output={output}' in result.error
    held.write('{}\n')
    held.finish(1, 1)
  assert (tmp_path / 'tags.jsonl').read_text() == '{}\n'


def test_compressed_output_is_the_same_each_time(flags, tmp_path):
  plain = tag(flags, tmp_path, DOCUMENTS[:5])
  output = tmp_path / 'tags.jsonl.gz'
  succeed('predict', *flags, f'--output={output}')
  first = output.read_bytes()
  assert [json.loads(x) for x in gzip.decompress(first).splitlines()] == plain
  succeed('predict', *flags, f'--output={output}')
  assert output.read_bytes() == first


def test_standard_input_and_output(flags, tmp_path):
  expected = tag(flags, tmp_path, DOCUMENTS[:5])
  process = spawn(
    *('predict', *flags, '--input=-', '--output=-'), stdin=subprocess.PIPE
  )
  text = (tmp_path / 'docs.jsonl').read_text() + '{\n'
  out, err = process.communicate(text, timeout=120)
  assert [json.loads(line) for line in out.splitlines()] == expected
  assert err.splitlines()[-1].startswith('error: standard input:6: not JSON')
  assert process.returncode == 1


def test_a_signal_ends_it_while_it_waits_for_a_pipe(flags):
  process = spawn(
    *('predict', *flags, '--input=-', '--output=-'), stdin=subprocess.PIPE
  )
  while 'tag:' not in (process.stderr.readline(5) or 'tag:'):
    pass
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 143
  assert 'Fatal' not in err
  assert 'Traceback' not in err


@given(
  st.lists(
    st.tuples(st.text(max_size=4), st.lists(st.text(max_size=4), max_size=3)),
    min_size=1,
    max_size=4,
  )
)
def test_any_text_goes_through_csv(documents):
  rows = [
    {
      'uid': uid,
      'labels': [{'uid': t, 'title': t, 'score': 0.5} for t in titles],
    }
    for uid, titles in documents
  ]
  read = list(csv.reader(io.StringIO(csv_text(1, rows), newline='')))
  assert read == [
    [str(number), uid, *cells, '']
    for number, (uid, titles) in enumerate(documents, 1)
    for cells in (
      [[str(i), t, t, '0.5'] for i, t in enumerate(titles, 1)] or [[''] * 4]
    )
  ]


def test_whoever_reads_may_stop(flags, tmp_path):
  write_jsonl(tmp_path / 'docs.jsonl', DOCUMENTS)
  process = spawn('predict', *flags, '--output=-')
  process.stdout.close()
  process.wait(120)
  err = process.stderr.read()
  assert err.splitlines()[-1] == (
    'error: --output=-: whoever read it has stopped'
  )
