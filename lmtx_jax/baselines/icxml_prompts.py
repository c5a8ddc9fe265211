"""What ICXML asks an LLM; the words are ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NUM_LABELS = 10  # that are asked for, and that are picked


class Domain(NamedTuple):
  """What documents and labels are called.

  Attributes:
    document: one of them.
    documents: several of them.
    label: what one is tagged with.
    labels: several of those.
  """

  document: str
  documents: str
  label: str
  labels: str


DOMAINS = {
  'document': Domain('document', 'documents', 'tag', 'tags'),
  'wikipedia': Domain(
    'Wikipedia page',
    'Wikipedia pages',
    'related page or category',
    'related pages or categories',
  ),
  'product': Domain(
    'product in an online shop',
    'products in an online shop',
    'related product or category',
    'related products or categories',
  ),
}


class Demonstration(NamedTuple):
  """A title and labels that may fit it."""

  title: str
  labels: Sequence[str]


def similar_titles(domain: Domain, document: str, num_titles: int) -> str:
  """Asks for titles like that of a document."""
  return (
    f'{_shown(domain, document)}\n\nThink of {num_titles} other'
    f' {domain.documents} on similar subjects and write their titles, each on'
    ' a line of its own. Write nothing else.'
  )


def title_for(domain: Domain, label: str) -> str:
  """Asks for the title of what would have a label."""
  return (
    f'For some {domain.document} this is a fitting {domain.label}:\n{label}\n\n'
    f'Write a title that this {domain.document} may have. Write the title only,'
    ' on one line.'
  )


def labels_for(
  domain: Domain, document: str, demonstrations: Sequence[Demonstration]
) -> str:
  """Asks for the labels of a document."""
  parts = []
  if demonstrations:
    parts.append(f'Titles of {domain.documents}, each with {domain.labels}:')
  for demonstration in demonstrations:
    labels = '\n'.join(f'- {label}' for label in demonstration.labels)
    parts.append(f'Title: {demonstration.title}\n{labels}')
  parts.append(_shown(domain, document))
  parts.append(
    f'List at least {NUM_LABELS} {domain.labels} for this {domain.document},'
    ' the best first, each on a line of its own that begins with "- ". Write'
    ' nothing else.'
  )
  return '\n\n'.join(parts)


def pick_from(
  domain: Domain, document: str, labels: Sequence[str], is_firm: bool = False
) -> str:
  """Asks for the best of a numbered list, the first being 1.

  Args:
    domain: what documents and labels are called.
    document: its text.
    labels: the list.
    is_firm: whether an earlier answer could not be read.
  """
  numbered = '\n'.join(f'{i}. {label}' for i, label in enumerate(labels, 1))
  num = min(NUM_LABELS, len(labels))
  prompt = (
    f'{_shown(domain, document)}\n\nA numbered list of {domain.labels}:\n'
    f'{numbered}\n\nWhich {num} of the list fit this {domain.document} best?'
    ' Answer with a JSON list of their numbers, the best first.'
  )
  if is_firm:
    prompt += (
      f' The answer must be that list alone, from [ to ], with {num} different'
      f' whole numbers from 1 to {len(labels)}: no words, no labels, no code.'
    )
  return prompt


def _shown(domain: Domain, document: str) -> str:
  return f'Text of a {domain.document}:\n{document}'
