"""Flags of the LLM teacher."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import urllib.parse

from lmtx_jax.cli import flag
from lmtx_jax.types import UserError

_PLACEHOLDERS = {
  'prompt_template': ('{doc}', '{label}'),
  'list_template': ('{doc}', '{labels}'),
}


@dataclasses.dataclass(frozen=True)
class LlmConfig:
  """LLM teacher (--teacher=sglang)."""

  teacher_url: str = flag(
    '', 'Address of the SGLang server, http://HOST:PORT.', operational=True
  )
  teacher_urls: str = flag(
    '',
    'Addresses of several servers of the same model, separated by commas; '
    'takes the place of --teacher_url.',
    operational=True,
  )
  teacher_launch: str = flag(
    '',
    'Model, then flags for its SGLang server: starts one on this machine and '
    'ends it with the run; takes the place of the addresses.',
    operational=True,
  )
  teacher_launcher: str = flag(
    f'{shlex.quote(sys.executable)} -m sglang.launch_server',
    'Command that --teacher_launch starts the server with.',
    operational=True,
  )
  teacher_api: str = flag(
    'sglang',
    "What the server speaks: SGLang's own /generate, or /v1/completions as any "
    'OpenAI-compatible server does.',
    choices=('sglang', 'openai'),
  )
  teacher_api_key_file: str = flag(
    '', 'File that holds the key of the server.', operational=True
  )
  teacher_tokenizer: str = flag(
    '', "Folder or name of the teacher's tokenizer; empty asks the server."
  )
  teacher_doc_tokens: int = flag(
    430, "Tokens of the teacher's tokenizer that a document is cut to.", low=1
  )
  prompt_template: str = flag(
    '',
    'A question of your own with {doc} and {label} in it, in place of '
    '--prompt; \\n stands for a new line.',
  )
  question: str = flag(
    'pair',
    'What a prompt asks: about one pair, as the paper does, or about up to '
    '--list_size labels of a document at once.',
    choices=('pair', 'list'),
  )
  list_size: int = flag(
    10, 'Labels of a document in one prompt of --question=list.', low=2
  )
  list_template: str = flag(
    '',
    'A question of your own about several labels, with {doc} and {labels} in '
    'it, for --question=list; it goes with --prompt_template.',
  )
  chat_format: str = flag(
    'tokenizer',
    "How a question becomes a chat: by the chat template of the teacher's "
    'tokenizer (thinking off), in the Vicuna format of the paper, or not.',
    choices=('none', 'vicuna', 'tokenizer'),
  )
  verdict: str = flag(
    'logprob',
    'How an answer is read: from the probabilities of yes and no, or as the '
    'paper does from the first 10 characters of the text.',
    choices=('logprob', 'text'),
  )
  yes_threshold: float = flag(
    0.5, 'A pair is accepted if p(yes) is above this.', low=0.0, high=1.0
  )
  teacher_batch_size: int = flag(
    32, 'Questions in one request.', low=1, operational=True
  )
  teacher_in_flight: int = flag(
    128,
    'Questions sent to one server and not yet answered; SGLang orders no more '
    'than 128 by their prefix.',
    low=1,
    operational=True,
  )
  teacher_timeout_s: float = flag(
    120.0,
    'Seconds after which a request without an answer is given up and sent '
    'again.',
    low=0.1,
    operational=True,
  )
  teacher_patience: float = flag(
    600.0,
    'Seconds without any answer after which the run stops, to be resumed.',
    low=0.0,
    operational=True,
  )
  teacher_usd_per_mtok: float = flag(
    0.0,
    'Price of a million tokens, read or written, in US dollars, for --dry_run.',
    low=0.0,
    operational=True,
  )

  def __post_init__(self):
    """Checks what no flag can check alone."""
    for name, placeholders in _PLACEHOLDERS.items():
      template = getattr(self, name)
      for placeholder in placeholders:
        if template and placeholder not in template:
          raise UserError(f'--{name}={template!r} has no {placeholder}')
    own = bool(self.prompt_template), bool(self.list_template)
    if self.question == 'list' and own[0] != own[1]:
      raise UserError(
        '--question=list asks about some pairs alone: a question of your own'
        ' needs both --prompt_template and --list_template'
      )
    for url in self.urls:
      if not _is_address(url):
        raise UserError(
          f'{url!r} of --teacher_url or --teacher_urls is no address such as'
          ' http://127.0.0.1:30000'
        )
    for name in ('teacher_launch', 'teacher_launcher'):
      try:
        shlex.split(getattr(self, name))
      except ValueError as e:
        raise UserError(f'--{name}: {e}') from e

  @property
  def urls(self) -> tuple[str, ...]:
    """Addresses of the servers that are not ours to start."""
    if self.teacher_launch:
      return ()
    listed = self.teacher_urls or self.teacher_url
    urls = (url.strip().rstrip('/') for url in listed.split(','))
    return tuple(dict.fromkeys(url for url in urls if url))


def _is_address(url: str) -> bool:
  try:
    parts = urllib.parse.urlsplit(url)
    _ = parts.port  # raises where it is no number
  except ValueError:
    return False
  if parts.username or parts.query or parts.fragment:
    return False
  return parts.scheme in ('http', 'https') and bool(parts.hostname)
