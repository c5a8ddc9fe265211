"""Scoring a bundle from the command line."""

import json

import pytest
from run_fixtures import call, made_corpus, succeed, write_corpus


@pytest.fixture
def flags(bundle, data_dir, cache):
  return (
    f'--bundle={bundle}',
    f'--data_dir={data_dir}',
    f'--data_cache={cache}',
  )


def test_scores_are_those_of_the_summary(flags, trained, tmp_path):
  output = tmp_path / 'scores.json'
  printed = succeed('evaluate', *flags, f'--output={output}').out
  result = json.loads(output.read_text())
  assert json.loads(printed) == result
  summary = json.loads((trained / 'summary.json').read_text())
  assert result['scores'] == pytest.approx(summary['test'], abs=1e-9)
  assert (result['split'], result['documents']) == ('test', 40)


def test_training_documents(flags):
  result = json.loads(succeed('evaluate', *flags, '--split=train').out)
  assert result['documents'] == 90
  assert result['scores']['P@1'] > 60


def test_another_label_set(flags, tmp_path):
  corpus = made_corpus()
  corpus['lbl'][3]['uid'] = 'other'
  folder = write_corpus(tmp_path / 'renamed', corpus)
  result = call('evaluate', *flags, f'--data_dir={folder}')
  assert result.code == 1
  assert "label 3 is 'L3', in the dataset it is 'other'" in result.error


def test_a_label_set_of_another_size(flags, tmp_path):
  corpus = made_corpus()
  corpus['lbl'].append({'uid': 'more', 'title': 'more'})
  folder = write_corpus(tmp_path / 'larger', corpus)
  result = call('evaluate', *flags, f'--data_dir={folder}')
  assert result.code == 1
  assert '24 labels, the dataset 25' in result.error


@pytest.mark.parametrize(
  ('more', 'code', 'message'),
  [
    (['--bundle='], 1, '--bundle is not set'),
    (['--bundle=/none'], 1, '--bundle=/none: there is no such folder'),
    (['--data_dir='], 1, 'neither --dataset nor --data_dir'),
    (['--dataset=eurlex4k'], 1, 'are both set'),
    (['--data_dir=', '--dataset=eurlex5k'], 1, '--dataset=eurlex5k: unknown'),
    (['--split=dev'], 2, '--split=dev'),
  ],
)
def test_wrong_flags(flags, more, code, message):
  result = call('evaluate', *flags, *more)
  assert result.code == code
  assert message in result.error


def test_output_never_takes_the_place_of_a_folder(flags, tmp_path):
  (tmp_path / 'precious').touch()
  result = call('evaluate', *flags, f'--output={tmp_path}')
  assert result.code == 1
  assert '"scores"' in result.out  # what was worked out is not lost
  assert (tmp_path / 'precious').exists()
