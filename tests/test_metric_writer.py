"""Rows of metrics.jsonl, and those that a resumed training does again."""

import json
import os

import pytest

from lmtx_jax.metric_writer import MetricWriter


@pytest.fixture
def writer(tmp_path):
  made = MetricWriter(str(tmp_path))
  yield made
  made.close()


def rows(folder):
  with open(folder / 'metrics.jsonl', encoding='utf-8') as f:
    return [json.loads(line) for line in f]


def places(folder):
  return [(row['cycle'], row['step']) for row in rows(folder)]


def test_a_row_has_its_scalars_and_none_is_left_out(tmp_path, writer):
  writer.write(2, 30, {'test/P@1': 41.5, 'test/PSP@1': None})
  (row,) = rows(tmp_path)
  assert row.pop('time_s') >= 0
  assert row == {'cycle': 2, 'step': 30, 'test/P@1': 41.5}


def test_another_writer_goes_on_with_the_file(tmp_path, writer):
  writer.write(0, 0, {'train/loss': 1.0})
  other = MetricWriter(str(tmp_path))
  other.write(0, 10, {'train/loss': 0.5})
  other.close()
  assert places(tmp_path) == [(0, 0), (0, 10)]


def test_rewind_forgets_later_training_rows_of_its_cycle_alone(
  tmp_path, writer
):
  for cycle in (-1, 0, 1):
    writer.write(cycle, 0, {'teach/yes_rate': 0.5})
    for step in (0, 10, 20):
      writer.write(cycle, step, {'train/loss': 1.0})
    writer.write(cycle, 20, {'dev/P@1': 50.0})
  writer.rewind(0, 10)
  expected = [(c, s) for c in (-1, 0, 1) for s in (0, 0, 10, 20, 20)]
  expected.remove((0, 10))
  expected.remove((0, 20))
  assert sorted(places(tmp_path)) == sorted(expected)
  assert sum('dev/P@1' in row for row in rows(tmp_path)) == 3


@pytest.mark.parametrize('before', ['', '{"cycle": 0, "step": 0}\n'])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path, before):
  (tmp_path / 'metrics.jsonl').write_text(before + '{"cycle": 0, "st')
  writer = MetricWriter(str(tmp_path))
  writer.write(0, 10, {'dev/P@1': 50.0})
  writer.rewind(0, 10)
  writer.close()
  assert places(tmp_path) == [(0, 0)] * bool(before) + [(0, 10)]


def test_rewind_without_a_file(tmp_path, writer):
  writer.rewind(0, 0)
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_tensorboard_gets_events(tmp_path, writer):
  writer.write(0, 0, {'train/loss': 1.0})
  writer.close()
  (name,) = os.listdir(tmp_path / 'tensorboard')
  assert b'train/loss' in (tmp_path / 'tensorboard' / name).read_bytes()
