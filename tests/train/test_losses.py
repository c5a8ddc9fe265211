"""Loss and gradient against float64 calculations of the published formulas."""

import functools
import math

import jax
import numpy as np
import pytest

from lmtx_jax.train import losses
from lmtx_jax.train_config import TrainConfig, WarmupConfig

MARGIN, TEMPERATURE, K, NCE_TEMPERATURE = 0.3, 0.1, 4, 0.05
TOLERANCE = 1e-6
KINDS = ['triplet', 'triplet_softmax', 'decoupled_softmax', 'info_nce']


def make_loss(kind, k=K):
  if kind == 'info_nce':
    return losses.warmup_loss(WarmupConfig(warmup_temperature=NCE_TEMPERATURE))
  return losses.cycle_loss(
    TrainConfig(
      loss=kind,
      margin=MARGIN,
      loss_temperature=TEMPERATURE,
      num_negatives=k,
    )
  )


def ours(kind, k=K):
  """The mean over the queries, as the objective takes it."""
  return lambda *arguments: make_loss(kind, k)(*arguments).mean()


def reference(kind, doc, label, own, masked, k=K):
  """One document after the other, one negative after the other."""
  total = 0.0
  for d in range(len(doc)):
    score = [float(doc[d] @ label[n]) for n in range(len(label))]
    s_p = score[own[d]]
    negatives = [n for n in range(len(label)) if not masked[d, n]]
    if kind == 'triplet':
      total += sum(max(0.0, score[n] - s_p + MARGIN) for n in negatives)
    elif kind == 'triplet_softmax':
      negatives = sorted(negatives, key=lambda n: -score[n])[:k]
      hinge = [max(0.0, score[n] - s_p + MARGIN) for n in negatives]
      power = [
        math.exp(score[n] / TEMPERATURE) if h != 0 else 1.0
        for n, h in zip(negatives, hinge, strict=True)
      ]
      weighted = sum(h * e for h, e in zip(hinge, power, strict=True))
      if negatives:
        total += weighted / sum(power) / min(k, len(label))
    elif kind == 'decoupled_softmax':
      power = math.exp(s_p / TEMPERATURE)
      others = sum(
        math.exp(score[n] / TEMPERATURE) for n in negatives if n != own[d]
      )
      total -= math.log(power / (power + others))
    else:
      logit = [
        score[n] / NCE_TEMPERATURE for n in sorted({*negatives, int(own[d])})
      ]
      total += math.log(sum(math.exp(x) for x in logit))
      total -= s_p / NCE_TEMPERATURE
  return total / len(doc)


def slope(function, x, step=1e-6):
  """Central differences."""
  out = np.zeros_like(x)
  for place in np.ndindex(*x.shape):
    up, down = x.copy(), x.copy()
    up[place] += step
    down[place] -= step
    out[place] = (function(up) - function(down)) / (2 * step)
  return out


