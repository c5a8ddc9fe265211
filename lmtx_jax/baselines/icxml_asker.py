"""ICXML's questions: asked, counted, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable

from lmtx_jax.baselines.icxml_answers import read_items, read_picks
from lmtx_jax.teacher.llm.answer_store import Answer, AnswerStore
from lmtx_jax.teacher.llm.writer import Writer


class Asker:
  """Puts questions to an LLM, reads its answers, and keeps count."""

  def __init__(self, writer: Writer, store: AnswerStore, asked_by: str):
    """Asks nothing yet.

    Args:
      writer: the LLM.
      store: keeps its answers.
      asked_by: name of the stage of the run, see `AnswerStore.spent`.
    """
    self._writer, self._store, self._asked_by = writer, store, asked_by
    self._questions = self._unanswered = self._tokens = 0
    self._bad_answers = self._retried = 0

  def cut(self, texts: list[str]) -> list[str]:
    """Documents cut to what a prompt may have of them."""
    return self._writer.cut(texts)

  def ask(self, prompts: Iterable[str]) -> list[Answer | None]:
    """Answers in order, None where no server could give one."""
    questions = list(prompts)
    answers = self._store.answers(self._writer, questions, self._asked_by)
    self._questions += len(questions)
    self._unanswered += answers.count(None)
    self._tokens += sum(
      answer.prompt_tokens + answer.new_tokens for answer in answers if answer
    )
    return answers

  def ask_again(self, prompts: Iterable[str]) -> list[Answer | None]:
    """As `ask`, with firmer questions in the place of others."""
    questions = list(prompts)
    self._retried += len(questions)
    return self.ask(questions)

  def titles(self, answer: Answer | None, most: int) -> list[str]:
    """Titles that an answer lists; one that lists none is a bad one."""
    return self._items(answer, most, splits=False)

  def labels(self, answer: Answer | None, most: int) -> list[str]:
    """Labels that an answer lists; one that lists none is a bad one."""
    return self._items(answer, most, splits=True)

  def _items(self, answer: Answer | None, most: int, splits: bool) -> list[str]:
    if answer is None:
      return []
    items = read_items(answer.text, answer.is_cut, most, splits)
    self._bad_answers += not items
    return items

  def picks(
    self, answer: Answer | None, num_labels: int, most: int
  ) -> list[int] | None:
    """See `read_picks`; None also where there is no answer."""
    if answer is None:
      return None
    picks = read_picks(answer.text, num_labels, most)
    self._bad_answers += picks is None
    return picks

  def report(self, num_docs: int) -> dict[str, float]:
    """What it took, see `Icxml.predict`."""
    spent = self._store.spent(self._asked_by)
    answered = self._questions - self._unanswered
    seconds_a_question = spent['seconds'] / max(spent['asked'], 1)
    seconds_alone = seconds_a_question * answered
    return {
      'documents': num_docs,
      'questions': self._questions,
      'asked': spent['asked'],
      'reused': max(0, answered - spent['asked']),
      'unanswered': self._unanswered,
      'bad_answers': self._bad_answers,
      'retried': self._retried,
      'prompt_tokens': spent['prompt_tokens'],
      'cached_tokens': int(spent.get('cached_tokens', 0)),
      'generated_tokens': spent['new_tokens'],
      'seconds': round(spent['seconds'], 3),
      'tokens_per_document': round(self._tokens / max(num_docs, 1), 1),
      'seconds_per_document': round(seconds_alone / max(num_docs, 1), 4),
    }
