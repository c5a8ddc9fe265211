"""The questions put to an LLM, by name (LMTX, appendix A.6)."""

from __future__ import annotations

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


def render(template: str, doc: str, label: str) -> str:
  """Fills a template; braces inside the texts stay as they are."""
  texts = {'{doc}': doc, '{label}': label}
  return re.sub(r'\{doc\}|\{label\}', lambda m: texts[m.group()], template)