def torch_value_and_grad(kind, doc, label, own, masked, k=K):
  import torch

  doc, label = (torch.tensor(x, requires_grad=True) for x in (doc, label))
  own, masked = torch.tensor(own).long(), torch.tensor(masked)
  score = doc @ label.T
  s_p = score.gather(1, own[:, None])
  if kind == 'info_nce':
    own_place = torch.nn.functional.one_hot(own, len(label)).bool()
    logit = score.masked_fill(masked & ~own_place, -torch.inf)
    loss = torch.nn.functional.cross_entropy(logit / NCE_TEMPERATURE, own)
  elif kind == 'decoupled_softmax':
    power = torch.exp(s_p / TEMPERATURE)
    others = torch.exp(score / TEMPERATURE) * ~masked
    loss = -torch.log(power / (power + others.sum(1, keepdim=True))).mean()
  else:
    hinge = torch.relu(score - s_p + MARGIN)
    if kind == 'triplet':
      loss = hinge[~masked].sum() / len(doc)
    else:
      loss = 0.0
      for d in range(len(doc)):
        s_n, h_n = score[d][~masked[d]], hinge[d][~masked[d]]
        s_n, best = s_n.topk(min(k, len(s_n)))
        h_n = h_n[best]
        w = torch.softmax(s_n / TEMPERATURE * (h_n != 0), 0)
        loss = loss + (h_n * w).sum() / min(k, len(label)) / len(doc)
  loss.backward()
  return loss.item(), doc.grad.numpy(), label.grad.numpy()


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def case(name, b=6, dim=5):
  """(doc [b, dim], label [B, dim], own [b], masked [b, B])."""
  draw = np.random.RandomState(1)
  doc, label = unit(draw.randn(b, dim)), unit(draw.randn(b, dim))
  own = np.arange(b, dtype=np.int32)
  masked = np.eye(b, dtype=bool)
  if name == 'accepted_besides_own':
    masked |= draw.rand(b, b) < 0.25
  elif name == 'satisfied':
    doc = label = np.eye(b)
  elif name == 'some_satisfied':
    doc = unit(doc + 1.5 * label)
  elif name == 'few_negatives':
    masked[:] = True
    masked[:, :2] = False
    masked |= np.eye(b, dtype=bool)
  elif name == 'one_document_all_masked':
    masked[2] = True
  elif name == 'duplicates':  # the key of label 3 is that of label 0
    label[3] = label[0]
    masked[0, 3] = masked[3, 0] = True
  elif name == 'part_of_a_batch':  # a second device's part
    doc, own, masked = doc[3:], own[3:], masked[3:]
  elif name == 'extra_passages':  # two are nobody's own, one nobody's negative
    label = np.concatenate([label, unit(draw.randn(3, dim))])
    masked = np.pad(masked, [(0, 0), (0, 3)])
    masked[:, -1] = masked[1, -2] = True
  return *(x.astype(np.float32) for x in (doc, label)), own, masked


CASES = [
  'plain',
  'accepted_besides_own',
  'satisfied',
  'some_satisfied',
  'few_negatives',
  'one_document_all_masked',
  'part_of_a_batch',
  'extra_passages',
]


def check(kind, arguments, expected, k=K):
  value, grads = jax.value_and_grad(ours(kind, k), argnums=(0, 1))(*arguments)
  close = dict(rtol=TOLERANCE, atol=TOLERANCE)
  np.testing.assert_allclose(value, expected[0], **close)
  np.testing.assert_allclose(grads[0], expected[1], **close)
  np.testing.assert_allclose(grads[1], expected[2], **close)


def numpy_value_and_grad(kind, arguments, k=K):
  doc, label, own, masked = arguments
  doc, label = doc.astype(np.float64), label.astype(np.float64)
  return (
    reference(kind, doc, label, own, masked, k),
    slope(lambda x: reference(kind, x, label, own, masked, k), doc),
    slope(lambda x: reference(kind, doc, x, own, masked, k), label),
  )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', CASES)
def test_value_and_gradient_by_differences(kind, name):
  arguments = case(name)
  check(kind, arguments, numpy_value_and_grad(kind, arguments))


@pytest.mark.parity
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', CASES)
def test_value_and_gradient_by_torch(kind, name):
  arguments = case(name)
  doc, label, *rest = arguments
  doubles = doc.astype(np.float64), label.astype(np.float64)
  check(kind, arguments, torch_value_and_grad(kind, *doubles, *rest))


@pytest.mark.parametrize('kind', KINDS)
def test_duplicate_of_a_label_and_more_negatives_asked_than_there_are(kind):
  arguments = case('duplicates')
  check(kind, arguments, numpy_value_and_grad(kind, arguments, 99), 99)


@pytest.mark.parametrize('kind', ['triplet', 'triplet_softmax'])
def test_satisfied_or_masked_negatives_teach_nothing(kind):
  everything = (*case('plain')[:3], np.ones((6, 6), bool))
  for arguments in (case('satisfied'), everything):
    value, grads = jax.value_and_grad(ours(kind), argnums=(0, 1))(*arguments)
    assert value == 0
    assert not np.any(grads)  # NaN is not 0 either


