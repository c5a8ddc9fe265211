"""Puts questions with urllib, for tests of the servers themselves."""

import json
import math
import urllib.error
import urllib.request

from fake_tokenizer import SPELLINGS
from tokenizers import Tokenizer

PROMPTS = [f'document = {word}. answer yes or no' for word in ('a', 'b', 'c')]


def post(url, path, body, timeout=20.0, key=None):
  """The answer's (status, bytes)."""
  headers = {'Content-Type': 'application/json'}
  if key:
    headers['Authorization'] = f'Bearer {key}'
  request = urllib.request.Request(
    url + path, json.dumps(body).encode(), headers
  )
  try:
    with urllib.request.urlopen(request, timeout=timeout) as answer:
      return answer.status, answer.read()
  except urllib.error.HTTPError as e:
    return e.code, e.read()


def get(url, path):
  with urllib.request.urlopen(url + path, timeout=20.0) as answer:
    return answer.read()


def question(server, prompts=PROMPTS, **fields):
  tokenizer = Tokenizer.from_file(f'{server.tokenizer_path}/tokenizer.json')
  return {
    'text': prompts,
    'rid': [f'r{i}' for i in range(len(prompts))],
    'sampling_params': {'max_new_tokens': 0, 'temperature': 0},
    'return_logprob': True,
    'token_ids_logprob': [tokenizer.encode(s).ids[0] for s in SPELLINGS],
    'return_text_in_logprobs': True,
    **fields,
  }


def ask(server, url=None, **fields):
  body = question(server, **fields)
  status, answer = post(url or server.url, '/generate', body)
  return status, json.loads(answer)


def completion(prompts=PROMPTS):
  return {
    'model': 'default',
    'prompt': prompts,
    'max_tokens': 1,
    'temperature': 0,
    'logprobs': 5,
  }


def p_yes(item):
  mass = {
    text: math.exp(lp)
    for lp, _, text in item['meta_info']['output_token_ids_logprobs'][0]
  }
  yes = sum(m for text, m in mass.items() if 'yes' in text.lower())
  return yes / sum(mass.values())
