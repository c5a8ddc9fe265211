"""Documents worth a look: the best and the worst of a run."""

from __future__ import annotations

import dataclasses

import numpy as np

from lmtx_jax.data.corpus import Corpus, document_text, label_text
from lmtx_jax.reporting.documents import RunDocuments
from lmtx_jax.reporting.record import RunRecord
from lmtx_jax.reporting.verdicts import StoredVerdicts, Verdict
from lmtx_jax.stages import DOCUMENT_SCORES, TEST_LABELS
from lmtx_jax.types import NO, YES, PseudoLabels, Ragged, Record

_NUM_EXAMPLES = 10  # at either end
_MOST_LABELS = 10  # of a document's shortlist
_MOST_MISSED = 20  # true labels named of a document
_SHOWN = ('P@1', 'P@5', 'R@10', 'nDCG@5')


@dataclasses.dataclass(frozen=True)
class Tag:
  """A label that a document was given.

  Attributes:
    label: the record.
    score: of document and label; None where there is none.
    is_true: None where the document's truth is not known.
    verdict: the teacher's; None where it was not asked.
  """

  label: Record
  score: float | None
  is_true: bool | None
  verdict: Verdict | None


@dataclasses.dataclass(frozen=True)
class Example:
  """One document.

  Attributes:
    document: the record.
    tags: its labels, best first.
    missed: true labels that are not among them, the first ones.
    num_missed: how many there are in all.
    scores: percent by name.
  """

  document: Record
  tags: list[Tag]
  missed: list[Record]
  num_missed: int
  scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Some documents under a heading.

  Attributes:
    title: what they have in common.
    caption: how they were chosen.
    examples: the documents.
  """

  title: str
  caption: str
  examples: list[Example]


def test_galleries(
  record: RunRecord, documents: RunDocuments, store: StoredVerdicts
) -> list[Gallery]:
  """Test documents as the run's best encoder, or its LLM, tags them."""
  folder, corpus = record.final.folder, documents.test
  found = record.arrays(folder, TEST_LABELS)
  if found is None or not _fits(record, folder, found['labels'], corpus):
    return []
  labels = found['labels']
  scores = found.get('scores', np.full(labels.shape, np.nan, np.float32))
  first = np.nan_to_num(scores[:, 0])
  rows = np.flatnonzero(corpus.targets.lengths > 0)
  of_each = record.arrays(folder, DOCUMENT_SCORES) if len(rows) else None
  values = [{} for _ in range(len(corpus))]
  if of_each and len(of_each['nDCG@5']) == len(rows):
    for place, row in enumerate(rows):
      values[row] = {name: float(of_each[name][place]) for name in _SHOWN}
    key, last = of_each['nDCG@5'], -first[rows]
    tie = 'nDCG@5; of equal ones those with the highest first score.'
    parts = [
      ('Best test documents', f'Highest {tie}', np.lexsort((last, -key))),
      ('Worst test documents', f'Lowest {tie}', np.lexsort((last, key))),
    ]
  else:
    rows, order = np.arange(len(corpus)), np.argsort(-first, kind='stable')
    why = 'first score; no truth is known of them.'
    parts = [
      ('Surest test documents', f'Highest {why}', order),
      ('Least sure test documents', f'Lowest {why}', order[::-1]),
    ]
  galleries = []
  for title, caption, order in parts:
    some = rows[_few(order)]
    shown = _Shown(corpus, documents, some, labels[some], scores[some])
    galleries.append(
      Gallery(title, caption, shown.examples(shown.stored(store), values))
    )
  return galleries


def training_galleries(
  record: RunRecord, documents: RunDocuments, store: StoredVerdicts
) -> list[Gallery]:
  """Training documents with what the teacher said of them, in the last cycle.

  Ordered by how well its yeses agree with the truth (F1) where that is known,
  else by how many there are.
  """
  taught = [cycle for cycle in record.cycles if cycle.teaching]
  if not taught:
    return []
  folder, corpus = taught[-1].folder, documents.train
  shortlist = record.arrays(folder, 'shortlist.npz')
  found = record.arrays(folder, 'pseudo_labels.npz')
  if shortlist is None or found is None:
    return []
  if not _fits(record, folder, shortlist['labels'], corpus):
    return []
  said = PseudoLabels(
    Ragged(found['accepted_values'], found['accepted_offsets']),
    Ragged(found['rejected_values'], found['rejected_offsets']),
  )
  where = f'Cycle {taught[-1].number}, first labels of the shortlist.'
  if len(corpus.targets.values):
    f1 = _agreement(said.accepted, corpus.targets, len(documents.labels))
    order = np.argsort(-f1, kind='stable')
    order = order[~np.isnan(f1[order])]
    heads = ('where the teacher agrees with the truth', 'where it does not')
    how = "By F1 of the teacher's yeses, where the truth is known."
    values = [{'F1': 100 * float(value)} for value in f1]
  else:
    counts = said.accepted.lengths
    order = np.argsort(-counts, kind='stable')
    order = order[counts[order] > 0]
    heads = ('with most yeses', 'with fewest yeses')
    how = 'Of those with a yes; no truth is known of them.'
    values = [{} for _ in range(len(corpus))]
  galleries = []
  for head, part in zip(heads, (order, order[::-1]), strict=True):
    some = _few(part)
    shown = _Shown(
      corpus,
      documents,
      some,
      shortlist['labels'][some, :_MOST_LABELS],
      shortlist['scores'][some, :_MOST_LABELS],
    )
    verdicts = shown.settled(said, shown.stored(store))
    galleries.append(
      Gallery(
        f'Training documents {head}',
        f'{how} {where}',
        shown.examples(verdicts, values),
      )
    )
  return galleries


