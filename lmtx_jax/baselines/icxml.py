"""ICXML: an LLM tags each document itself, nothing is trained.

Zhu and Zamani, 2024. For a document, 1. demonstrations are made up: titles that
the LLM writes, with labels that are retrieved for them; 2. with these the LLM
names labels; 3. each is replaced by the nearest labels of the label set; 4. the
LLM picks the best of those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import itertools

import numpy as np
from tqdm import tqdm

from lmtx_jax import processes
from lmtx_jax.baseline_config import IcxmlConfig
from lmtx_jax.baselines import icxml_prompts
from lmtx_jax.baselines.icxml_answers import MAX_CHARS, normalised
from lmtx_jax.baselines.icxml_asker import Asker
from lmtx_jax.baselines.icxml_prompts import (
  DOMAINS,
  NUM_LABELS,
  Demonstration,
)
from lmtx_jax.baselines.icxml_retrieval import Retrieve
from lmtx_jax.data.corpus import Corpus, Texts
from lmtx_jax.teacher.llm.answer_store import AnswerStore
from lmtx_jax.teacher.llm.writer import Writer
from lmtx_jax.types import Ragged, UserError

DEPTH = 100  # labels that a document gets at most
_BLOCK = 1024  # documents that take a step together
_NEAREST = 10  # labels of the label set for each that the LLM names
_NAMED = 20  # labels that the LLM names, at most; more is rambling
# Of the candidates, those that the LLM picks from: at about ten tokens a label
# the prompt fits, with document and answer, into a context of 2,048 tokens.
_SHOWN = 50


class Icxml:
  """All that is needed to tag documents, besides the documents."""

  def __init__(
    self,
    labels: Corpus,
    retrieve: Retrieve,
    config: IcxmlConfig,
    writer: Writer,
    store: AnswerStore,
    asked_by: str,
  ):
    """Asks nothing yet.

    Args:
      labels: the label set, of which the titles are used.
      retrieve: finds labels for texts.
      config: the method's settings.
      writer: the LLM.
      store: keeps its answers.
      asked_by: name of the stage of the run, see `AnswerStore.spent`.
    """
    self._labels, self._retrieve, self._config = labels, retrieve, config
    self._domain = DOMAINS[config.icxml_domain]
    self._make_asker = lambda: Asker(writer, store, asked_by)

  def predict(
    self, documents: Texts, retrieved: np.ndarray, filters: Ragged
  ) -> tuple[np.ndarray, dict[str, float]]:
    """Tags documents; what an earlier attempt has asked is not asked again.

    Args:
      documents: as the LLM reads them; titles are those of their corpus.
      retrieved: `[num_docs, num_retrieved]` int32, labels of plain retrieval,
        best first, -1 where there are no more. Documents keep them that have
        no text, or for which the LLM names no label.
      filters: row `d` holds the labels that document `d` must not be given.

    Returns:
      `[num_docs, DEPTH]` int32 labels: those that were picked, then the other
      candidates in their order, then -1.
      And a report: `documents`; `questions` that were needed; `asked`, those
      that the LLM answered for this stage in all its attempts, which cost
      `prompt_tokens` (of them `cached_tokens`), `generated_tokens`, `seconds`;
      `reused` and `unanswered` ones; `bad_answers` that could not be read, and
      `retried` ones. `tokens_per_document` and `seconds_per_document` are of
      documents that share no answer: the tokens of all their questions, at the
      seconds a question of those asked.

    Raises:
      UserError: no server answers, the store fails, or several processes.
    """
    if processes.count() > 1:
      raise UserError('--method=icxml runs in one process; start it as one')
    asker = self._make_asker()
    out = np.full((len(documents), DEPTH), -1, np.int32)
    with tqdm(total=len(documents), desc='icxml', unit='document') as bar:
      for start in range(0, len(documents), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(documents)))
        banned = filters.take(rows)
        block = _Block(documents, rows, retrieved[rows], banned, asker)
        for row, labels in zip(rows, self._tag(block, bar), strict=True):
          out[row, : len(labels)] = labels
        bar.update(len(rows))
    return out, asker.report(len(documents))

  def _tag(self, block: _Block, bar: tqdm) -> list[list[int]]:
    """Labels of each document of a block, best first, DEPTH at most."""
    bar.set_postfix_str('titles')
    if self._config.icxml_demonstrations == 'content':
      demonstrations = self._similar_titles(block)
    else:
      demonstrations = self._titles_for_labels(block)
    bar.set_postfix_str('labels')
    named = self._name_labels(block, demonstrations)
    candidates = self._candidates(block, named)
    bar.set_postfix_str('picks')
    return self._pick(block, candidates)

  # Step 1

  def _similar_titles(self, block: _Block) -> dict[int, list[Demonstration]]:
    """Demonstrations of titles like that of the document."""
    num = self._config.icxml_num_demonstrations
    answers = block.asker.ask(
      icxml_prompts.similar_titles(self._domain, block.texts[i], num)
      for i in block.asked
    )
    titles = {}
    for i, answer in zip(block.asked, answers, strict=True):
      # One more: among them may be the document's own.
      found = block.asker.titles(answer, num + 1)
      own = normalised(block.titles[i])
      titles[i] = [t for t in found if normalised(t) != own][:num]
    return self._demonstrations(
      titles, self._labels_of(itertools.chain(*titles.values()))
    )

  def _titles_for_labels(self, block: _Block) -> dict[int, list[Demonstration]]:
    """Demonstrations of titles that would have the retrieved labels.

    Titles for which their label is retrieved in turn go first, then those of
    labels nearer to the document do.
    """
    nearest = block.retrieved[:, : self._config.icxml_retrieved]
    used = np.unique(nearest[block.asked])
    used = used[used >= 0].tolist()
    names = self._names(used)
    answers = block.asker.ask(
      icxml_prompts.title_for(self._domain, names[label]) for label in used
    )
    title_of = {
      label: found[0]
      for label, answer in zip(used, answers, strict=True)
      if (found := block.asker.titles(answer, 1))
    }
    labels_of = self._labels_of(title_of.values())
    titles = {}
    for i in block.asked:
      some = [label for label in nearest[i].tolist() if label in title_of]
      some.sort(key=lambda label: label not in labels_of[title_of[label]])
      found = dict.fromkeys(title_of[label] for label in some)
      titles[i] = [*found][: self._config.icxml_num_demonstrations]
    return self._demonstrations(titles, labels_of)

  def _labels_of(self, titles: Iterable[str]) -> dict[str, list[int]]:
    """Labels retrieved for each title, one more than a demonstration has."""
    return self._nearest(titles, self._config.icxml_demonstration_labels + 1)

  def _demonstrations(
    self, titles: dict[int, list[str]], labels_of: dict[str, list[int]]
  ) -> dict[int, list[Demonstration]]:
    """Titles of each document with their labels, by name."""
    num = self._config.icxml_demonstration_labels
    names = self._names(itertools.chain(*labels_of.values()))
    made = {}
    for title, labels in labels_of.items():
      own = normalised(title)  # a page is no label of itself
      shown = [names[x] for x in labels if normalised(names[x]) != own]
      made[title] = Demonstration(title, shown[:num])
    return {i: [made[title] for title in some] for i, some in titles.items()}

  # Steps 2 and 3

  def _name_labels(
    self, block: _Block, demonstrations: dict[int, list[Demonstration]]
  ) -> dict[int, list[str]]:
    """Labels as the LLM puts them."""
    answers = block.asker.ask(
      icxml_prompts.labels_for(self._domain, block.texts[i], demonstrations[i])
      for i in block.asked
    )
    return {
      i: block.asker.labels(answer, _NAMED)
      for i, answer in zip(block.asked, answers, strict=True)
    }

  def _candidates(
    self, block: _Block, named: dict[int, list[str]]
  ) -> list[list[int]]:
    """Labels of the label set, those nearest to what was named first."""
    nearest = self._nearest(itertools.chain(*named.values()), _NEAREST)
    merged = []
    for i, retrieved in enumerate(block.retrieved.tolist()):
      lists = [nearest[name] for name in named.get(i, ())] or [retrieved]
      turns = itertools.chain(*itertools.zip_longest(*lists, fillvalue=-1))
      banned = {-1, *block.filters[i].tolist()}
      merged.append([x for x in dict.fromkeys(turns) if x not in banned])
    names = self._names(itertools.chain(*merged))
    candidates = []
    for labels, title in zip(merged, block.titles, strict=True):
      own = normalised(title)
      allowed = [x for x in labels if not own or normalised(names[x]) != own]
      candidates.append(allowed[:DEPTH])
    return candidates

  # Step 4

  def _pick(
    self, block: _Block, candidates: list[list[int]]
  ) -> list[list[int]]:
    """The candidates, those first that the LLM picks."""
    shown = [labels[:_SHOWN] for labels in candidates]
    names = self._names(itertools.chain(*shown))

    def prompt(i: int, is_firm: bool) -> str:
      listed = [names[label] for label in shown[i]]
      return icxml_prompts.pick_from(
        self._domain, block.texts[i], listed, is_firm
      )

    def read(rows: list[int], answers: list) -> list[int]:
      """Keeps the picks; returns the rows whose answer is a bad one."""
      bad = []
      for i, answer in zip(rows, answers, strict=True):
        found = block.asker.picks(answer, len(shown[i]), NUM_LABELS)
        if found is not None:
          picks[i] = found
        elif answer is not None:  # a firmer question would be no shorter
          bad.append(i)
      return bad

    picks: dict[int, list[int]] = {}
    rows = [i for i in block.asked if len(shown[i]) > 1]
    bad = read(rows, block.asker.ask(prompt(i, False) for i in rows))
    read(bad, block.asker.ask_again(prompt(i, True) for i in bad))
    return [
      _first(labels, picks.get(i, ())) for i, labels in enumerate(candidates)
    ]

  # What all steps need

  def _nearest(self, texts: Iterable[str], k: int) -> dict[str, list[int]]:
    """Labels nearest to each text, best first."""
    distinct = list(dict.fromkeys(texts))
    labels = self._retrieve(distinct, k).tolist()
    return {
      text: [label for label in row if label >= 0]
      for text, row in zip(distinct, labels, strict=True)
    }

  def _names(self, labels: Iterable[int]) -> dict[int, str]:
    """Titles of labels, on one line and not too long."""
    distinct = sorted(set(labels))
    records = self._labels.records(distinct)
    return {
      label: ' '.join(record.title.split())[:MAX_CHARS]
      for label, record in zip(distinct, records, strict=True)
    }


class _Block:
  """Documents that take a step together.

  Attributes:
    texts: of each, as far as a prompt has it.
    titles: of each, '' if it has none.
    asked: rows of those that have a text.
    retrieved: `[num_docs, num_retrieved]` int32, labels of plain retrieval.
    filters: row `d` holds the labels that document `d` must not be given.
    asker: asks about them.
  """

  def __init__(
    self,
    documents: Texts,
    rows: np.ndarray,
    retrieved: np.ndarray,
    filters: Ragged,
    asker: Asker,
  ):
    records = documents.corpus.records(rows)
    self.texts = asker.cut([documents.compose(record) for record in records])
    self.titles = [record.title for record in records]
    self.asked = [i for i, text in enumerate(self.texts) if text.strip()]
    self.retrieved, self.filters, self.asker = retrieved, filters, asker


def _first(labels: list[int], picks: Sequence[int]) -> list[int]:
  """The labels, those at the picked positions first."""
  chosen = dict.fromkeys(labels[pick] for pick in picks)
  return [*chosen, *(label for label in labels if label not in chosen)]
