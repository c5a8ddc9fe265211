"""What a fake server knows: tokens, and answers that are hashes of prompts."""

import hashlib
import time

from fake_tokenizer import BOS, EOS, SPECIAL
import numpy as np
from tokenizers import Tokenizer

# Shares of an answer among its spellings, and of a yes or a no among all there
# is to say; what remains goes to tokens that mean neither.
_SHARES = ((' {}', 0.9), (' {c}', 0.06), ('{}', 0.03), ('{c}', 0.01))
_ANSWER_MASS = 0.96
_FLOOR = 1e-13
_RESERVED = 6  # tokens of the context that no prompt may take
_OUT_OF_REACH = -20.0  # log-probability of a yes or no within the prompt


def right_p_yes(prompt):
  """What a fake server thinks: uniform in (0, 1), of the text alone."""
  digest = hashlib.sha256(prompt.encode()).digest()
  return (int.from_bytes(digest[:6]) + 0.5) / 2**48


class Said(str):
  """The text of an answer, with the p_yes of each yes or no in it."""

  def __new__(cls, text, p_yes):
    said = super().__new__(cls, text)
    said.p_yes = list(p_yes)
    return said


class FakeModel:
  """A tokenizer, a context, a prefix cache, and no weights."""

  def __init__(self, folder):
    self._tokenizer = Tokenizer.from_file(f'{folder}/tokenizer.json')
    self.num_tokens = self._tokenizer.get_vocab_size()
    self.texts = [
      self._tokenizer.decode([i], skip_special_tokens=False)
      for i in range(self.num_tokens)
    ]
    self.bos, self.eos = map(self._tokenizer.token_to_id, (BOS, EOS))
    self._yes, self._no = self._spellings('yes'), self._spellings('no')
    neither = ~(self._yes + self._no).astype(bool)
    self._rest = np.zeros(self.num_tokens)
    fillers = np.flatnonzero(neither)[len(SPECIAL) :][:20]
    self._rest[fillers] = (1 - _ANSWER_MASS) * 0.5 ** np.arange(1, 21)
    self._prefixes = set()

  def _spellings(self, word):
    """`[num_tokens]`, shares of the tokens that spell a word, or zeros."""
    shares = np.zeros(self.num_tokens)
    for spelling, share in _SHARES:
      text = spelling.format(word, c=word.capitalize())
      if text in self.texts:
        shares[self.texts.index(text)] = share
    return shares / (shares.sum() or 1)

  def read(self, prompt):
    """Text or ids to (text, ids); ids must be in the vocabulary."""
    if isinstance(prompt, str):
      return prompt, self._tokenizer.encode(prompt).ids
    text = self._tokenizer.decode(prompt, skip_special_tokens=False)
    return text.removeprefix(BOS), prompt

  def too_long(self, num_tokens, num_new, context_length):
    """The server's message, or None."""
    limit = context_length - _RESERVED
    if num_tokens >= context_length:
      return (
        f"The input ({num_tokens} tokens) is longer than the model's context "
        f'length ({context_length} tokens).'
      )
    if num_tokens + num_new > context_length:
      return (
        "Requested token count exceeds the model's maximum context length of "
        f'{context_length} tokens. You requested a total of '
        f'{num_tokens + num_new} tokens: {num_tokens} tokens from the input '
        f'messages and {num_new} tokens for the completion. Please reduce the '
        'number of tokens in the input messages or the completion to fit '
        'within the limit.'
      )
    if num_tokens >= limit:
      return (
        f'Input length ({num_tokens} tokens) exceeds the maximum allowed '
        f'length ({limit} tokens). Use a shorter input or enable '
        '--allow-auto-truncate.'
      )
    return None

  def log_probs(self, thought):
    """`[num_tokens]` of the next token; the thought is p_yes or a text."""
    if isinstance(thought, str):
      word = thought.strip().lower()
      p_yes = 1.0 if word.startswith('yes') else 0.0
      is_answer = word.startswith(('yes', 'no'))
    else:
      p_yes, is_answer = thought, True
    answer = self._answer(p_yes)
    if not is_answer or not answer.any():
      answer = np.zeros(self.num_tokens)
      answer[(self._encode(_say(thought)) or [self.eos])[0]] = 1
    mass = _ANSWER_MASS * answer + self._rest
    return np.log(np.maximum(mass, _FLOOR))

  def _answer(self, p_yes):
    return p_yes * self._yes + (1 - p_yes) * self._no

  def _all_log_probs(self, thought, new):
    """`[num_new, num_tokens]`; of a plain text, the first token's alone."""
    now = self.log_probs(thought)
    inside = np.full(self.num_tokens, _OUT_OF_REACH)
    if not isinstance(thought, Said):
      return [now, *[inside] * (len(new) - 1)]
    p_yes, rows = iter(thought.p_yes), []
    for token in new:
      is_answer = self._yes[token] or self._no[token]
      mass = _ANSWER_MASS * self._answer(next(p_yes)) if is_answer else 0.0
      found = np.log(np.maximum(mass + self._rest, _FLOOR))
      rows.append(found if is_answer else inside)
    return rows

  def go_on(self, thought, num_new):
    """Up to `num_new` ids of the answer, and their text."""
    if num_new == 1:
      ids = [int(self.log_probs(thought).argmax())]
    else:
      ids = self._encode(_say(thought))[:num_new]
    return ids, self._tokenizer.decode(ids)

  def _encode(self, text):
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def logprob_fields(self, thought, ids, new, wanted, whole, with_text):
    """The parts of meta_info that return_logprob asks for.

    Args:
      thought: p_yes, or the text of the answer.
      ids: the prompt's.
      new: ids generated.
      wanted: `token_ids_logprob` of this prompt.
      whole: whether the prompt's own log-probabilities are wanted.
      with_text: whether the entries carry text.
    """
    now = self.log_probs(thought)
    each = self._all_log_probs(thought, new)

    def entry(log_prob, token):
      text = self.texts[token] if with_text else None
      return [None if log_prob is None else float(log_prob), token, text]

    # Made up: nobody may read them, only their ids.
    own = [entry(-1.0 - i % 5 if i else None, t) for i, t in enumerate(ids)]
    fields = {
      'input_token_logprobs': own if whole else [],
      'output_token_logprobs': [
        entry(now[t] if i == 0 else -0.1, t) for i, t in enumerate(new)
      ],
      'output_token_logprobs_length': len(new),
    }
    if wanted:
      inside = [entry(_OUT_OF_REACH, t) for t in wanted]
      last = [[entry(row[t], t) for t in wanted] for row in each]
      fields['input_token_ids_logprobs'] = (
        [None, *[inside] * (len(ids) - 1)] if whole else []
      )
      fields['output_token_ids_logprobs'] = last
    return fields

  def top_fields(self, thought, new, num_top):
    """`logprobs` of a completion."""
    if num_top is None:
      return None
    each = self._all_log_probs(thought, new)
    now = each[0]
    return {
      'text_offset': [-1] * len(new),
      'token_logprobs': [float(now[new[0]])] + [-0.1] * (len(new) - 1),
      'tokens': [self.texts[t] for t in new],
      'top_logprobs': [
        # Where nothing is in doubt there is one token alone.
        {self.texts[t]: float(row[t]) for t in np.argsort(-row)[:num_top]}
        if i == 0 or row.max() > row.min()
        else {self.texts[new[i]]: -0.1}
        for i, row in enumerate(each)
      ],
    }

  def num_cached(self, ids):
    """Length of the longest prefix that a finished prompt has left."""
    num = 0
    for prefix in _prefixes(ids[:-1]):  # the last token is always computed
      if prefix not in self._prefixes:
        break
      num += 1
    return num

  def remember(self, ids):
    """Leaves the prefixes of a finished prompt."""
    self._prefixes.update(_prefixes(ids))

  def flush(self):
    self._prefixes.clear()


def cost_fields(num_new, num_cached, start):
  """The part of meta_info that tells what an answer cost."""
  details = {'device': num_cached, 'host': 0} if num_cached else None
  return {
    'reasoning_tokens': 0,
    'completion_tokens': num_new,
    'cached_tokens': num_cached,
    'weight_versions': [{'version': 'default', 'start': 0, 'end': num_new}],
    'cached_tokens_details': details,
    'dp_rank': None,
    'e2e_latency': time.time() - start,
    'response_sent_to_client_ts': time.time(),
  }


def _say(thought):
  if isinstance(thought, str):
    return thought
  return 'Yes, it is.' if thought > 0.5 else 'No.'


def _prefixes(ids):
  """Hashes of all prefixes, shortest first."""
  prefix = 0
  for token in ids:
    prefix = hash((prefix, token))
    yield prefix