@dataclasses.dataclass(frozen=True)
class _Shown:
  """A few documents and the labels shown of them.

  Attributes:
    corpus: where they are from.
    documents: of the run.
    rows: `[n]` int64, of `corpus`.
    labels: `[n, k]` int32, -1 where there are no more.
    scores: `[n, k]` float32, NaN where there are none.
  """

  corpus: Corpus
  documents: RunDocuments
  rows: np.ndarray
  labels: np.ndarray
  scores: np.ndarray

  def stored(self, store: StoredVerdicts) -> list[list[Verdict | None]]:
    """What the store holds of them."""
    config = self.documents.text
    texts = [
      document_text(record, config.encode_title)
      for record in self.corpus.records(self.rows)
    ]
    labels = [
      [
        label_text(record, config.label_text)
        for record in self.documents.labels.records(row[row >= 0])
      ]
      for row in self.labels
    ]
    return store.read(texts, labels)

  def settled(
    self, said: PseudoLabels, stored: list[list[Verdict | None]]
  ) -> list[list[Verdict | None]]:
    """As the cycle took them; the store adds the probability."""
    settled = []
    for row, labels, verdicts in zip(
      self.rows, self.labels, stored, strict=True
    ):
      answers = dict.fromkeys(said.rejected[row].tolist(), NO)
      answers |= dict.fromkeys(said.accepted[row].tolist(), YES)
      settled.append(
        [
          Verdict(answers[label], verdict.p_yes if verdict else None)
          if label in answers
          else verdict
          for label, verdict in zip(
            labels[labels >= 0].tolist(), verdicts, strict=True
          )
        ]
      )
    return settled

  def examples(
    self,
    verdicts: list[list[Verdict | None]],
    values: list[dict[str, float]],
  ) -> list[Example]:
    """The documents; `values` are scores of all documents of the corpus."""
    found = []
    for i, document in enumerate(self.corpus.records(self.rows)):
      row, truth = self.rows[i], self.corpus.targets[self.rows[i]]
      labels = self.labels[i][self.labels[i] >= 0]
      missed = truth[~np.isin(truth, labels)]
      is_true = np.isin(labels, truth).tolist()
      records = self.documents.labels.records(labels)
      tags = [
        Tag(
          label,
          float(score) if np.isfinite(score) else None,
          is_true[place] if len(truth) else None,
          verdict,
        )
        for place, (label, score, verdict) in enumerate(
          zip(records, self.scores[i], verdicts[i], strict=False)
        )
      ]
      named = self.documents.labels.records(missed[:_MOST_MISSED])
      found.append(Example(document, tags, named, len(missed), values[row]))
    return found


def _few(order: np.ndarray) -> np.ndarray:
  """The first ones, and never one of the other end."""
  return order[: min(_NUM_EXAMPLES, max(1, len(order) // 2))]


def _fits(
  record: RunRecord, folder: str, labels: np.ndarray, corpus: Corpus
) -> bool:
  """Whether an array is of these documents; if not, that is noted."""
  if len(labels) == len(corpus):
    return True
  record.notes.append(
    f'{folder}: labels of {len(labels)} documents, but there are {len(corpus)};'
    ' no examples'
  )
  return False


def _agreement(given: Ragged, truth: Ragged, num_labels: int) -> np.ndarray:
  """`[num_docs]` float64, F1 of each document; NaN without truth."""
  keys = [
    np.unique(part.row_ids * num_labels + part.values)
    for part in (given, truth)
  ]
  num_given, num_true, num_both = (
    np.bincount(rows // num_labels, minlength=len(truth))
    for rows in (*keys, np.intersect1d(*keys, assume_unique=True))
  )
  total = num_given + num_true
  is_known = truth.lengths > 0
  return np.where(is_known, 2 * num_both / np.maximum(total, 1), np.nan)
