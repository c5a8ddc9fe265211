"""A small world for ICXML: labels of two words, an LLM that knows them."""

import collections
import hashlib
import json
import re

import numpy as np
from run_fixtures import write_corpus

from lmtx_jax.baseline_config import IcxmlConfig
from lmtx_jax.baselines.icxml import Icxml
from lmtx_jax.config import TextConfig
from lmtx_jax.data.corpus import Corpus, document_texts
from lmtx_jax.types import Ragged, Record

COLOURS = [
  'red',
  'blue',
  'green',
  'black',
  'white',
  'brown',
  'gold',
  'pink',
]
ANIMALS = ['cat', 'dog', 'fox', 'owl', 'bee', 'ant', 'elk', 'hen']
LABELS = [f'{colour} {animal}' for animal in ANIMALS for colour in COLOURS]
# (title, content); what is wanted is right, in this order.
DOCS = [
  ('On cats', 'A tale. wanted: gold cat, red cat, white dog.'),
  ('On dogs', 'A story. wanted: blue dog, brown dog.'),
  ('', 'Without a title. wanted: pink hen, red fox, red bee.'),
  ('red owl', 'Named as a label. wanted: black owl, green owl.'),
  ('', ' '),
  ('On elks', 'The last. wanted: white elk.'),
]
EMPTY = 4  # the document without a text


class FakeSource(list):
  def __getitems__(self, rows):
    return [self[i]._asdict() for i in rows]


def corpus(name, records):
  """A corpus in memory, of (title, content)."""
  records = [Record(f'{name}{i}', *r) for i, r in enumerate(records)]
  nothing = Ragged.from_rows([[] for _ in records])
  return Corpus(
    name,
    hashlib.sha256(repr(records).encode()).hexdigest(),
    FakeSource(records),
    np.arange(len(records)),
    nothing,
    nothing,
  )


def label_corpus(labels=LABELS):
  return corpus('label', [(label, '') for label in labels])


def doc_texts(docs=DOCS):
  return document_texts(corpus('test', docs), TextConfig(encode_title=True))


def write_data(folder):
  """A data folder of DOCS, as test documents, and LABELS."""

  def row(uid, title, content):
    targets = [LABELS.index(label) for label in wanted(content)]
    doc = {'uid': uid, 'title': title, 'content': content}
    return doc | {'target_ind': targets}

  train = [row(f't{i}', x, f'A {x}.') for i, x in enumerate(LABELS)]
  test = [row(f'd{i}', *doc) for i, doc in enumerate(DOCS)]
  labels = [{'uid': x, 'title': x, 'content': ''} for x in LABELS]
  return write_corpus(folder, {'trn': train, 'tst': test, 'lbl': labels})


def words_in_common(labels=LABELS):
  """Retrieval by words in common; the first label wins among equals."""

  def retrieve(texts, k):
    retrieve.asked += texts
    out = np.full((len(texts), k), -1, np.int32)
    for row, text in zip(out, texts, strict=True):
      common = [len({*words(text)} & {*words(label)}) for label in labels]
      best = np.argsort(-np.array(common), kind='stable')[:k]
      row[: len(best)] = best
    return out

  retrieve.asked = []
  return retrieve


def words(text):
  return [word.rstrip('s') for word in re.findall(r'\w+', text.lower())]


def wanted(text):
  """The labels that are right for a document."""
  found = re.search(r'wanted: ([^.]*)\.', text)
  return found[1].split(', ') if found else []


class FakeLlm:
  """Answers every question of ICXML as well as can be.

  Attributes:
    odd: kind of question -> its answer instead, or a function of the prompt
      that gives one, or None for the usual one.
    prompts: by kind, in the order they came.
  """

  def __init__(self, **odd):
    self.odd = odd
    self.prompts = collections.defaultdict(list)

  def __call__(self, prompt):
    kind = kind_of(prompt)
    self.prompts[kind].append(prompt)
    odd = self.odd.get(kind)
    odd = odd(prompt) if callable(odd) else odd
    return getattr(self, kind)(prompt) if odd is None else odd

  def titles(self, prompt):
    animals = [label.split()[1] for label in wanted(prompt)]
    lines = [f'{i}. All about {animal}s' for i, animal in enumerate(animals, 1)]
    return 'Here they are:\n\n' + '\n'.join(lines)

  def title(self, prompt):
    return f'"A song of the {label_of(prompt)}"'

  def labels(self, prompt):
    """Close to what is wanted, and with a word that is nowhere else."""
    return '\n'.join(f'- very {label}' for label in wanted(prompt))

  def picks(self, prompt):
    listed = listed_in(prompt)
    return json.dumps([listed.index(x) + 1 for x in wanted(prompt)])

  firm_picks = picks


def kind_of(prompt):
  """titles, title, labels, picks or firm_picks."""
  for kind, words in {
    'firm_picks': 'The answer must be that list alone',
    'picks': 'a JSON list of their numbers',
    'labels': 'List at least',
    'titles': 'write their titles',
    'title': 'Write the title only',
  }.items():
    if words in prompt:
      return kind
  raise AssertionError(prompt)


def label_of(prompt):
  """The label that a title is asked for."""
  return re.search(r':\n(.*)\n\n', prompt)[1]


def listed_in(prompt):
  """The labels that one may pick from."""
  return re.findall(r'^\d+\. (.*)$', prompt, re.M)


def tag(
  store,
  writer,
  docs=DOCS,
  labels=LABELS,
  filters=None,
  asked_by='run/icxml',
  **flags,
):
  """Names of the labels of each document, and the report."""
  retrieve = words_in_common(labels)
  icxml = Icxml(
    label_corpus(labels),
    retrieve,
    IcxmlConfig(**{'icxml_domain': 'document', **flags}),
    writer,
    store,
    asked_by,
  )
  texts = doc_texts(docs)
  out, report = icxml.predict(
    texts,
    words_in_common(labels)(texts.get(range(len(docs))), 40),
    Ragged.from_rows(filters or [[] for _ in docs]),
  )
  assert out.shape == (len(docs), 100) and out.dtype == np.int32
  return [[labels[x] for x in row if x >= 0] for row in out], report
