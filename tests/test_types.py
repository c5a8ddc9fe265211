from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from lmtx_jax.types import PseudoLabels, Ragged

ROWS = st.lists(
  st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), max_size=5
)


@given(ROWS)
def test_union_is_that_of_sets(rows):
  one, other = (
    Ragged.from_rows([sorted(pair[side]) for pair in rows]) for side in (0, 1)
  )
  both = one.union(other)
  assert both.values.dtype == one.values.dtype
  assert [row.tolist() for row in both] == [sorted(a | b) for a, b in rows]
  assert len(both) == len(rows)


@given(ROWS)
def test_a_union_of_pseudo_labels_keeps_the_weight_of_each(rows):
  """That of the first, where both have the label."""

  def made(side, weigh):
    accepted = Ragged.from_rows([sorted(pair[side]) for pair in rows])
    return PseudoLabels(accepted, accepted, weigh(accepted).astype(np.float32))

  one, other = (
    made(0, lambda r: r.values + 1),
    made(1, lambda r: r.values + 100),
  )
  both = one.union(other)
  weight = [
    value + (1 if value in rows[row][0] else 100)
    for row, value in zip(
      both.accepted.row_ids, both.accepted.values, strict=True
    )
  ]
  assert both.weights.tolist() == weight
  assert one.union(PseudoLabels(other.accepted, other.rejected)).weights is None
