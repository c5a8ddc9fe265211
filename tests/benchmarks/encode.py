"""Documents embedded a second, here and by sentence-transformers.

python -m tests.benchmarks.encode --model=DIR [--texts=FILE.jsonl[.gz]]
    [--num_texts=512] [--max_tokens=128] [--rounds=5]

Same weights, texts, cores and lengths. Text to embedding is timed, the
tokenizer included, loading and compilation not. Texts are read from JSON lines
with "title" and "content"; the default is docstrings of numpy and scipy. One
JSON line: medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import SourceConfig, default_cache
from lmtx_jax.data.builders import EMBEDDED, load_dataset
from lmtx_jax.data.corpus import document_text
from lmtx_jax.predict import read_documents
from tests.benchmarks.alternate import alternate, medians


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
  """Encode."""

  model: str = flag('', 'Folder of a sentence-transformers model.')
  texts: str = flag('', 'JSON lines with title and content, plain or .gz.')
  num_texts: int = flag(512, 'The first texts of the file.', low=1)
  max_tokens: int = flag(128, 'Tokens of a text that are embedded.', low=3)
  batch_tokens: int = flag(16384, 'Tokens of one of our batches.', low=1)
  peer_batch: int = flag(32, 'Texts in a batch of the peer.', low=1)
  rounds: int = flag(5, 'Timed turns of each.', low=1)


def read_texts(config: EncodeConfig) -> list[str]:
  """The first texts."""
  if config.texts:
    records = read_documents(config.texts)
    found = [next(records) for _ in range(config.num_texts)]
  else:
    dataset = load_dataset(SourceConfig(dataset=EMBEDDED))
    found = dataset.train.records(range(config.num_texts))
  return [document_text(record, encode_title=True) for record in found]


def make_ours(
  config: EncodeConfig, texts: list[str]
) -> Callable[[], np.ndarray]:
  """Texts to `[num_texts, dim]` embeddings by lmtx_jax."""
  from lmtx_jax import devices

  devices.setup(default_cache())
  from lmtx_jax.data.batches import bucket_widths
  from lmtx_jax.data.tokens import tokenize_texts
  from lmtx_jax.encode import Encoder
  from lmtx_jax.model import pretrained

  loaded = pretrained.load(config.model)
  encoder = Encoder(loaded.encoder, loaded.params, config.batch_tokens)

  def embed() -> np.ndarray:
    tokens = tokenize_texts(
      [''] * len(texts), texts, loaded.tokenizer, config.max_tokens
    )
    view = tokens.view(config.max_tokens)
    widths = bucket_widths(view.lengths, config.max_tokens)
    return encoder.encode(view, widths)

  return embed


def make_peer(
  config: EncodeConfig, texts: list[str]
) -> Callable[[], np.ndarray]:
  """Texts to `[num_texts, dim]` embeddings by sentence-transformers."""
  from sentence_transformers import SentenceTransformer

  encoder = SentenceTransformer(config.model, device='cpu')
  encoder.max_seq_length = config.max_tokens
  return lambda: encoder.encode(texts, batch_size=config.peer_batch)


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(EncodeConfig, values)
  texts = read_texts(config)
  seconds = alternate(
    {
      'ours': (make_ours, (config, texts)),
      'peer': (make_peer, (config, texts)),
    },
    config.rounds,
  )
  median = medians(seconds)
  print(
    json.dumps(
      {
        'benchmark': 'encode',
        **dataclasses.asdict(config),
        'ours_texts_per_s': round(len(texts) / median['ours'], 2),
        'peer_texts_per_s': round(len(texts) / median['peer'], 2),
        'speed_ratio': round(median['peer'] / median['ours'], 3),
      }
    )
  )


if __name__ == '__main__':
  cli.run(main, (EncodeConfig,), __doc__)
