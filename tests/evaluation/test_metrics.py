import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax.evaluation.metrics import (
  inverse_propensity,
  metrics,
  per_document,
  pseudo_label_quality,
)
from lmtx_jax.types import Ragged

KEYS = (
  'P@1 P@3 P@5 R@1 R@3 R@5 R@10 R@100 nDCG@5 PSP@1 PSP@5'.split()  # noqa: SIM905
)


def compute(labels, targets, num_labels=10, train=None, propensity=(0.55, 1.5)):
  return metrics(
    np.array(labels, np.int32),
    Ragged.from_rows(targets),
    num_labels=num_labels,
    train_targets=None if train is None else Ragged.from_rows(train),
    propensity=propensity,
  )


def test_by_hand():
  """Two documents: hits at ranks 1, 3 of 2 true; at rank 2 of 4 true."""
  scores = compute([[0, 5, 1, 6, 7], [8, 2, 9, 5, 6]], [[0, 1], [1, 2, 3, 4]])
  assert list(scores) == KEYS
  assert scores['P@1'] == pytest.approx(50)
  assert scores['P@3'] == pytest.approx(100 * (2 / 3 + 1 / 3) / 2)
  assert scores['P@5'] == pytest.approx(100 * (2 / 5 + 1 / 5) / 2)
  assert scores['R@1'] == pytest.approx(25)
  assert scores['R@3'] == pytest.approx(100 * (1 + 1 / 4) / 2)
  assert scores['R@10'] == scores['R@100'] == scores['R@5']
  first = (1 + 1 / 2) / (1 + 1 / math.log2(3))
  second = (1 / math.log2(3)) / (
    1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
  )
  assert scores['nDCG@5'] == pytest.approx(50 * (first + second))
  assert scores['PSP@1'] is None and scores['PSP@5'] is None


def test_propensity_by_hand():
  """Four training documents; label 0 on three of them, label 1 on one."""
  train = Ragged.from_rows([[0], [0], [0, 1], []])
  weights = inverse_propensity(train, 3, (0.5, 0.4))
  c = (math.log(4) - 1) * math.sqrt(1.4)
  expected = [1 + c / math.sqrt(n + 0.4) for n in (3, 1, 0)]
  np.testing.assert_allclose(weights, expected)
  scores = compute(
    [[0], [2]],
    [[0, 1], [2]],
    3,
    train=[[0], [0], [0, 1], []],
    propensity=(0.5, 0.4),
  )
  reached, best = weights[0] + weights[2], weights[1] + weights[2]
  assert scores['PSP@1'] == pytest.approx(100 * reached / best)


def test_documents_without_truth_do_not_count():
  with_them = compute([[0], [1], [2]], [[0], [], [1]])
  assert with_them == compute([[0], [2]], [[0], [1]])


def test_nothing_to_score():
  assert set(compute([[0], [1]], [[], []]).values()) == {None}
  assert compute([[0]], [[0]], train=[[], []])['PSP@1'] is None


def test_padding_is_no_label():
  """-1 must not be taken for the last label of the row above."""
  assert compute([[-1], [-1]], [[9], [0]])['P@1'] == 0


def reference(labels, targets, num_labels, train, a, b):
  """Slow and plain, straight from the definitions."""
  counts = [
    sum(label in set(row) for row in train) for label in range(num_labels)
  ]
  c = (math.log(len(train)) - 1) * (b + 1) ** a
  weight = [1 + c * (n + b) ** -a for n in counts]
  sums, num = dict.fromkeys(KEYS, 0.0), 0
  best = {1: 0.0, 5: 0.0}
  for row, true in zip(labels, targets, strict=True):
    true = set(true)
    if not true:
      continue
    num += 1
    hits = [label in true for label in row]
    for k in (1, 3, 5):
      sums[f'P@{k}'] += sum(hits[:k]) / k
    for k in (1, 3, 5, 10, 100):
      sums[f'R@{k}'] += sum(hits[:k]) / len(true)
    dcg = sum(hit / math.log2(i + 2) for i, hit in enumerate(hits[:5]))
    ideal = sum(1 / math.log2(i + 2) for i in range(min(5, len(true))))
    sums['nDCG@5'] += dcg / ideal
    for k in (1, 5):
      sums[f'PSP@{k}'] += sum(weight[x] for x in row[:k] if x in true)
      best[k] += sum(sorted((weight[x] for x in true), reverse=True)[:k])
  return {
    key: 100 * value / (best[int(key[4:])] if key[:3] == 'PSP' else num)
    for key, value in sums.items()
  }


