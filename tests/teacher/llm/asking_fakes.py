"""Puts pairs of made texts to an LlmTeacher in front of fake servers."""

import collections
import contextlib
import hashlib
import signal

from fake_server import right_p_yes
import numpy as np
import pytest

from lmtx_jax.llm_config import LlmConfig
from lmtx_jax.teacher import prompts
from lmtx_jax.teacher.llm.teacher import LlmTeacher
from lmtx_jax.teacher.pairs import Pairs
from lmtx_jax.types import NO, YES, UserError

_STUCK_S = 60.0
DOCS = [f'the document of {i} is ' * (i % 4 + 1) for i in range(7)]
LABELS = [f'tag {i}' for i in range(9)]
_SMALL = {'teacher_batch_size': 4, 'teacher_in_flight': 16}


class FakeTexts(list):
  """Texts as they are, without a corpus."""

  def get(self, rows):
    return [self[row] for row in rows]

  @property
  def digests(self):
    texts = (hashlib.blake2b(text.encode(), digest_size=16) for text in self)
    return np.frombuffer(b''.join(t.digest() for t in texts), 'V16')


def make_pairs(docs, labels, rows=None):
  """Pairs of all documents and labels, or of the given (doc, label) rows."""
  if rows is None:
    rows = [(d, i) for d in range(len(docs)) for i in range(len(labels))]
  table = np.array(rows, np.int64).reshape(-1, 2)
  return Pairs(FakeTexts(docs), FakeTexts(labels), table[:, 0], table[:, 1])


def make_teacher(*urls, **flags):
  """A teacher of these servers, with a flag or two."""
  flags = {
    'chat_format': 'none',
    'teacher_timeout_s': 5.0,
    'teacher_patience': 20.0,
    **flags,
  }
  config = LlmConfig(teacher_urls=','.join(urls), **flags)
  return LlmTeacher(config, 'tag')


def texts_of(pairs):
  """`(document, label)` of each pair."""
  return [
    (pairs.documents[d], pairs.labels[i])
    for d, i in zip(pairs.doc_index, pairs.label_index, strict=True)
  ]


def plain_prompt(doc, label):
  """What is asked without a chat."""
  return prompts.render(prompts.TEMPLATES['tag'], doc, label)


def right_answers(pairs, prompt=plain_prompt):
  """`[num_pairs]` p_yes that is right."""
  return np.array([right_p_yes(prompt(*texts)) for texts in texts_of(pairs)])


def in_time(call, *args, **kwargs):
  """What a call brings; one that hangs is a failure, not a test that hangs."""

  def give_up(*unused):
    raise AssertionError('it hangs')

  before = signal.signal(signal.SIGALRM, give_up)
  signal.setitimer(signal.ITIMER_REAL, _STUCK_S)
  try:
    return call(*args, **kwargs)
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


def judge(store, teacher, pairs, asked_by='run/0'):
  """Verdicts and tally of a store."""
  return in_time(store.judge, teacher, pairs, asked_by)


def small_teacher(*servers, **flags):
  """A teacher of these servers or addresses, with small requests."""
  return make_teacher(
    *(x if isinstance(x, str) else x.url for x in servers),
    **{**_SMALL, **flags},
  )


def assert_right(verdicts, pairs, atol=1e-6, prompt=plain_prompt):
  """Every pair has what a fake server thinks of it."""
  right = right_answers(pairs, prompt)
  np.testing.assert_allclose(verdicts.p_yes, right, atol=atol)
  clear = abs(right - 0.5) > atol
  np.testing.assert_array_equal(
    verdicts.answer[clear], np.where(right > 0.5, YES, NO)[clear]
  )


def prompts_of(pairs):
  """What is asked about pairs."""
  return {plain_prompt(*texts) for texts in texts_of(pairs)}


def stops(store, teacher, pairs, match):
  """Judging that ends with one line; returns it."""
  with pytest.raises(UserError, match=match) as info:
    judge(store, teacher, pairs)
  assert len(str(info.value).splitlines()) == 1
  return str(info.value)


def delivered(*proxies):
  """Prompts whose right answers went to the client, and how often."""
  done = sum((proxy.answered for proxy in proxies), collections.Counter())
  del done[plain_prompt('', '')]  # the client's own, to try a server
  return done


class FakeMeddler:
  """A teacher that does something else whenever answers come."""

  def __init__(self, teacher, meddle):
    """Takes what to call with the number of answers so far."""
    self._teacher, self._meddle = teacher, meddle

  def __getattr__(self, name):
    return getattr(self._teacher, name)

  def judge(self, pairs):
    num = 0
    with contextlib.closing(self._teacher.judge(pairs)) as answers:
      for positions, verdicts in answers:
        yield positions, verdicts
        num += len(positions)
        self._meddle(num)


def after(num_answers, action):
  """Something that happens once, after so many answers."""
  waiting = [action]

  def meddle(num):
    if waiting and num >= num_answers:
      waiting.pop()()

  return meddle


def ask_all(teacher, pairs):
  """p_yes in the order of the pairs, each answered exactly once."""
  return in_time(_ask_all, teacher, pairs)


def _ask_all(teacher, pairs):
  p_yes = np.full(len(pairs), np.nan)
  times = np.zeros(len(pairs), int)
  for positions, verdicts in teacher.judge(pairs):
    np.add.at(times, positions, 1)
    p_yes[positions] = verdicts.p_yes
  assert (times == 1).all()
  return p_yes
