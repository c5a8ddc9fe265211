import numpy as np
import pytest
from teacher_fakes import FakeTeacher, fake_documents, fake_labels

from lmtx_jax.config import TeacherConfig
from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.teacher import (
  check_teacher,
  llm_teacher,
  make_teacher,
  pseudo_labels,
)
from lmtx_jax.teacher.verdict_store import VerdictStore
from lmtx_jax.types import Shortlist, UserError


def test_pseudo_labels(tmp_path):
  documents = fake_documents(['ab', ' \n', 'b', 'ab'])
  labels = fake_labels(['a', 'b', '?'])
  table = np.array([[1, 2, 0], [0, 1, 2], [0, 1, -1], [-1, -1, -1]], np.int32)
  shortlist = Shortlist(table, np.zeros(table.shape, np.float32))
  teacher = FakeTeacher()
  result, tally = pseudo_labels(
    VerdictStore(str(tmp_path / 'v.sqlite')),
    teacher,
    documents,
    labels,
    shortlist,
    'run/cycle_00',
  )
  rows = range(len(documents))
  accepted = [result.accepted[row].tolist() for row in rows]
  rejected = [result.rejected[row].tolist() for row in rows]
  assert accepted == [[1, 0], [], [1], []]
  assert rejected == [[], [], [0], []]
  assert result.accepted.values.dtype == result.rejected.values.dtype == 'i4'
  assert {doc for doc, _ in teacher.asked} == {'ab', 'b'}
  assert (tally.pairs, tally.yes, tally.invalid) == (5, 3, 1)


@pytest.mark.parametrize('name', ['lexical', 'oracle'])
def test_make_teacher(name):
  documents, labels = fake_documents(['a b'], [[0]]), fake_labels(['a'])
  teacher = make_teacher(TeacherConfig(teacher=name), [documents], labels)
  assert name in teacher.identity


def test_llm_without_an_address():
  with pytest.raises(UserError, match='needs --teacher_url=') as info:
    check_teacher(TeacherConfig(), LlmConfig())
  assert '\n' not in str(info.value)
  check_teacher(TeacherConfig(), LlmConfig(teacher_url='http://a:1'))
  check_teacher(TeacherConfig(), LlmConfig(teacher_launch='model'))
  check_teacher(TeacherConfig(teacher='oracle'), LlmConfig())


def test_llm_only_where_it_is_the_teacher():
  with llm_teacher(TeacherConfig(teacher='oracle'), LlmConfig(), '') as llm:
    assert llm is None
  config = LlmConfig(teacher_url='http://127.0.0.1:9')
  with llm_teacher(TeacherConfig(), config, '') as llm:
    assert llm.yes_threshold == 0.5  # and nobody was asked


def test_prompts_are_the_papers():
  question = prompts.render(prompts.TEMPLATES['tag'], 'A text', 'law')
  assert question == (
    'document = A text. Is the tag law relevant to the document? '
    'answer yes or no'
  )
  for template in prompts.TEMPLATES.values():
    assert template.count('{doc}') == template.count('{label}') == 1


def test_prompt_is_safe_against_braces_and_escapes():
  doc, label = r'{label} {0} \1 {', '{doc} }{ {{x}}'
  question = prompts.render('<{doc}|{label}>', doc, label)
  assert question == f'<{doc}|{label}>'