label_rows = st.lists(st.integers(0, 14), unique=True, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
  docs=st.lists(st.tuples(label_rows, label_rows), min_size=1, max_size=6),
  train=st.lists(label_rows, min_size=3, max_size=9),
  constants=st.sampled_from([(0.55, 1.5), (0.5, 0.4), (0.6, 2.6)]),
)
def test_equal_to_the_definitions(docs, train, constants):
  width = max(1, *(len(row) for row, _ in docs)) if docs else 1
  predicted = [row + [-1] * (width - len(row)) for row, _ in docs]
  targets = [true for _, true in docs]
  scores = compute(predicted, targets, 15, train, constants)
  if not any(targets):
    assert set(scores.values()) == {None}
    return
  expected = reference([row for row, _ in docs], targets, 15, train, *constants)
  for key in KEYS:
    if not (key[:3] == 'PSP' and not any(train)):
      assert scores[key] == pytest.approx(expected[key]), key


@settings(max_examples=60, deadline=None)
@given(docs=st.lists(st.tuples(label_rows, label_rows), min_size=1, max_size=6))
def test_scores_are_means_over_documents(docs):
  width = max(1, *(len(row) for row, _ in docs)) if docs else 1
  predicted = np.array([row + [-1] * (width - len(row)) for row, _ in docs])
  targets = [true for _, true in docs]
  each = per_document(predicted, Ragged.from_rows(targets), 15)
  assert list(each) == [name for name in KEYS if name[:3] != 'PSP']
  scores = compute(predicted, targets, 15)
  for name, values in each.items():
    assert values.dtype == np.float32
    assert values.shape == (sum(map(bool, targets)),)
    if len(values):
      assert values.mean() == pytest.approx(scores[name], rel=1e-5)


def test_scores_of_each_document():
  """In the order of the documents; the one without truth is left out."""
  targets = Ragged.from_rows([[0, 1], [], [1, 2, 3, 4]])
  each = per_document(np.array([[0, 5], [1, 2], [8, 2]]), targets, 10)
  np.testing.assert_array_equal(each['P@1'], [100, 0])
  np.testing.assert_array_equal(each['R@10'], [50, 25])


def test_best_prediction_scores_100():
  targets, train = [[3, 1, 2, 0, 4], [7, 5, 6, 8, 9]], [[1], [1, 2], [3]]
  weights = inverse_propensity(Ragged.from_rows(train), 10, (0.55, 1.5))
  best = [sorted(row, key=lambda x: -weights[x]) for row in targets]
  scores = compute(best, targets, train=train)
  for key in ('P@1', 'P@5', 'R@5', 'nDCG@5', 'PSP@1', 'PSP@5'):
    assert scores[key] == pytest.approx(100)


def test_pseudo_label_quality():
  """3 of the 4 pseudo labels of judged documents are true, of 5 true ones."""
  accepted = Ragged.from_rows([[0, 1], [2, 3], [5, 6, 7], []])
  truth = Ragged.from_rows([[0, 1], [3, 4], [], [9]])
  precision, quality = pseudo_label_quality(accepted, truth, 10)
  assert (precision, quality) == (0.75, 0.6)


def test_pseudo_label_quality_of_nothing():
  none, some = Ragged.from_rows([[], []]), Ragged.from_rows([[1], [2]])
  assert pseudo_label_quality(none, some, 5) == (None, 0.0)
  assert pseudo_label_quality(some, none, 5) == (None, None)
