"""The paired test, against the library's own and by hand."""

from compare_fixtures import write_run
import numpy as np
import pytest
from scipy import stats

from lmtx_jax.comparison.groups import make_rows
from lmtx_jax.comparison.runs import read_runs
from lmtx_jax.comparison.significance import (
  NO_DOCUMENTS,
  NO_TRUTH,
  compare_rows,
  find_reference,
  holm,
  paired_p,
)
from lmtx_jax.files import write_arrays
from lmtx_jax.types import UserError


@pytest.mark.parametrize('shift', [0.0, 6.0, 12.0])
def test_as_the_permutation_test_of_scipy(shift):
  rng = np.random.default_rng(int(shift))
  differences = rng.choice([-100, -100 / 3, 0, 100 / 3, 100], 150) + shift
  expected = stats.permutation_test(
    (differences,),
    np.sum,
    permutation_type='samples',
    n_resamples=9_999,
    random_state=1,
  ).pvalue
  assert paired_p(differences) == pytest.approx(expected, abs=0.02)


def test_exact_by_hand():
  """Of the 2^5 sets of signs, two reach a sum of 5 or more, either way."""
  assert paired_p(np.ones(5)) == pytest.approx(2 / 32, abs=0.01)
  assert paired_p(-np.ones(5)) == pytest.approx(2 / 32, abs=0.01)


def test_equal_scores():
  assert paired_p(np.zeros(7)) == 1.0


def test_clear_difference():
  assert paired_p(np.full(500, 100.0)) == pytest.approx(2 / 10_000)


def test_errors_are_as_rare_as_they_say():
  """Rows that are alike differ 'significantly' in one case of twenty."""
  rng = np.random.default_rng(0)
  found = [paired_p(rng.normal(0, 30, 12)) < 0.05 for _ in range(200)]
  assert 0.02 < np.mean(found) < 0.09


def test_holm_by_hand():
  assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
  assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
  assert holm([]) == []


def rows_of(tmp_path, *all_kwargs):
  paths = [
    write_run(tmp_path / str(i), **kwargs)
    for i, kwargs in enumerate(all_kwargs)
  ]
  return make_rows(read_runs(paths, ('P@1',)), initial=False)


def test_rows_against_the_best(tmp_path):
  rows = rows_of(
    tmp_path,
    {'scores': (70.0,)},
    {'scores': (68.0,), 'shortlist_size': 20},
    {'scores': (30.0,), 'method': 'rts'},
  )
  reference = find_reference(rows, '', 'P@1')
  assert rows[reference].values('P@1') == [70.0]
  same, near, far = compare_rows(rows, reference, ('P@1',))['P@1']
  assert same is None
  assert not near.is_significant and near.p_holm == pytest.approx(near.p)
  assert far.is_significant
  assert far.p_holm == pytest.approx(2 * far.p)


def test_scores_of_seeds_are_averaged(tmp_path):
  rows = rows_of(
    tmp_path, {'scores': (50.0,), 'seed': 0}, {'scores': (100.0,), 'seed': 1}
  )
  scores = rows[0].documents('P@1')
  assert sorted(set(scores)) == [50.0, 100.0]
  assert scores.mean() == pytest.approx(75.0)


@pytest.mark.parametrize('documents', [0, 59])
def test_other_documents_are_not_paired(tmp_path, documents):
  rows = rows_of(tmp_path, {}, {'method': 'rts', 'documents': documents})
  assert compare_rows(rows, 0, ('P@1',))['P@1'][1].note == NO_DOCUMENTS


def test_no_document_has_truth(tmp_path):
  rows = rows_of(tmp_path, {}, {'method': 'rts'})
  for i, where in ((0, 'cycle_00'), (1, 'cycle_00')):
    path = tmp_path / str(i) / where / 'test_documents.npz'
    write_arrays(str(path), {'P@1': np.zeros(0, np.float32)})
  test = compare_rows(rows, 0, ('P@1',))['P@1'][1]
  assert (test.p, test.note) == (None, NO_TRUTH)


def test_one_seed_without_documents_unpairs_the_row(tmp_path):
  rows = rows_of(
    tmp_path,
    {},
    {'method': 'rts'},
    {'method': 'rts', 'seed': 1, 'documents': 0},
  )
  assert compare_rows(rows, 0, ('P@1',))['P@1'][1].p is None


def test_broken_documents(tmp_path):
  rows = rows_of(tmp_path, {}, {'method': 'rts'})
  path = tmp_path / '1' / 'cycle_00' / 'test_documents.npz'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(UserError, match=r'test_documents\.npz is broken'):
    compare_rows(rows, 0, ('P@1',))


def test_reference_by_name_and_number(tmp_path):
  rows = rows_of(tmp_path, {}, {'method': 'rts'})
  assert find_reference(rows, 'rts', 'P@1') == 1
  assert find_reference(rows, '1', 'P@1') == 0
  for wrong in ('0', '3', 'ict'):
    with pytest.raises(UserError, match=r"1 'lmtx', 2 'rts'"):
      find_reference(rows, wrong, 'P@1')
