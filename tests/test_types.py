from hypothesis import given
from hypothesis import strategies as st

from lmtx_jax.types import Ragged

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
