"""The README.md of a bundle: what it is, how good, how to load, from where."""

from __future__ import annotations

from collections.abc import Mapping
import os
import re
import textwrap
from typing import Any

from lmtx_jax.model.pretrained import local_folder

_USAGE = """## Use it

Tag documents, one JSON object `{"uid", "title", "content"}` a line:

    python -m lmtx_jax.predict --bundle=FOLDER --input=docs.jsonl --output=tags.jsonl

In Python:

    from lmtx_jax.bundle import Bundle
    from lmtx_jax.types import Record
    Bundle('FOLDER').predictions([Record('a', 'a title', 'a text')], top_k=10)

The encoder alone, for documents and labels alike, in sentence-transformers:

    from sentence_transformers import SentenceTransformer
    SentenceTransformer('FOLDER').encode(['a title\\ta text'])

Labels are added and removed without training by `python -m lmtx_jax.labels`.
After that, the current labels, embeddings and index are in the folder that
`label_folder` in lmtx.json names, not beside it.
"""  # noqa: E501

_HUB_NAME = re.compile(r'(\w[\w.-]*/)?\w[\w.-]*', re.ASCII)


def write_card(folder: str, about: Mapping[str, Any]) -> None:
  """Writes README.md; equal facts make equal bytes.

  Args:
    folder: of the bundle.
    about: what its lmtx.json tells; dataset, scores and flags may be missing.
  """
  text = '\n'.join(
    [*_head(about), *_facts(about), '', *_scores(about), _USAGE, *_flags(about)]
  )
  with open(os.path.join(folder, 'README.md'), 'w', encoding='utf-8') as f:
    f.write(text)


def licence_of(encoder: str) -> str:
  """The licence that a model's own README.md names; '' where none is known.

  Args:
    encoder: what was loaded: a folder or a hub name.
  """
  folder = '' if encoder in ('', 'scratch') else local_folder(encoder)
  path = os.path.join(folder, 'README.md')
  if not folder or not os.path.isfile(path):
    return ''
  with open(path, encoding='utf-8', errors='replace') as f:
    head = re.match(r'---\s*\n(.*?)\n---\s*\n', f.read(), re.DOTALL)
  known = head and re.search(
    r'^license:[ \t]*["\']?([\w.+-]+)', head[1], re.MULTILINE
  )
  return known[1] if known else ''


def _head(about: Mapping[str, Any]) -> list[str]:
  """What machines read of a card."""
  encoder = _setting(about, 'encoder')
  licence, base = licence_of(encoder), encoder != 'scratch'
  # Of a folder nobody else knows where it is.
  base = base and not os.path.exists(encoder) and _HUB_NAME.fullmatch(encoder)
  return [
    '---',
    'library_name: sentence-transformers',
    'pipeline_tag: sentence-similarity',
    *([f'license: {licence}'] if licence else []),
    *([f'base_model: {encoder}'] if base else []),
    'tags:',
    *('- sentence-transformers', '- feature-extraction', '- lmtx'),
    '---',
    '',
  ]


def _facts(about: Mapping[str, Any]) -> list[str]:
  encoder = _setting(about, 'encoder')
  base = f'`{_short(encoder)}`' if encoder else 'unknown'
  licence = licence_of(encoder)
  told = f'{licence}, as its README.md says' if licence else 'unknown'
  if encoder == 'scratch':
    base, told = 'none: the encoder started from nothing', 'there is none'
  dataset = about.get('dataset', 'unknown')
  return [
    f'# A tagger for {dataset}',
    '',
    'A bi-encoder and a label set, trained by lmtx_jax. A document gets the',
    'labels whose embeddings have the largest inner product with its own.',
    *_words(about),
    '',
    f'- dataset: {dataset}',
    f'- method: {_setting(about, "method") or "unknown"}',
    f'- teacher: {_setting(about, "teacher") or "unknown"}',
    f'- labels at the end of training: {about["num_labels"]:,}',
    f'- embeddings: {about["dim"]} dimensions',
    f'- longest text: {about["max_doc_tokens"]} tokens of a document,'
    f' {about["max_label_tokens"]} of a label',
    f'- base model: {base}',
    f'- licence of the base model: {told}',
    f'- made by lmtx_jax {about["version"]}',
  ]


def _words(about: Mapping[str, Any]) -> list[str]:
  weight = about.get('lexical_weight')
  if not weight:
    return []
  more = ''
  if prior := about.get('label_prior'):
    more += f', {prior:g} times log(1 + pseudo labels) of the label'
  if votes := about.get('neighbour_weight'):
    more += (
      f', {votes:g} times the share, by nearness, of the'
      f' {about["neighbours"]} nearest training documents with pseudo labels'
      ' (`neighbours.npy`) that have it'
    )
  return textwrap.wrap(
    f'To that, lmtx_jax adds {weight:g} times the cosine of the words that the'
    f' two share (TF-IDF; in `lexical/`){more}. sentence-transformers gives'
    ' embeddings alone: its ranking is another than the one that has the scores'
    ' below.',
    80,
    break_on_hyphens=False,
  )


def _scores(about: Mapping[str, Any]) -> list[str]:
  known = {
    name: value
    for name, value in (about.get('test') or {}).items()
    if value is not None
  }
  if not known:
    return ['## Scores', '', 'None: nothing was known of test documents.', '']
  return [
    '## Scores',
    '',
    'Percent, on the test documents of the dataset:',
    '',
    '| ' + ' | '.join(known) + ' |',
    '|' + ' ---: |' * len(known),
    '| ' + ' | '.join(f'{value:.1f}' for value in known.values()) + ' |',
    '',
  ]


def _flags(about: Mapping[str, Any]) -> list[str]:
  flags = [flag.partition('=') for flag in about.get('flags', ())]
  return [
    '## Flags of the training',
    '',
    *(f'    --{name}={_short(value)}' for name, _, value in flags),
    '',
  ]


def _setting(about: Mapping[str, Any], name: str) -> str:
  """The value of a flag of the training; '' where it is not known."""
  return dict(flag.partition('=')[::2] for flag in about.get('flags', ())).get(
    name, ''
  )


def _short(value: str) -> str:
  """A value of a flag without the place that a folder had."""
  value = value.replace('\n', '\\n')
  return os.path.basename(value.rstrip('/')) if os.path.exists(value) else value
