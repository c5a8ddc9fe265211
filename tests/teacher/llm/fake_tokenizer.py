"""A small byte-level BPE tokenizer in a transformers folder."""

import json
import pathlib

from tokenizers import (
  AddedToken,
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  processors,
)

SPELLINGS = (' yes', ' Yes', 'yes', 'Yes', ' no', ' No', 'no', 'No')
SPECIAL = ('<|pad|>', '<|bos|>', '<|eos|>', '<|im_start|>', '<|im_end|>')
BOS, EOS = SPECIAL[1:3]
# Like Qwen3's: thinking is on unless the caller turns it off.
CHAT_TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  '<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant'
  '\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n'
  '\n</think>\n\n{% endif %}{% endif %}'
)
# Makes the tokenizer's own bos a second one.
BOS_CHAT_TEMPLATE = '{{ bos_token }}' + CHAT_TEMPLATE
_WORDS = (
  *('document', 'label', 'tag', 'relevant', 'answer', 'the', 'this'),
  *('is', 'to', 'or', 'and', 'of', 'a', 'in', '='),
)


def write_tokenizer(
  folder, spellings=SPELLINGS, chat_template=CHAT_TEMPLATE, bos=False
):
  """Writes tokenizer.json and tokenizer_config.json.

  Args:
    folder: made if it is not there.
    spellings: words of the answer that are single tokens; no others are.
    chat_template: None for a tokenizer without one.
    bos: whether the tokenizer puts <|bos|> in front of every text.

  Returns:
    The folder, as a string.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
  merges = []
  # Each word is built from left to right, so ' yes' needs no 'yes'.
  words = [w for word in _WORDS for w in (' ' + word, word)]
  for word in (*spellings, *words):
    left = ''
    for character in word.replace(' ', 'Ġ'):
      if left and left + character not in vocab:
        vocab[left + character] = len(vocab)
        merges.append((left, character))
      left += character
  tokenizer = Tokenizer(models.BPE(vocab, merges))
  tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  if bos:
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f'{BOS} $A', special_tokens=[(BOS, vocab[BOS])]
    )
  tokenizer.save(str(folder / 'tokenizer.json'))
  config = {
    'bos_token': BOS,
    'eos_token': EOS,
    'pad_token': SPECIAL[0],
    'model_max_length': 2048,
    'tokenizer_class': 'PreTrainedTokenizerFast',
  }
  if chat_template is not None:
    config['chat_template'] = chat_template
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  return str(folder)
