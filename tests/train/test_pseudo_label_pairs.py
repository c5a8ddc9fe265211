"""Refused labels as further passages, and batches of like documents."""

import collections

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
from train_fixtures import make_rejected, make_task, view

from lmtx_jax import devices
from lmtx_jax.train.cycle_shapes import cycle_shapes
from lmtx_jax.train.objective import PASSAGES, masked
from lmtx_jax.train.pair_source import MOST_WIDTHS
from lmtx_jax.train.pseudo_label_pairs import PseudoLabelPairs
from lmtx_jax.types import Ragged

LABELS = view([[10 + 2 * i, 11 + 2 * i] for i in range(60)])
KEYS = np.arange(60, dtype=np.int32)
KEYS[1] = 0


def make_pairs(accepted, *, lengths=None, batch_size=4, epochs=6, **kwargs):
  """Documents whose tokens all are 100 more than their number."""
  lengths = [3] * len(accepted) if lengths is None else lengths
  documents = view([[100 + d] * n for d, n in enumerate(lengths)])
  return PseudoLabelPairs(
    documents,
    LABELS,
    accepted,
    KEYS,
    batch_size=batch_size,
    epochs=epochs,
    seed=(0, 3),
    **kwargs,
  )


def documents_of(batch):
  return (batch['query_ids'][:, 1] - 100).tolist()


