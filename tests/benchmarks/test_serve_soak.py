"""What the soak calls a right answer, and what it tells of memory."""

import pytest

from tests.benchmarks import predict
from tests.benchmarks.serve_soak import Service, Soak, memory_facts


def answer(*labels):
  rows = [{'uid': uid, 'score': score} for uid, score in labels]
  return {'results': [{'uid': '1', 'labels': rows}]}


EXPECTED = answer(('a', 0.9), ('b', 0.5), ('c', 0.2))


@pytest.mark.parametrize(
  ('found', 'is_right'),
  [
    (EXPECTED, True),
    (answer(('a', 0.9), ('b', 0.5)), False),
    (answer(('a', 0.9), ('b', 0.5), ('b', 0.5)), False),
    (answer(('a', 0.9), ('b', 0.4), ('c', 0.2)), False),
    (answer(('a', 0.9), ('soak-1', 0.6), ('b', 0.5)), True),
    (answer(('a', 0.9), ('soak-0', 0.6), ('b', 0.5)), False),  # is gone
    (answer(('a', 0.9), ('soak-2', 0.6), ('b', 0.5)), False),  # comes later
    (answer(('a', 0.9), ('soak-3', 0.6), ('b', 0.5)), False),  # never there
  ],
)
def test_right_answers(found, is_right):
  soak = Soak(Service('', 0.0), [], [EXPECTED])
  soak._label_times = {'soak-0': [0, 4], 'soak-1': [3, 6], 'soak-2': [7]}
  assert soak._is_right(found, 0, (5, 6)) == is_right


def test_memory_of_the_second_half():
  looks = [(60 * i, (100 if i < 3 else 50 + i) * 2**20) for i in range(6)]
  assert memory_facts(looks) == pytest.approx(
    {'min_rss_mib': 53, 'max_rss_mib': 55, 'rss_mib_a_minute': 1}
  )


def test_the_slope_is_that_of_the_last_two_sizes(monkeypatch):
  peaks = iter([(100, 1.0), (900, 2.0), (920, 4.0)])
  monkeypatch.setattr(predict, '_peak', lambda *_: next(peaks))
  found = predict.slope(predict.PredictBenchmarkConfig(), [1, 10, 20])
  assert (found['bytes_a_line'], found['lines_s']) == (2.0, 5)
