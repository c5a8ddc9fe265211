"""One step: which labels are negatives, and what moves the parameters."""

import functools

import jax
import numpy as np
import optax
import pytest
from train_fixtures import make_task, start_params, tiny_encoder

from lmtx_jax import devices
from lmtx_jax.data.tokens import TokenView
from lmtx_jax.train import losses
from lmtx_jax.train.step import TrainState, p_train_step
from lmtx_jax.train_config import TrainConfig

TASK = make_task(6)
ENCODER = tiny_encoder(dropout=0.2)
PARAMS = start_params(ENCODER)
LOSS = losses.cycle_loss(TrainConfig(loss='triplet'))


def side(name, view: TokenView, rows):
  ids, lengths = view.batch(np.asarray(rows), int(view.lengths.max()))
  return {f'{name}_ids': ids, f'{name}_lengths': lengths}


def make_batch(labels, accepted):
  return {
    **side('query', TASK.documents, range(len(labels))),
    **side('passage', TASK.labels, labels),
    'passage_key': TASK.label_key[np.array(labels)],
    'accepted': np.array(accepted, np.int32),
  }


@functools.lru_cache
def step_of(encoder, loss):
  return p_train_step(encoder, loss, optax.identity())


def loss_of(batch, encoder=None, loss=LOSS):
  """The loss of a batch; by default without dropout."""
  step = step_of(encoder or tiny_encoder(), loss)
  values, _ = step.value_and_grad(
    devices.replicate(PARAMS),
    devices.shard(batch),
    jax.random.key(3),
    devices.replicate(np.int32(0)),
  )
  return float(np.asarray(values).mean())


# Labels 0 and 1 are one text; document 3 accepts label 9 beside its own 5.
LABELS = [0, 1, 7, 5, 9, 7]
ACCEPTED = [[0, -1], [0, -1], [7, -1], [5, 9], [9, -1], [7, -1]]
POSITIVES = [{0, 1}, {0, 1}, {2, 5}, {3, 4}, {4}, {2, 5}]  # in-batch places


def test_only_labels_that_are_not_accepted_are_negatives():
  batch = make_batch(LABELS, ACCEPTED)
  embed = jax.jit(ENCODER.apply)
  doc, label = (
    np.float64(embed(PARAMS, batch[f'{s}_ids'], batch[f'{s}_lengths']))
    for s in ('query', 'passage')
  )
  score = doc @ label.T
  expected = np.mean(
    [
      sum(
        max(0, score[d, n] - score[d, d] + TrainConfig().margin)
        for n in set(range(6)) - POSITIVES[d]
      )
      for d in range(6)
    ]
  )
  np.testing.assert_allclose(loss_of(batch), expected, rtol=1e-6)
  blind = make_batch(LABELS, np.array(LABELS)[:, None])  # nothing else masked
  assert loss_of(blind) > expected + 0.1


def with_extra(labels, keys):
  """The batch with further passages."""
  return {
    **make_batch(LABELS, [[*row, -1] for row in ACCEPTED]),
    **side('extra', TASK.labels, labels),
    'extra_key': np.array(keys, np.int32),
  }


def test_extra_passages_are_negatives_of_all_but_those_who_accept_them():
  """Label 12 of all, label 9 not of documents 3 and 4, label 5 of none."""
  batch = with_extra([12, 9, 5], [12, 9, -1])
  embed = jax.jit(ENCODER.apply)
  doc, label, extra = (
    np.float64(embed(PARAMS, batch[f'{s}_ids'], batch[f'{s}_lengths']))
    for s in ('query', 'passage', 'extra')
  )
  score = doc @ np.concatenate([label, extra]).T
  hinge = np.maximum(0, score - np.diag(score)[:, None] + TrainConfig().margin)
  expected = np.mean(
    [
      sum(hinge[d, n] for n in set(range(6)) - POSITIVES[d])
      + hinge[d, 6]
      + hinge[d, 7] * (d not in (3, 4))
      for d in range(6)
    ]
  )
  np.testing.assert_allclose(loss_of(batch), expected, rtol=1e-6)


def test_extra_passages_of_nobody_leave_the_loss_as_it_is():
  """So the dropout of the other passages is the same, too."""
  plain = loss_of(make_batch(LABELS, ACCEPTED), ENCODER)
  extra = loss_of(with_extra([12, 9, 5], [-1, -1, -1]), ENCODER)
  np.testing.assert_allclose(extra, plain, rtol=1e-6)


def test_a_text_again_has_a_dropout_of_its_own():
  batch = make_batch(LABELS, ACCEPTED)
  batch |= {f'extra_{x}': batch[f'query_{x}'] for x in ('ids', 'lengths')}
  batch['extra_key'] = np.arange(6, dtype=np.int32)

  def apart(query_emb, passage_emb, own, masked):
    del masked
    return abs(query_emb - passage_emb[6:][own]).max(axis=1)

  assert loss_of(batch, loss=apart) < 1e-6
  assert loss_of(batch, ENCODER, apart) > 0.01


@pytest.fixture(scope='module')
def one_step():
  optimizer = optax.scale_by_adam()
  p_step = p_train_step(ENCODER, LOSS, optimizer)

  def run(rate, seed=0, step=0):
    state = TrainState(np.int32(step), PARAMS, optimizer.init(PARAMS))
    state, metrics = p_step(
      devices.replicate(state),
      devices.shard(make_batch(LABELS, ACCEPTED)),
      jax.random.key(seed),
      np.float32(rate),
    )
    return devices.unreplicate(state), devices.unreplicate(metrics)

  return run


def test_a_step_of_rate_zero_changes_nothing_but_its_number(one_step):
  state, metrics = one_step(0.0, step=3)
  assert state.step == 4
  jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)
  assert metrics['loss'] > 0 and metrics['grad_norm'] > 0


def test_adam_moves_parameters_by_about_the_rate(one_step):
  state, _ = one_step(1e-3)
  moved = np.abs(
    state.params['layer_0']['ffn_in']['kernel']
    - PARAMS['layer_0']['ffn_in']['kernel']
  )
  assert moved.max() <= 1.001e-3
  assert np.median(moved) > 0.9e-3


def test_dropout_depends_on_the_key_and_the_step_alone(one_step):
  loss = lambda **kwargs: float(one_step(0.0, **kwargs)[1]['loss'])  # noqa: E731
  assert loss() == loss()
  assert len({loss(), loss(seed=1), loss(step=1)}) == 3
