"""The questions put to an LLM, by name (LMTX, appendix A.6)."""

from __future__ import annotations

from collections.abc import Sequence
import re

TEMPLATES = {
  # EURLex-4K, Wiki10-31K
  'tag': (
    'document = {doc}. Is the tag {label} relevant to the document? '
    'answer yes or no'
  ),
  # AmazonCat-13K
  'product': (
    'document = {doc}. The document is amazon product description, Is the tag '
    '{label} relevant to the document? answer yes or no'
  ),
  # LF-WikiSeeAlso-320K
  'see_also': (
    'document = {doc}. The document is the wikipedia page. Does another '
    'wikipedia page name "{label}" has the relation to the document? '
    'answer yes or no'
  ),
  # LF-Wikipedia-500K
  'wikipedia': (
    'document = {doc}, the document is the wikipedia page. Is the tag '
    '"{label}" relevant to the document? answer yes or no'
  ),
}

_EACH_LINE = (
  '\n{labels}\nAnswer with one line for each number: the number, a full stop, '
  'and yes or no.'
)
# The same questions about several labels at once; not of the paper.
LIST_TEMPLATES = {
  'tag': (
    'document = {doc}. Which of these tags are relevant to the document?'
    + _EACH_LINE
  ),
  'product': (
    'document = {doc}. The document is amazon product description. Which of '
    'these tags are relevant to the document?' + _EACH_LINE
  ),
  'see_also': (
    'document = {doc}. The document is the wikipedia page. Which other '
    'wikipedia pages of these names have the relation to the document?'
    + _EACH_LINE
  ),
  'wikipedia': (
    'document = {doc}, the document is the wikipedia page. Which of these tags '
    'are relevant to the document?' + _EACH_LINE
  ),
}


def render(template: str, doc: str, label: str) -> str:
  """Fills a template; braces inside the texts stay as they are."""
  return _fill(template, {'{doc}': doc, '{label}': label})


def render_list(template: str, doc: str, labels: Sequence[str]) -> str:
  """Fills a template of several labels: each becomes a line with its number."""
  # A line break within a label could pass for another one's line.
  lines = (f'{i}. {" ".join(x.split())}' for i, x in enumerate(labels, 1))
  return _fill(template, {'{doc}': doc, '{labels}': '\n'.join(lines)})


def _fill(template: str, texts: dict[str, str]) -> str:
  places = '|'.join(map(re.escape, texts))
  return re.sub(places, lambda m: texts[m.group()], template)
