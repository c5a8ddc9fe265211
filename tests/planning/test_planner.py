"""The planner on made documents whose right labels are known."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lmtx_jax.neighbour_votes import neighbour_weights
from lmtx_jax.planning import planner
from lmtx_jax.planning.evidence import Evidence
from lmtx_jax.planning.judged import Judged
from lmtx_jax.types import INVALID, NO, YES, Ragged, Shortlist, Verdicts

NUM_DOCS, NUM_LABELS, DEPTH = 60, 40, 12


def top(scores, k):
  order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
  found = np.take_along_axis(scores, order, axis=1)
  return Shortlist(order.astype(np.int32), found.astype(np.float32))


def made(seed=0, banned=None, label_key=None, is_empty=None, neighbours=5):
  """Evidence whose inner products say a little of the truth, and the truth.

  Documents of a topic have the labels of that topic.
  """
  rng = np.random.default_rng(seed)
  topics = rng.normal(size=(10, 16))
  of_doc = rng.integers(0, 10, NUM_DOCS)
  of_label = np.arange(NUM_LABELS) % 10
  docs = topics[of_doc] + 0.7 * rng.normal(size=(NUM_DOCS, 16))
  labels = topics[of_label] + 1.5 * rng.normal(size=(NUM_LABELS, 16))
  docs /= np.linalg.norm(docs, axis=1, keepdims=True)
  labels /= np.linalg.norm(labels, axis=1, keepdims=True)
  alike = docs @ docs.T - 2 * np.eye(NUM_DOCS)
  evidence = Evidence(
    docs.astype(np.float32),
    labels.astype(np.float32),
    top(docs @ labels.T, DEPTH),
    None,
    neighbour_weights(top(alike, neighbours), NUM_DOCS),
    banned or Ragged.from_rows([[]] * NUM_DOCS),
    np.arange(NUM_LABELS, dtype=np.int32) if label_key is None else label_key,
    np.zeros(NUM_DOCS, bool) if is_empty is None else is_empty,
  )
  return evidence, of_doc[:, None] == of_label


def verdicts(answers):
  return Verdicts(answers.astype(np.int8), (answers == YES).astype(np.float32))


def by(truth):
  """A teacher who is always right, and what it was asked."""
  asked = []

  def judge(docs, labels):
    asked.extend(zip(docs.tolist(), labels.tolist(), strict=True))
    return verdicts(np.where(truth[docs, labels], YES, NO))

  return judge, asked


def ask(evidence, truth, count=200, rounds=5, before=None):
  judge, asked = by(truth)
  before = before or Judged.none()
  return planner.ask(evidence, judge, before, count, rounds), asked


def test_finds_more_than_the_shortlists_hold():
  evidence, truth = made()
  found, _ = ask(evidence, truth, 240, 6)
  first = evidence.dense.labels[:, : 240 // NUM_DOCS]
  by_shortlist = np.take_along_axis(truth, first, axis=1).sum()
  assert len(found.docs) == 240
  assert (found.answers == YES).sum() > 1.3 * by_shortlist


def test_neighbours_bring_labels_that_no_shortlist_has():
  evidence, truth = made()
  _, asked = ask(evidence, truth, 400, 8)
  shortlists = enumerate(evidence.dense.labels)
  listed = {(doc, label) for doc, row in shortlists for label in row}
  brought = [pair for pair in asked if pair not in listed]
  assert brought and np.mean([truth[pair] for pair in brought]) > 0.5
  alone, _ = made(neighbours=0)
  _, asked = ask(alone, truth, 400, 8)
  assert set(asked) <= listed


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_what_is_asked(data):
  """At most the budget, no pair twice, nothing banned, empty or a twin."""
  banned = Ragged.from_rows(
    data.draw(
      st.lists(
        st.lists(st.integers(0, NUM_LABELS - 1), max_size=3, unique=True),
        min_size=NUM_DOCS,
        max_size=NUM_DOCS,
      )
    )
  )
  key = np.arange(NUM_LABELS, dtype=np.int32)
  key[5], key[9] = 1, 1
  is_empty = np.arange(NUM_DOCS) % 7 == data.draw(st.integers(0, 6))
  evidence, truth = made(data.draw(st.integers(0, 99)), banned, key, is_empty)
  count, rounds = data.draw(st.integers(1, 900)), data.draw(st.integers(1, 9))
  first, asked = ask(evidence, truth, count, rounds)
  second, more = ask(evidence, truth, count, rounds, first)
  assert len(first.docs) == len(asked) <= count and len(more) <= count
  asked += more
  assert len(asked) == len(set(asked))
  for doc, label in asked:
    assert key[label] == label and not is_empty[doc]
    assert label not in key[banned[doc]]
  if len(more) < count:  # only where all candidates have been asked about
    both = first + second
    left = evidence.candidates(evidence.answers(both))
    assert sum(len(docs) for docs, _ in left) == 0


def test_the_same_answers_choose_the_same_questions():
  evidence, truth = made()
  assert ask(evidence, truth)[1] == ask(evidence, truth)[1]


def test_an_answer_does_not_describe_its_own_question():
  evidence, truth = made()
  found, _ = ask(evidence, truth)
  for place in (0, 17, len(found.docs) - 1):
    flipped = found.answers.copy()
    flipped[place] = NO if flipped[place] == YES else YES
    pair = found.docs[place : place + 1], found.labels[place : place + 1]
    described = [
      evidence.describe(*pair, evidence.answers(judged))
      for judged in (found, found._replace(answers=flipped))
    ]
    # But for the share of yeses among all questions, which is that of many.
    np.testing.assert_allclose(*described, atol=0.01)


@pytest.mark.parametrize('answer', [YES, NO, INVALID])
def test_answers_that_are_all_alike(answer):
  evidence, _ = made()

  def judge(docs, labels):
    return verdicts(np.full(len(docs), answer))

  found = planner.ask(evidence, judge, Judged.none(), 100, 4)
  assert len(found.docs) == 100


def test_documents_with_a_yes_come_later(monkeypatch):
  """Of pairs that look alike, those of a document without a yes are first."""
  evidence, truth = made()
  spread = []
  for enough in (planner._ENOUGH, 0.0):
    monkeypatch.setattr(planner, '_ENOUGH', enough)
    found, _ = ask(evidence, truth, 150, 6)
    of_doc = np.bincount(found.docs[found.answers == YES], minlength=NUM_DOCS)
    spread.append(of_doc.std())
  assert spread[0] < 0.8 * spread[1]


def test_no_candidates():
  evidence, truth = made(is_empty=np.ones(NUM_DOCS, bool))
  found, asked = ask(evidence, truth)
  assert not asked and not len(found.docs)


def test_judged_rows_keep_the_order_of_asking():
  judged = Judged(
    np.array([2, 0, 2, 1]),
    np.array([7, 3, 1, 4]),
    np.array([YES, NO, YES, INVALID], np.int8),
  )
  rows = judged.rows(YES, 4)
  assert [row.tolist() for row in rows] == [[], [], [7, 1], []]
  assert rows.values.dtype == np.int32
