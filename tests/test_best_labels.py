"""Lists of the best are what sorting everything at once would give."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np

from lmtx_jax.best_labels import merge, pick

SCORES = st.lists(
  st.sampled_from([-np.inf, -0.5, 0.0, 0.25, 1.0]), min_size=0, max_size=8
).map(lambda row: sorted(row, reverse=True))


@given(SCORES.filter(len), SCORES)
def test_merge_is_a_stable_sort(known, more):
  def labels(scores, first):
    return [
      first + i if score > -np.inf else -1 for i, score in enumerate(scores)
    ]

  known_labels, more_labels = labels(known, 0), labels(more, 100)
  merged = merge(
    *(
      np.array([row], dtype)
      for row, dtype in (
        (known_labels, np.int32),
        (known, np.float32),
        (more_labels, np.int32),
        (more, np.float32),
      )
    )
  )
  both = zip([*known, *more], [*known_labels, *more_labels], strict=True)
  best = sorted(both, key=lambda pair: -pair[0])[: len(known)]
  assert merged[1].tolist() == [[score for score, _ in best]]
  assert merged[0].tolist() == [[label for _, label in best]]


@settings(deadline=None)
@given(st.data())
def test_picking_block_by_block_is_a_stable_sort(data):
  """Few different scores, so that many are equal."""
  num_labels, k = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 9))
  k = min(k, num_labels)
  found = data.draw(
    arrays.arrays(
      np.float32, (3, num_labels), elements=st.integers(-3, 3).map(float)
    )
  )
  block, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
  block *= size
  labels = np.full((3, k), -1, np.int32)
  scores = np.full((3, k), -np.inf, np.float32)
  for start in range(0, num_labels, block):
    part = found[:, start : start + block]
    part = np.pad(
      part, ((0, 0), (0, block - part.shape[1])), constant_values=-np.inf
    )
    maxima = part.reshape(3, -1, size).max(axis=2)
    pick(labels, scores, part, maxima, start)
  order = np.argsort(-found, axis=1, kind='stable')[:, :k]
  np.testing.assert_array_equal(labels, order)
  np.testing.assert_array_equal(
    scores, np.take_along_axis(found, order, axis=1)
  )
