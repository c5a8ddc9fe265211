"""What a report reads, counts and tabulates."""

import re

import numpy as np
import pytest
from report_fixtures import write_artifacts

from lmtx_jax.reporting import page
from lmtx_jax.reporting.cycle_table import (
  headline,
  score_table,
  teaching_table,
)
from lmtx_jax.reporting.documents import of_flags
from lmtx_jax.reporting.examples import Example, Tag
from lmtx_jax.reporting.frequencies import count
from lmtx_jax.reporting.metric_log import read_log, thinned
from lmtx_jax.reporting.record import read_record
from lmtx_jax.reporting.verdicts import StoredVerdicts
from lmtx_jax.types import Ragged, Record


class TestThinned:
  def test_few_points_stay_as_they_are(self):
    curve = thinned([(20, 2.0), (0, 5.0), (10, 3.0)])
    assert curve.steps.tolist() == [0, 10, 20]
    assert curve.mean.tolist() == [5, 3, 2]
    assert curve.low.tolist() == curve.high.tolist() == [5, 3, 2]

  @pytest.mark.parametrize('num_points', [299, 300, 301, 599, 12345])
  def test_many_become_few(self, num_points):
    values = np.random.default_rng(0).random(num_points)
    curve = thinned(list(enumerate(values)))
    assert len(curve.mean) == min(num_points, 300)
    assert (np.diff(curve.steps) > 0).all()
    assert (curve.low <= curve.mean).all()
    assert (curve.mean <= curve.high).all()
    assert curve.low.min() == values.min()
    assert curve.high.max() == values.max()


class TestReadLog:
  def test_no_file(self, tmp_path):
    log, broken = read_log(str(tmp_path / 'metrics.jsonl'))
    assert (log.losses, log.asking, broken) == ({}, {}, [])

  def test_infinite_losses_and_other_numbers(self, tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(
      '{"cycle": 0, "step": 0, "train/loss": 1.5}\n'
      '{"cycle": 0, "step": 1, "train/loss": NaN}\n'
      '{"cycle": 0, "step": 2, "train/loss": "1"}\n'
      '{"cycle": 0, "step": 0, "test/P@1": 7}\n'
      '\n'
      '{"cycle": 0, "step": 3, "train/loss": 1'
    )
    log, broken = read_log(str(path))
    assert log.losses[0].mean.tolist() == [1.5]
    assert broken == [5, 6]


class TestFrequencies:
  LABELS = np.array([[0, 1, 2], [0, 2, -1], [3, 0, 1]], np.int32)

  def test_as_many_as_are_true(self):
    truth = Ragged.from_rows([[0], [1, 2], []])
    found = count(self.LABELS, truth, 5)
    assert found.predicted.tolist() == [2, 0, 1, 0, 0]
    assert found.true.tolist() == [1, 1, 1, 0, 0]
    assert found.bins() == [('0', 0, 0), ('1+', 3, 3)]

  def test_more_are_true_than_kept(self):
    truth = Ragged.from_rows([[0, 1, 2, 3], [], []])
    found = count(self.LABELS, truth, 5)
    assert found.predicted.sum() == 3
    assert found.rule.endswith('3 at most')

  def test_no_truth(self):
    found = count(self.LABELS, None, 5)
    assert found.true is None
    assert found.predicted.tolist() == [3, 2, 2, 1, 0]

  def test_bins_hold_every_pair(self):
    rng = np.random.default_rng(0)
    rows = [rng.choice(40, 3, replace=False, p=P) for _ in range(500)]
    labels = rng.integers(0, 40, (500, 10)).astype(np.int32)
    found = count(labels, Ragged.from_rows(rows), 40)
    names, true, predicted = zip(*found.bins(), strict=True)
    assert sum(true) == 1500
    assert sum(predicted) == 1500
    assert names[:4] == ('0', '1', '2-3', '4-7')


P = 1 / np.arange(1, 41) ** 1.5
P /= P.sum()


class TestTables:
  @pytest.fixture
  def record(self, tmp_path):
    return read_record(write_artifacts(tmp_path / 'run', cycles=3))

  def test_scores(self, record):
    heads, rows = score_table(record)
    assert heads == ['dev P@1', 'P@1', 'P@5', 'R@10', 'R@100', 'seconds']
    assert [row.name for row in rows] == ['start', '0', '1', '2']
    assert [row.is_best for row in rows] == [False, False, False, True]
    assert rows[1].cells == ('50.0', '30.0', '15.0', '35.0', '90.0', '12')
    assert rows[0].cells[0] == ''

  def test_teaching(self, record):
    heads, rows = teaching_table(record)
    assert 'quality' not in heads
    assert [row.name for row in rows] == ['0', '1', '2']
    assert rows[0].cells[0] == '25.0'

  def test_headline(self, record):
    tiles = headline(record)
    assert tiles['P@1, test'] == '29.0 \u2192 32.0'
    assert tiles['best cycle so far'] == '2'
    assert tiles['pairs asked'] == f'{3 * 4007:,}'
    assert tiles['time'] == '48 s'

  def test_the_first_of_equal_dev_scores_is_best(self, record):
    for cycle in record.cycles:
      cycle.dev['p@1'] = 7.0
    assert record.best_cycle == 0

  def test_a_summary_is_believed(self, tmp_path):
    path = write_artifacts(tmp_path / 'run', cycles=3)
    (tmp_path / 'run' / 'summary.json').write_text(
      '{"best_cycle": 1, "stopped_because": "x"}'
    )
    record = read_record(path)
    assert record.best_cycle == record.final.number == 1
    assert record.state == 'finished: x'


class TestStoredVerdicts:
  def test_no_store(self, tmp_path):
    store = StoredVerdicts(str(tmp_path), '', None)
    assert store.read(['a', 'b'], [['x'], []]) == [[None], []]

  def test_the_threshold_decides(self, trained):
    record = read_record(str(trained))
    found = of_flags(record.flags, record.header['data'])
    texts = [
      f'{r.title}\t{r.content}'
      for r in found.train.records(range(len(found.train)))
    ]
    labels = [r.title for r in found.labels.records(range(len(found.labels)))]
    answers = {}
    for threshold in (None, 0.0, 1.0):
      store = StoredVerdicts(str(trained), '', threshold)
      rows = store.read(texts, [labels] * len(texts))
      answers[threshold] = [v.answer for row in rows for v in row if v]
    assert len(set(map(len, answers.values()))) == 1
    assert len(answers[None]) > 100
    assert 0 < sum(answers[None]) < len(answers[None])
    assert sum(answers[1.0]) == 0
    assert sum(answers[0.0]) > sum(answers[None])


class TestBars:
  def widths(self, *scores):
    tags = [Tag(Record('l', 'label', ''), s, None, None) for s in scores]
    example = Example(Record('d', 'title', 'text'), tags, [], 0, {})
    return re.findall(r'width:(\d+)%', page._example(example))

  def test_scores_up_to_one_are_shares_of_one(self):
    assert self.widths(0.5, 0.25, -0.1) == ['50', '25', '0']

  def test_the_highest_score_above_one_is_the_whole_bar(self):
    assert self.widths(1.6, 0.8) == ['100', '50']
