"""A writer of texts without a server."""

import json

import numpy as np

from lmtx_jax.teacher.llm.writer import Generated


class FakeWriter:
  """A writer without a server; a prompt has 10 tokens and an answer 3.

  Args:
    llm: what it says to a prompt; None: no server can answer that.
    chunk: answers that come together.
    crash_after: answers, and then it fails.
  """

  def __init__(self, llm, chunk=4, crash_after=None, name='fake'):
    self.llm = llm
    self.identity = json.dumps({'teacher': name})
    self.asked = []
    self._chunk, self._crash_after = chunk, crash_after

  def cut(self, texts):
    return [text[:200] for text in texts]

  def usage(self):
    num = len(self.asked)
    return {'prompt_tokens': 10 * num, 'cached_tokens': 4 * num, 'retries': 0}

  def generate(self, prompts):
    # Backwards: answers come in any order.
    positions = np.arange(len(prompts))[::-1]
    for start in range(0, len(prompts), self._chunk):
      part = positions[start : start + self._chunk]
      texts = [self.llm(prompts[i]) for i in part]
      self.asked += [prompts[i] for i in part]
      yield part, Generated.from_rows([(text, False, 10, 3) for text in texts])
      if self._crash_after is not None and len(self.asked) > self._crash_after:
        raise FakeCrash


class FakeCrash(Exception):
  pass
