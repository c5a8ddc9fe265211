"""From a document and a label to the text that the LLM goes on from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from lmtx_jax.teacher import prompts
from lmtx_jax.types import UserError

if TYPE_CHECKING:  # slow to import
  from transformers import PreTrainedTokenizerFast

# Of the paper's teachers (LMTX, section 4; the format of Vicuna v1.1).
_VICUNA = (
  'A chat between a curious user and an artificial intelligence assistant. '
  "The assistant gives helpful, detailed, and polite answers to the user's "
  'questions. USER: ',
  ' ASSISTANT:',
)
_MARK = '@@QUESTION@@'
_CHARS_A_TOKEN = 8  # a first guess at how much of a text has to be tokenised


class PromptMaker:
  """Cuts documents, fills the template, and wraps it as a chat.

  Attributes:
    identity: everything here that may change an answer, for JSON.
  """

  def __init__(
    self,
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    chat_format: str,
    doc_tokens: int,
  ):
    """Takes the teacher's tokenizer and the settings.

    Args:
      tokenizer: of the LLM.
      template: the question, with {doc} and {label} in it.
      chat_format: none, vicuna or tokenizer.
      doc_tokens: tokens that a document is cut to.

    Raises:
      UserError: the tokenizer has no chat template where one is asked for.
    """
    self._backend = tokenizer.backend_tokenizer
    self._doc_tokens = doc_tokens
    self._template = template
    chat = chat_format
    before, after = '', ''
    if chat_format == 'vicuna':
      before, after = _VICUNA
    elif chat_format == 'tokenizer':
      before, after = _chat_template(tokenizer)
      source = str(tokenizer.chat_template).encode()
      chat += ' ' + hashlib.sha256(source).hexdigest()[:16]
    self._before, self._after = before, after
    self.identity = {
      'prompt': template,
      'chat_format': chat,
      'doc_tokens': doc_tokens,
    }

  def prompt(self, doc: str, label: str) -> str:
    """The whole prompt; the document is taken as it is."""
    return self.wrap(prompts.render(self._template, doc, label))

  def wrap(self, question: str) -> str:
    """A question as a chat."""
    return f'{self._before}{question}{self._after}'

  def cut(self, texts: list[str]) -> list[str]:
    """Documents cut to the number of tokens, each a prefix of its text."""
    out = list(texts)
    chars = self._doc_tokens * _CHARS_A_TOKEN
    # A character is four bytes at most, and a token one at least.
    rows = [
      i for i, text in enumerate(texts) if 4 * len(text) > self._doc_tokens
    ]
    while rows:
      heads = [texts[i][:chars] for i in rows]
      longer = []
      for i, head, seen in zip(
        rows,
        heads,
        self._backend.encode_batch(heads, add_special_tokens=False),
        strict=True,
      ):
        # The last tokens of a head are others than those of the whole text.
        if len(seen) <= self._doc_tokens + 1 and len(head) < len(texts[i]):
          longer.append(i)
        elif len(seen) > self._doc_tokens:
          out[i] = head[: self._end(seen.offsets)]
      rows, chars = longer, 4 * chars
    return out

  def _end(self, offsets: list[tuple[int, int]]) -> int:
    """Characters before the cut; a character is never split into its bytes."""
    num = self._doc_tokens
    while num > 1 and offsets[num - 1][1] > offsets[num][0]:
      num -= 1
    return offsets[num - 1][1]


def answer_ids(
  tokenizer: PreTrainedTokenizerFast,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Token ids of the spellings of yes and of no that are single tokens."""

  def ids(word: str) -> tuple[int, ...]:
    spellings = (f' {word}', f' {word.title()}', word, word.title())
    encoded = [
      tokenizer.encode(text, add_special_tokens=False) for text in spellings
    ]
    singles = dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1)
    return tuple(
      i for i in singles if tokenizer.decode([i]).strip().lower() == word
    )

  return ids('yes'), ids('no')


def _chat_template(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
  """What the tokenizer's own template puts before and after a question."""
  if not tokenizer.chat_template:
    raise UserError(
      '--chat_format=tokenizer: the tokenizer of the teacher has no chat'
      ' template; choose none or vicuna'
    )
  try:
    text = tokenizer.apply_chat_template(
      [{'role': 'user', 'content': _MARK}],
      tokenize=False,
      add_generation_prompt=True,
      # The names by which templates know the switch; others ignore them.
      enable_thinking=False,
      thinking=False,
      date_string='26 Jul 2024',  # or Llama's prompt changes every day
    )
  except Exception as e:  # a template is a program of somebody else
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise UserError(
      f'--chat_format=tokenizer: the chat template fails: {reason}'
    ) from e
  before, mark, after = text.partition(_MARK)
  if not mark:
    raise UserError(
      '--chat_format=tokenizer: the chat template drops what the user says'
    )
  # The server puts it before every text by itself.
  bos = tokenizer.bos_token
  if bos and tokenizer.encode('a')[:1] == [tokenizer.bos_token_id]:
    before = before.removeprefix(bos)
  return before, after
