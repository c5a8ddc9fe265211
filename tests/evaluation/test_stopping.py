from hypothesis import given
from hypothesis import strategies as st

from lmtx_jax.evaluation.stopping import best_cycle

SCORES = st.lists(st.integers(0, 100).map(float), min_size=1, max_size=6)


def test_the_paper_keeps_the_first_of_the_highest():
  assert best_cycle([]) is None
  assert best_cycle([3.0, 7.0, 7.0, 5.0]) == 1


def test_a_fall_within_the_noise_is_none():
  # The standard error of 61.1% of 800 documents is 1.72 points.
  assert best_cycle([61.1, 60.2], 1.0, 800) == 1
  assert best_cycle([61.1, 59.3], 1.0, 800) == 0
  assert best_cycle([61.1, 59.3], 2.0, 800) == 1
  assert best_cycle([61.1, 59.3], 1.0, 200) == 1
  # Measured from the highest: several small falls are no small one.
  assert best_cycle([61.1, 60.2, 58.9], 1.0, 800) == 1


@given(SCORES, st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 2000))
def test_later_but_never_clearly_worse(scores, tolerance, num_docs):
  kept = best_cycle(scores, tolerance, num_docs)
  first = best_cycle(scores)
  assert kept >= first
  share = (scores[first] / 100 * num_docs + 1) / (num_docs + 2)
  error = 100 * (share * (1 - share) / num_docs) ** 0.5
  assert scores[first] - scores[kept] <= tolerance * error + 1e-9
  assert all(
    scores[first] - s > tolerance * error - 1e-9 for s in scores[kept + 1 :]
  )
  assert best_cycle([0.0, 0.0], tolerance, num_docs) == 1


def test_nothing_is_certain_where_all_are_accepted():
  assert best_cycle([100.0, 99.9], 1.0, 800) == 1
  assert best_cycle([100.0, 95.0], 1.0, 20) == 0  # the error is 4.6 points
  assert best_cycle([100.0, 95.0], 2.0, 20) == 1
