"""The command that changes labels."""

import gzip
import json
import shutil

import pytest
from run_fixtures import call, read_jsonl, succeed, write_jsonl

NEW = [
  {'uid': 'n1', 'title': 'bada kifo', 'content': 'unused'},
  {'uid': 7, 'title': 'lumi'},
]


@pytest.fixture
def flags(bundle, cache, tmp_path):
  shutil.copytree(bundle, tmp_path / 'bundle')
  write_jsonl(tmp_path / 'new.jsonl', NEW)
  return f'--bundle={tmp_path / "bundle"}', f'--data_cache={cache}'


def listed(flags):
  out = succeed('labels', 'list', *flags).out
  return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize('end', ['', '.gz'])
def test_add_list_and_remove(flags, tmp_path, data_dir, end):
  before = [
    {'uid': r['uid'], 'title': r['title']}
    for r in read_jsonl(data_dir / 'lbl.json')
  ]
  assert listed(flags) == before
  path = tmp_path / f'new.jsonl{end}'
  if end:
    path.write_bytes(gzip.compress((tmp_path / 'new.jsonl').read_bytes()))
  succeed('labels', 'add', *flags, f'--input={path}')
  assert listed(flags)[:24] == before
  assert listed(flags)[24:] == [
    {'uid': 'n1', 'title': 'bada kifo'},
    {'uid': '7', 'title': 'lumi'},
  ]
  write_jsonl(tmp_path / 'docs.jsonl', [{'title': 'bada kifo'}])
  succeed(
    *('predict', *flags, f'--input={tmp_path / "docs.jsonl"}'),
    f'--output={tmp_path / "tags.jsonl"}',
  )
  (row,) = read_jsonl(tmp_path / 'tags.jsonl')
  assert 'n1' in [label['uid'] for label in row['labels']]
  succeed('labels', 'remove', *flags, '--uids=L0,7')
  succeed('labels', 'remove', *flags, f'--input={write_one(tmp_path, "n1")}')
  assert listed(flags) == before[1:]


def write_one(folder, uid):
  write_jsonl(folder / 'gone.jsonl', [{'uid': uid}])
  return folder / 'gone.jsonl'


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['add', '--input=FILE', '--input=none.jsonl'], '--input=none.jsonl: no'),
    (['add'], '--input is not set'),
    (['add', '--input=FILE', '--uids=a'], '--uids does not go with add'),
    (['remove'], 'set either --uids or --input'),
    (['remove', '--uids=a', '--input=FILE'], 'set either --uids or --input'),
    (['remove', '--uids=L1,none'], "--uids: there is no label 'none'"),
    (['remove', '--input=FILE'], "new.jsonl:1: there is no label 'n1'"),
    (['list', '--uids=a'], 'list takes neither'),
    ([], 'say add, remove or list; got nothing'),
    (['_add'], 'say add, remove or list; got _add'),
    (['add', 'list'], 'say add, remove or list; got add list'),
    (['list', '--bundle='], '--bundle is not set'),
    (['list', '--bundle=/none'], '--bundle=/none: there is no'),
    (['add', '--bundle=/none', '--input=FILE'], '--bundle=/none: there is no'),
  ],
)
def test_what_is_refused(flags, tmp_path, argv, message):
  argv = [x.replace('FILE', str(tmp_path / 'new.jsonl')) for x in argv]
  result = call('labels', *flags, *argv)
  assert result.code == 1
  assert message in result.error


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('{"uid": "L2", "title": "x"}', "label uid 'L2' is in the bundle already"),
    ('{"uid": "n1", "title": "x"}', 'new.jsonl:1 already'),
    ('{"uid": "x", "title": ""}', "label 'x' has no text"),
    ('{"title": "x"}', 'lacks uid'),
    ('{', 'not JSON'),
  ],
)
def test_a_bad_line_is_named_and_nothing_is_added(
  flags, tmp_path, row, message
):
  with open(tmp_path / 'new.jsonl', 'a') as f:
    f.write(f'{row}\n')
  result = call('labels', 'add', *flags, f'--input={tmp_path / "new.jsonl"}')
  assert result.code == 1
  assert message in result.error
  assert 'new.jsonl:3' in result.error
  assert len(listed(flags)) == 24
