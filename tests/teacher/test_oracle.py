import json

import numpy as np
import pytest
from teacher_fakes import fake_documents, fake_labels

from lmtx_jax.config import TeacherConfig
from lmtx_jax.teacher.oracle import OracleTeacher
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.types import NO, YES, UserError

NUM_DOCS, NUM_LABELS = 400, 50


def config(recall=1.0, false_yes=0.0):
  return TeacherConfig(
    teacher='oracle', oracle_recall=recall, oracle_false_yes=false_yes
  )


@pytest.fixture(scope='module')
def corpus():
  rng = np.random.default_rng(0)
  truth = rng.random((NUM_DOCS, NUM_LABELS)) < 0.3
  documents = fake_documents(
    [f'document {i}' for i in range(NUM_DOCS)],
    [np.flatnonzero(row) for row in truth],
  )
  return documents, fake_labels([f'label {i}' for i in range(50)]), truth


def judge(teacher, documents, labels):
  doc_index, label_index = np.indices((len(documents), len(labels)))
  pairs = Pairs(documents, labels, doc_index.ravel(), label_index.ravel())
  answer = np.full(len(pairs), -9, np.int8)
  p_yes = np.full(len(pairs), -9, np.float32)
  for positions, verdicts in teacher.judge(pairs):
    assert (answer[positions] == -9).all()
    answer[positions], p_yes[positions] = verdicts.answer, verdicts.p_yes
  shape = (len(documents), len(labels))
  return answer.reshape(shape), p_yes.reshape(shape)


def test_perfect_oracle_is_the_truth(corpus):
  documents, labels, truth = corpus
  answer, _ = judge(OracleTeacher(config(), [documents], labels), *corpus[:2])
  np.testing.assert_array_equal(answer == YES, truth)


@pytest.mark.parametrize('recall,false_yes', [(0.8, 0.02), (0.6, 0.1), (0, 1)])
def test_rates(corpus, recall, false_yes):
  documents, labels, truth = corpus
  teacher = OracleTeacher(config(recall, false_yes), [documents], labels)
  answer, p_yes = judge(teacher, documents, labels)
  yes = answer == YES
  # 6,000 true and 14,000 wrong pairs: four standard deviations.
  assert abs(yes[truth].mean() - recall) < 0.025
  assert abs(yes[~truth].mean() - false_yes) < 0.012
  assert ((p_yes > 0.5) == yes).all()
  assert ((p_yes >= 0) & (p_yes <= 1)).all()


def test_errors_are_not_the_same_for_all_labels_or_documents(corpus):
  documents, labels, _ = corpus
  teacher = OracleTeacher(config(0.5, 0.5), [documents], labels)
  yes = judge(teacher, documents, labels)[0] == YES
  assert np.ptp(yes.mean(axis=0)) < 0.3  # 400 draws each: +- 0.1
  assert np.ptp(yes.mean(axis=1)) < 0.7  # 50 draws each: +- 0.25


def test_answer_depends_on_the_two_texts_alone(corpus):
  documents, labels, truth = corpus
  settings = config(0.7, 0.1)
  answer, p_yes = judge(
    OracleTeacher(settings, [documents], labels), documents, labels
  )
  reverse = fake_documents(
    [f'document {i}' for i in range(NUM_DOCS)][::-1],
    [np.flatnonzero(row) for row in truth[::-1]],
  )
  again = OracleTeacher(settings, [reverse], labels)
  other = judge(again, reverse, labels)
  np.testing.assert_array_equal(other[0][::-1], answer)
  np.testing.assert_array_equal(other[1][::-1], p_yes)
  first = OracleTeacher(settings, [documents], labels)
  assert again.identity == first.identity


def test_labels_of_the_same_text_are_the_same_label():
  documents = fake_documents(['x', 'y'], [[0], [1]])
  labels = fake_labels(['twin', 'other', 'twin'])
  answer, _ = judge(
    OracleTeacher(config(), [documents], labels), documents, labels
  )
  np.testing.assert_array_equal(answer, [[YES, NO, YES], [NO, YES, NO]])


def test_identity_says_that_it_is_a_simulation(corpus):
  documents, labels, _ = corpus
  base = OracleTeacher(config(0.8, 0.02), [documents], labels).identity
  assert 'simulation' in json.loads(base)['teacher']
  untrue = fake_documents(
    [f'document {i}' for i in range(NUM_DOCS)], [[1]] + [[]] * (NUM_DOCS - 1)
  )
  others = [
    OracleTeacher(config(0.8, 0.03), [documents], labels),
    OracleTeacher(config(0.7, 0.02), [documents], labels),
    OracleTeacher(config(0.8, 0.02), [untrue], labels),
  ]
  assert len({base, *(other.identity for other in others)}) == 4


def test_refuses_documents_without_truth(corpus):
  _, labels, _ = corpus
  with pytest.raises(UserError, match='target_ind'):
    OracleTeacher(config(1, 0), [fake_documents(['a'])], labels).identity  # noqa: B018


def test_refuses_documents_whose_truth_it_does_not_have(corpus):
  documents, labels, _ = corpus
  teacher = OracleTeacher(config(), [documents], labels)
  with pytest.raises(ValueError, match='no truth'):
    judge(teacher, fake_documents(['unknown']), labels)
