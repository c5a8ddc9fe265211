import json

import numpy as np
import pytest

from tests.benchmarks import peers, shortlist
from tests.benchmarks.points import Points


def test_true_labels_are_the_largest_products_over_all_blocks(monkeypatch):
  monkeypatch.setattr(shortlist, '_TRUTH_BLOCK', 7)
  draw = np.random.default_rng(0)
  points = draw.standard_normal((40, 5), np.float32)
  queries = draw.standard_normal((6, 5), np.float32)
  found = shortlist.true_labels(points, queries, 4)
  wanted = np.argsort(-(queries @ points.T), axis=1)[:, :4]
  np.testing.assert_array_equal(np.sort(found), np.sort(wanted))


def test_recall_counts_labels_whatever_their_order():
  truth = np.array([[1, 2], [3, 4]])
  found = np.array([[2, 1], [3, 9], [0, 0]])
  assert shortlist.recall(truth, found) == 0.75


def test_points_are_unit_norm_and_the_same_again(tmp_path):
  points = np.concatenate(list(Points(1000, 32).blocks(1000)))
  np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
  Points(1000, 32).write(str(tmp_path / 'x.npy'), 1000)
  np.testing.assert_array_equal(np.load(tmp_path / 'x.npy'), points)


def test_points_come_in_topics():
  made = Points(4000, 64)
  points = np.concatenate(list(made.blocks(4000)))
  queries = np.concatenate(list(made.blocks(200)))
  score = np.sort(queries @ points.T, axis=1)
  # Noise of 64 dimensions would reach 0.45 or so among 4,000.
  assert score[:, -1].mean() > 0.6
  assert abs(np.median(score)) < 0.2


def test_a_line_for_each_peer(capsys):
  from lmtx_jax import cli

  values = cli.parse(
    ['', '--num_points=300', '--dim=16', '--num_queries=20', '--peers=exact',
     '--rounds=1'],
    (shortlist.ShortlistConfig,),
  )  # fmt: skip
  shortlist.main(values)
  line = json.loads(capsys.readouterr().out)
  assert line['recall'] == 1.0
  assert (line['points'], line['queries']) == (300, 20)


def test_a_peer_that_is_not_installed_is_left_out_and_told(monkeypatch, capsys):
  monkeypatch.setitem(peers._MODULES, 'faiss', 'no_such_module')
  assert peers.chosen('faiss,exact', ('faiss', 'exact')) == ['exact']
  assert 'faiss is left out' in capsys.readouterr().err


def test_an_unknown_peer_is_an_error():
  with pytest.raises(peers.UserError, match='--peers=anny: choose of faiss'):
    peers.chosen('anny', ('faiss',))
