"""Lists of labels, as a fake server is asked about them and answers."""

import collections
import re

from asking_fakes import DOCS, LABELS, make_pairs, make_teacher, plain_prompt
from fake_model import Said, right_p_yes
import numpy as np

from lmtx_jax.teacher import prompts
from lmtx_jax.types import NO, YES

SIZE = 4  # nine labels: two lists of four, and one alone
PAIRS = make_pairs(DOCS, LABELS)
_LIST = re.compile(
  r'document = (.*)\. Which of these tags .*?\n(.*)\nAnswer with one line',
  re.DOTALL,
)


def list_teacher(*servers, **flags):
  """A teacher of these servers that asks about lists."""
  urls = (x if isinstance(x, str) else x.url for x in servers)
  flags = {'question': 'list', 'list_size': SIZE, **flags}
  return make_teacher(*urls, **flags)


def list_p_yes(doc, labels):
  """What a fake server thinks of each label, in this company."""
  return [right_p_yes(f'{doc}|{labels}|{i}') for i in range(len(labels))]


def labels_of(prompt):
  """`(document, labels)` of a prompt about a list, or None."""
  found = _LIST.search(prompt)
  if not found:
    return None
  lines = found[2].split('\n')
  return found[1], tuple(line.partition('. ')[2] for line in lines)


def lines_of(p_yes):
  """The answer that is wanted."""
  return [f'{i}. {"yes" if p > 0.5 else "no"}' for i, p in enumerate(p_yes, 1)]


def right(prompt, spoil=None):
  """What a fake server answers to a list or to a pair.

  Args:
    prompt: what is asked.
    spoil: changes the lines, and the p_yes of their words.
  """
  asked = labels_of(prompt)
  if not asked:
    return right_p_yes(prompt)
  p_yes = list_p_yes(*asked)
  lines = lines_of(p_yes)
  if spoil:
    lines, p_yes = spoil(asked, lines, p_yes)
  return Said('\n'.join(lines), p_yes)


def list_prompt(doc, labels):
  """What is asked about a list."""
  return prompts.render_list(prompts.LIST_TEMPLATES['tag'], doc, labels)


def expected(again=lambda doc, label: False, size=SIZE):
  """`[num_pairs]` p_yes of all PAIRS, in lists or where asked again alone."""
  found = []
  for doc in DOCS:
    for i in range(0, len(LABELS), size):
      some = tuple(LABELS[i : i + size])
      p_yes = list_p_yes(doc, some)
      for label, p in zip(some, p_yes, strict=True):
        is_alone = len(some) == 1 or again(doc, label)
        found.append(right_p_yes(plain_prompt(doc, label)) if is_alone else p)
  return np.array(found)


def assert_verdicts(verdicts, p_yes, atol=1e-6):
  """Verdicts are those."""
  np.testing.assert_allclose(verdicts.p_yes, p_yes, atol=atol)
  clear = abs(p_yes - 0.5) > atol
  np.testing.assert_array_equal(
    verdicts.answer[clear], np.where(p_yes > 0.5, YES, NO)[clear]
  )


def asked(server):
  """How often each list, and each pair alone, was asked."""
  in_lists, alone = collections.Counter(), collections.Counter()
  for prompt, times in server.answered.items():
    if prompt.startswith('Is it?'):
      continue  # the client's own, to try a tokenizer
    (in_lists if labels_of(prompt) else alone)[prompt] += times
  return in_lists, alone


def spoil_third(change):
  """Spoils the answer about the first list of every second document."""

  def spoil(asked, lines, p_yes):
    doc, labels = asked
    if DOCS.index(doc) % 2 or labels[0] != LABELS[0]:
      return lines, p_yes
    return change(list(lines), list(p_yes))

  return spoil