def labels_of(batch, side):
  return ((batch[f'{side}_ids'][:, 1] - 10) // 2).tolist()


# --- refused labels ----------------------------------------------------------

TASK = make_task(23)
REJECTED = make_rejected(TASK)


def hard(num_hard, rejected=REJECTED, accepted=TASK.accepted, **kwargs):
  return make_pairs(accepted, rejected=rejected, num_hard=num_hard, **kwargs)


@pytest.mark.parametrize('num_hard', [1, 2, 5])
def test_each_document_brings_labels_that_it_was_refused(num_hard):
  pairs = hard(num_hard)
  for step in range(pairs.num_steps):
    batch = pairs.batch(step)
    for name in ('ids', 'lengths', 'key'):
      assert batch[f'extra_{name}'].dtype == np.int32
      assert len(batch[f'extra_{name}']) == num_hard * pairs.batch_size
    assert batch['extra_ids'].shape[1] == batch['passage_ids'].shape[1]
    assert np.all(batch['extra_lengths'] == 4)
    real = batch['extra_key'] >= 0
    labels = np.where(real, labels_of(batch, 'extra'), -1)
    np.testing.assert_array_equal(batch['extra_key'][real], KEYS[labels[real]])
    for d, mine in zip(
      documents_of(batch), labels.reshape(-1, num_hard), strict=True
    ):
      found = [label for label in mine.tolist() if label >= 0]
      assert len(found) == min(num_hard, len(REJECTED[d]))
      assert len(set(found)) == len(found)
      assert set(found) <= set(REJECTED[d].tolist())


def test_documents_and_positives_are_those_without_refused_labels():
  plain, pairs = make_pairs(TASK.accepted), hard(2)
  for step in range(plain.num_steps):
    expected, batch = plain.batch(step), pairs.batch(step)
    assert not any(name.startswith('extra') for name in expected)
    for name, value in expected.items():
      np.testing.assert_array_equal(batch[name], value)


def test_refused_labels_are_drawn_anew_and_about_equally_often():
  accepted = Ragged.from_rows([[1], [2], [3], [4]])
  rejected = Ragged.from_rows([[5, 6, 7], [], [8], [9]])
  pairs = hard(1, rejected, accepted, epochs=600)
  drawn = collections.Counter()
  for step in range(600):
    batch = pairs.batch(step)
    drawn[int(batch['extra_key'][documents_of(batch).index(0)])] += 1
  assert sum(drawn[label] for label in (5, 6, 7)) == 600
  assert all(150 < drawn[label] < 250 for label in (5, 6, 7))


def test_who_has_a_refused_label_for_a_negative():
  """Not who accepts it, by its text; label -1, nobody."""
  accepted = Ragged.from_rows([[3], [5], [0], [7]])
  rejected = Ragged.from_rows([[5], [3], [4], []])
  batch = hard(1, rejected, accepted, epochs=1).batch(0)
  no_negative = np.asarray(masked(batch['accepted'], batch['extra_key']))
  place = {d: i for i, d in enumerate(documents_of(batch))}
  for d in range(4):
    for n, label in enumerate([5, 3, 4, -1]):
      expected = label in accepted[d] or label == -1
      assert no_negative[place[d], place[n]] == expected
  same_text = hard(1, Ragged.from_rows([[1], [], [1], []]), accepted, epochs=1)
  batch = same_text.batch(0)
  place = {d: i for i, d in enumerate(documents_of(batch))}
  no_negative = np.asarray(masked(batch['accepted'], batch['extra_key']))
  assert no_negative[place[2], place[0]]  # 2 accepts label 0, of equal text
  assert not no_negative[place[1], place[0]]


@pytest.mark.parametrize('most', [1, 15, 16, 17, 32])
def test_each_row_of_accepted_has_a_place_for_no_label(most):
  accepted = Ragged.from_rows([list(range(2, 2 + most))] * 4)
  batch = hard(1, Ragged.from_rows([[0]] * 4), accepted).batch(0)
  assert np.all((batch['accepted'] == -1).any(axis=1))
  assert np.all((batch['accepted'] >= 0).sum(axis=1) == most)


@pytest.mark.parametrize('most_accepted', [0, 20, 60, 1000])
def test_accepted_labels_are_padded_alike_in_all_cycles(most_accepted):
  def widths(num_hard):
    found = set()
    for most in (1, 17, min(max(1, most_accepted), 50)):
      accepted = Ragged.from_rows([list(range(2, 2 + most))] * 4)
      pairs = make_pairs(
        accepted,
        most_accepted=most_accepted,
        rejected=Ragged.from_rows([[0]] * 4),
        num_hard=num_hard,
      )
      found.add(pairs.batch(0)['accepted'].shape[1])
    return found

  expected = {0: {16, 32}, 20: {32}, 60: {64}, 1000: {128}}[most_accepted]
  assert widths(0) == widths(1) == expected


# --- labels in parts ---------------------------------------------------------


@pytest.mark.parametrize('num_hard', [0, 2])
def test_labels_come_in_parts_by_length(num_hard):
  """Each stands where its document does, whatever part that is."""
  task = make_task(64, longest_label=20)
  keys = {tuple(np.unique(row)): key for row, key in spelled(task)}
  pairs = PseudoLabelPairs(
    task.documents,
    task.labels,
    task.accepted,
    task.label_key,
    batch_size=32,
    epochs=2000,  # worth more than one shape
    seed=(0, 3),
    rejected=make_rejected(task),
    num_hard=num_hard,
  )
  widths = set()
  for step in range(4):
    batch = pairs.batch(step)
    sides = PASSAGES[:2]
    short, longer = (batch[f'{side}_ids'] for side in sides)
    assert len(short) == len(longer) == 16
    assert short.shape[1] <= longer.shape[1]
    widths.add((short.shape[1], longer.shape[1]))
    sizes = np.concatenate([batch[f'{side}_lengths'] for side in sides])
    assert np.all(np.diff(sizes) >= 0)
    passage_keys = np.concatenate([batch[f'{side}_key'] for side in sides])
    rows = [
      ids[1 : size - 1]
      for ids, size in zip([*short, *longer], sizes, strict=True)
    ]
    for row, key, accepted in zip(
      rows, passage_keys, batch['accepted'], strict=True
    ):
      assert keys[tuple(np.unique(row))] == key
      assert key in accepted
    assert ('extra_ids' in batch) == bool(num_hard)
  assert min(widths)[0] < min(widths)[1]


def spelled(task):
  """The words of each label, and its key."""
  for label, key in enumerate(task.label_key):
    start, size = task.labels.starts[label], task.labels.sizes[label]
    yield task.labels.values[start : start + size], key


@pytest.mark.parametrize(
  ('size', 'total', 'parts'),
  [
    *((64, 1, 4), (64, 8, 4), (64, 16, 2), (64, 32, 1)),
    *((128, 1, 8), (128, 8, 8), (128, 16, 4), (128, 32, 2)),
  ],
)
def test_a_part_divides_among_the_devices(monkeypatch, size, total, parts):
  monkeypatch.setattr(devices, 'total', lambda: total)
  task = make_task(size, longest_label=20)
  of = lambda lengths: cycle_shapes(  # noqa: E731
    task.documents.lengths, lengths, size, 1
  )
  assert of(task.labels.lengths).parts == parts
  assert of(np.full(24, 4)).parts == 1


def test_an_accelerator_takes_all_labels_at_once(monkeypatch):
  task = make_task(128, longest_label=20)
  lengths = task.documents.lengths, task.labels.lengths
  assert cycle_shapes(*lengths, 128, 1).parts == 8
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert cycle_shapes(*lengths, 128, 1).parts == 1


# --- clusters ----------------------------------------------------------------

CLUSTERS = st.lists(st.integers(0, 5), min_size=0, max_size=40)


@settings(max_examples=60, deadline=None)
@given(CLUSTERS, st.integers(1, 7), st.randoms(use_true_random=False))
def test_clusters_lie_side_by_side(clusters, batch_size, draw):
  """Every document at most once an epoch, in whole batches, purely."""
  lengths = [draw.randint(1, 60) for _ in clusters]
  accepted = Ragged.from_rows([[3] * draw.randint(0, 1) for _ in clusters])
  make = lambda: make_pairs(  # noqa: E731
    accepted,
    lengths=lengths,
    batch_size=batch_size,
    epochs=2,
    clusters=np.array(clusters, np.int32),
  )
  pairs = make()
  real = np.flatnonzero(accepted.lengths)
  per_epoch = len(real) // batch_size
  assert pairs.num_steps == 2 * per_epoch
  steps = list(range(pairs.num_steps))
  draw.shuffle(steps)
  found = {step: documents_of(pairs.batch(step)) for step in steps}
  for step, batch in found.items():
    assert documents_of(make().batch(step)) == batch
  for epoch in range(2):
    batches = [found[epoch * per_epoch + i] for i in range(per_epoch)]
    seen = [d for batch in batches for d in batch]
    assert len(seen) == len(set(seen)) == per_epoch * batch_size
    assert set(seen) <= set(real.tolist())
    for cluster in set(clusters):
      size = sum(clusters[d] == cluster for d in real)
      meets = sum(any(clusters[d] == cluster for d in b) for b in batches)
      assert meets <= 1 + -(-(size - 1) // batch_size)


def test_an_epoch_has_clusters_and_batches_in_another_order():
  clusters = np.arange(64, dtype=np.int32) // 2
  pairs = make_pairs(
    Ragged.from_rows([[3]] * 64), clusters=clusters, batch_size=8, epochs=2
  )
  neighbours, starts = [], []
  for epoch in range(2):
    batches = [documents_of(pairs.batch(8 * epoch + i)) for i in range(8)]
    # Both documents of each cluster, in each batch.
    assert all(np.bincount(clusters[b]).max() == 2 for b in batches)
    assert all(len(set(clusters[b].tolist())) == 4 for b in batches)
    neighbours.append({frozenset(clusters[b].tolist()) for b in batches})
    starts.append([b[0] for b in batches])
  assert not neighbours[0] & neighbours[1]
  assert starts[0] != sorted(starts[0])


def test_shapes_with_clusters_suit_them_and_do_not_depend_on_the_cycle():
  draw = np.random.default_rng(0)
  lengths = np.clip(draw.lognormal(4, 0.7, 4000), 1, 300).astype(int)
  waste = []

  def shapes(accepted, clusters, epochs=1):
    pairs = make_pairs(
      accepted,
      lengths=lengths,
      batch_size=16,
      epochs=50,
      clusters=clusters.astype(np.int32),
    )
    steps = epochs * (len(accepted.values) // 16)
    batches = [pairs.batch(i) for i in range(steps)]
    longest = [batch['query_lengths'].max() for batch in batches]
    found = [batch['query_ids'].shape[1] for batch in batches]
    waste.append(1 - np.sum(longest) / np.sum(found))
    return set(found)

  everyone = Ragged.from_rows([[3]] * 4000)
  some = Ragged.from_rows([[3] * (d % 2) for d in range(4000)])
  widths = shapes(everyone, draw.integers(0, 250, 4000), epochs=4)
  assert 1 < len(widths) <= MOST_WIDTHS
  assert shapes(some, draw.integers(0, 400, 4000)) <= widths
  assert max(waste) < 0.03  # beside what the longest of a batch asks for