@pytest.mark.parametrize('kind', ['info_nce', 'decoupled_softmax'])
def test_a_softmax_without_any_negative_is_zero(kind):
  arguments = (*case('plain')[:3], np.ones((6, 6), bool))
  value, grads = jax.value_and_grad(ours(kind), argnums=(0, 1))(*arguments)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(grads, 0, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_a_value_a_query_that_no_other_query_changes(kind):
  doc, label, own, masked = case('accepted_besides_own')
  values = make_loss(kind)(doc, label, own, masked)
  assert values.shape == (6,)
  for d in range(6):
    row = slice(d, d + 1)
    alone = make_loss(kind)(doc[row], label, own[row], masked[row])
    np.testing.assert_allclose(alone, values[row], rtol=1e-6)


# --- contrast with clusters --------------------------------------------------

WEIGHT, NUM_LABELS = 0.7, 3
cluster_contrast = functools.partial(
  losses.cluster_contrast,
  temperature=TEMPERATURE,
  num_labels=NUM_LABELS,
  weight=WEIGHT,
)


def cluster_case(size=6, dim=5):
  """The second of two devices; queries 3 and 5 are of one cluster with 0."""
  draw = np.random.RandomState(3)
  title = draw.randn(3, dim).astype(np.float32)
  passage = draw.randn(2 * size + NUM_LABELS, dim).astype(np.float32) / 3
  masked = np.zeros((3, len(passage)), bool)
  masked[0, [3, 5, 0]] = masked[2, [3, 5, 0]] = True
  masked[1, size:] = True  # is not read
  return title, passage, np.array([3, 4, 5], np.int32), masked


def cluster_reference(title, passage, own, masked):
  """One query after the other; positives of each, then the texts again."""
  size, total = (len(passage) - NUM_LABELS) // 2, 0.0
  for q in range(len(title)):
    power = [math.exp(float(title[q] @ p) / TEMPERATURE) for p in passage]
    contents, others = power[:size], power[size:]
    positives = {int(own[q])} | {n for n in range(size) if masked[q, n]}
    total -= sum(
      math.log(contents[p] / sum(contents)) for p in positives
    ) / len(positives)
    total -= WEIGHT * math.log(others[own[q]] / sum(others))
  return total / len(title)


def test_cluster_contrast_by_differences():
  arguments = cluster_case()
  title, passage, own, masked = arguments
  title, passage = title.astype(np.float64), passage.astype(np.float64)
  value, grads = jax.value_and_grad(
    lambda *arguments: cluster_contrast(*arguments).mean(), argnums=(0, 1)
  )(*arguments)
  close = dict(rtol=1e-5, atol=1e-5)
  expected = cluster_reference(title, passage, own, masked)
  np.testing.assert_allclose(value, expected, **close)
  by_title = slope(lambda x: cluster_reference(x, passage, own, masked), title)
  by_passage = slope(
    lambda x: cluster_reference(title, x, own, masked), passage
  )
  np.testing.assert_allclose(grads[0], by_title, **close)
  np.testing.assert_allclose(grads[1], by_passage, **close)


@pytest.mark.parity
def test_cluster_contrast_by_torch():
  import torch

  title, passage, own, masked = cluster_case()
  entropy = torch.nn.functional.cross_entropy
  logit = torch.tensor(title).double() @ torch.tensor(passage).double().T
  logit, own_ = logit / TEMPERATURE, torch.tensor(own).long()
  positive = torch.tensor(masked[:, :6])
  positive[torch.arange(3), own_] = True
  share = positive / positive.sum(dim=1, keepdim=True)
  expected = entropy(logit[:, :6], share.double(), reduction='none')
  expected += WEIGHT * entropy(logit[:, 6:], own_, reduction='none')
  values = cluster_contrast(title, passage, own, masked)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_satisfied_negative_takes_weight_from_the_others():
  """Its logit is 0, so it weighs like a violated negative of cosine 0."""
  doc = np.array([[1.0, 0.0]], np.float32)
  angle = np.arccos([0.7, 0.5, 0.1])
  label = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
  masked = np.array([[True, False, False]])
  loss = ours('triplet_softmax', 2)(doc, label, np.array([0]), masked)
  expected = 0.1 * math.exp(5) / (math.exp(5) + 1) / 2  # s=.5 h=.1; s=.1 h=0
  np.testing.assert_allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize('config', [TrainConfig(), WarmupConfig()])
def test_equal_flags_give_one_loss_object(config):
  """The compiled step is looked up by it."""
  make = (
    losses.cycle_loss if isinstance(config, TrainConfig) else losses.warmup_loss
  )
  assert make(config) is make(type(config)())
