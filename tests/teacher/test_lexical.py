import json

import numpy as np
import pytest
from teacher_fakes import fake_corpus

from lmtx_jax.config import TeacherConfig, TextConfig
from lmtx_jax.data.corpus import document_texts, label_texts
from lmtx_jax.teacher.lexical import LexicalTeacher
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.types import NO, YES

TITLES_CONTENTS = [
  ('algebra.eig', 'Eigenvalues of a matrix. Calls eigvals for general ones.'),
  ('algebra.eigvals', 'Eigenvalues only of a matrix.'),
  ('algebra.solve', 'Solve a linear system.'),
  ('signal.butter', 'Butterworth filter design.'),
  ('signal.cheby', 'Chebyshev filter design.'),
  ('text.upper', 'Strings in upper case.'),
  ('text.lower', 'Strings in lower case.'),
  ('random.normal', 'Draw samples from a Gaussian.'),
]


def texts_of(rows):
  corpus = fake_corpus([(str(i), *row) for i, row in enumerate(rows)])
  config = TextConfig(label_text='title_content')
  return document_texts(corpus, config), label_texts(corpus, config)


@pytest.fixture(scope='module')
def data():
  return texts_of(TITLES_CONTENTS)


def make(data, threshold=0.5):
  documents, labels = data
  return LexicalTeacher(
    TeacherConfig(teacher='lexical', lexical_threshold=threshold),
    [documents],
    labels,
  )


def all_pairs(data):
  documents, labels = data
  doc_index, label_index = np.indices((len(documents), len(labels)))
  return Pairs(documents, labels, doc_index.ravel(), label_index.ravel())


def score_table(data):
  return make(data).scores(all_pairs(data)).reshape(len(data[0]), -1)


def test_related_outscores_sibling_outscores_stranger(data):
  score = score_table(data)
  eig, eigvals, solve, butter, cheby, upper, lower, _ = range(8)
  assert score[eig, eigvals] > score[eig, solve] > score[eig, butter]
  assert score[butter, cheby] > score[butter, upper] + 0.2
  assert score[upper, lower] > score[upper, solve] + 0.2


def test_a_text_is_closest_to_itself(data):
  score = score_table(data)
  np.testing.assert_array_equal(score.argmax(axis=1), np.arange(len(score)))
  assert ((score >= 0) & (score <= 1 + 1e-6)).all()


def test_being_named_in_the_document_counts():
  """The same pair but for the one word."""
  scores = []
  for word in ('zebra', 'horse'):
    document = ('one.first', f'Does this. Much like {word}.')
    rows = [document, ('two.zebra', 'Stripes.'), *TITLES_CONTENTS]
    scores.append(score_table(texts_of(rows))[0, 1])
  assert scores[0] > scores[1] + 0.05


def test_titles_of_one_word_have_no_family():
  seen_data = texts_of([('alpha', 'One.'), ('omega', 'Two.')])
  teacher = make(seen_data)
  assert not teacher.observe(all_pairs(seen_data))['sibling'].any()


def test_threshold_decides_and_p_yes_agrees(data):
  score = score_table(data).ravel()
  for threshold in (0.0, 0.3, 0.5, 0.9):
    ((positions, verdicts),) = make(data, threshold).judge(all_pairs(data))
    np.testing.assert_array_equal(positions, np.arange(len(score)))
    yes = verdicts.answer == YES
    np.testing.assert_array_equal(yes, score > threshold)
    np.testing.assert_array_equal(verdicts.p_yes > 0.5, yes)
    assert set(verdicts.answer) <= {YES, NO}


def test_verdict_does_not_depend_on_the_company(data):
  """A pair alone, among others, in any order."""
  score = score_table(data).ravel()
  order = np.random.default_rng(0).permutation(len(score))
  teacher = make(data)
  shuffled = teacher.scores(all_pairs(data).take(order))
  np.testing.assert_allclose(shuffled, score[order], atol=1e-6)
  alone = [
    teacher.scores(all_pairs(data).take(slice(i, i + 1)))[0] for i in order[:9]
  ]
  np.testing.assert_allclose(alone, score[order[:9]], atol=1e-6)


def test_odd_texts_are_judged_all_the_same():
  odd = [
    ('', 'no title, only content'),
    ('...', '!!! ???'),
    ('tab\tin title', 'x'),
    ('ßtraße.Ünï', '日本語 のテキスト'),
    ('{braces}', '\x00\x07 control'),
    ('word ' * 3000, 'long'),
  ]
  score = score_table(texts_of(odd))
  assert np.isfinite(score).all()
  assert ((score >= 0) & (score <= 1 + 1e-6)).all()


def test_identity_follows_texts_threshold_and_prompt(data):
  base = make(data).identity
  assert json.loads(base)['teacher'] == 'lexical'
  assert make(texts_of(TITLES_CONTENTS)).identity == base
  assert make(data, 0.4).identity != base
  assert make(texts_of(TITLES_CONTENTS[1:])).identity != base
  other = LexicalTeacher(
    TeacherConfig(teacher='lexical', prompt='see_also'), [data[0]], data[1]
  )
  assert other.identity != base
