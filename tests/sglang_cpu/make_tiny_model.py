"""Makes a tiny model of random weights, with a tokenizer trained on the spot.

python make_tiny_model.py ARCHITECTURE FOLDER

ARCHITECTURE is llama or qwen2. No network; the same bytes each time. What the
model says means nothing: it is there for the server around it.
"""

import json
import pathlib
import random
import sys

from tokenizers import (
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  trainers,
)
import torch
import transformers

# See launch_cpu.py; transformers imports what it holds when it is first used.
for operation in ('nms', 'qnms'):
  torch.library.define(
    f'torchvision::{operation}',
    '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
  )

VOCAB_SIZE, MAX_TOKENS = 2048, 2048
SPECIAL = ['<|pad|>', '<|bos|>', '<|eos|>', '<|im_start|>', '<|im_end|>']
CHAT_TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
  "{{ m['content'] }}<|im_end|>\n{% endfor %}"
  '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
# Words that questions are made of, so that they become tokens.
COMMON = (
  'Document: Label: Question: Is the label relevant to the document? '
  'Answer yes or no. Answer: yes no Yes No You are a careful annotator. '
)


def made_word() -> str:
  """One to four syllables."""
  return ''.join(
    random.choice('bcdfglmnprst') + random.choice('aeiou')
    for _ in range(random.randint(1, 4))
  )


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
  """A byte-level BPE tokenizer."""
  words = [made_word() for _ in range(3000)]
  texts = [
    COMMON + ' '.join(random.choice(words) for _ in range(60))
    for _ in range(2000)
  ]
  tokenizer = Tokenizer(models.BPE(byte_fallback=False))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=VOCAB_SIZE,
    special_tokens=SPECIAL,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=SPECIAL[0],
    bos_token=SPECIAL[1],
    eos_token=SPECIAL[2],
    model_max_length=MAX_TOKENS,
  )
  fast.chat_template = CHAT_TEMPLATE
  return fast


def make_model(
  architecture: str, vocab_size: int
) -> transformers.PreTrainedModel:
  """Two layers of random float32 weights."""
  config_class, model_class = {
    'llama': (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    'qwen2': (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
  }[architecture]
  config = config_class(
    vocab_size=vocab_size,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=MAX_TOKENS,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
  )
  model = model_class(config).to(torch.float32)
  with torch.no_grad():  # not so flat that all log-probabilities are equal
    model.lm_head.weight.normal_(0, 0.5)
  model.config.dtype = torch.float32
  return model


def update(path: pathlib.Path, **values) -> None:
  """Adds what transformers 4 reads and transformers 5 does not write."""
  path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=1))


def main(architecture: str, folder: pathlib.Path) -> None:
  """Writes the model."""
  random.seed(0)
  torch.manual_seed(0)
  tokenizer = make_tokenizer()
  tokenizer.save_pretrained(folder)
  make_model(architecture, len(tokenizer)).save_pretrained(folder)
  update(folder / 'config.json', torch_dtype='float32', rope_theta=10000.0)
  update(
    folder / 'tokenizer_config.json',
    tokenizer_class='PreTrainedTokenizerFast',
    chat_template=CHAT_TEMPLATE,
  )


if __name__ == '__main__':
  main(sys.argv[1], pathlib.Path(sys.argv[2]))
