"""Documents embedded a second: here, sentence-transformers and onnxruntime.

python -m tests.benchmarks.encode --model=DIR [--texts=FILE.jsonl[.gz]]
    [--num_texts=512] [--max_tokens=128] [--rounds=5]
    [--peers=sentence_transformers,onnxruntime] [--compute_dtype=float32]

Same weights, texts, cores and lengths. Text to embedding is timed, the
tokenizer included, loading and compilation not; "ours_tokenized" leaves the
tokenizer out, as all cycles of a run but the first do. Texts are read from JSON
lines with "title" and "content"; the default is docstrings of numpy and scipy.

All sort texts by length and pad per batch. sentence-transformers runs on a GPU
where torch finds one (bfloat16: by autocast) with the model's default
attention, onnxruntime always on the CPU in float32, its graph fused by its own
optimiser for BERT.

One JSON line: medians over the rounds; "ours_tflops" counts the matrix products
of real tokens, without the tokenizer, "padding" is the share of our tokens that
are none.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import io
import itertools
import json
import os
import tempfile

from absl import flags
import numpy as np

from lmtx_jax import cli
from lmtx_jax.cli import flag
from lmtx_jax.config import SourceConfig, default_cache
from lmtx_jax.data.batches import (
  bucket_widths,
  default_batch_tokens,
  encode_batches,
  width_cost,
)
from lmtx_jax.data.builders import EMBEDDED, load_dataset
from lmtx_jax.data.corpus import document_text
from lmtx_jax.data.tokens import TokenView, tokenize_texts
from lmtx_jax.documents import read_documents
from lmtx_jax.model import pretrained
from tests.benchmarks.alternate import alternate, medians
from tests.benchmarks.flops import forward_flops, rate
from tests.benchmarks.peers import JAX_ENVIRON, chosen

Embed = Callable[[], np.ndarray]
_PASSES = 4  # over the same texts, as in a run of three cycles


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
  """Encode."""

  model: str = flag('', 'Folder of a sentence-transformers model.')
  texts: str = flag('', 'JSON lines with title and content, plain or .gz.')
  num_texts: int = flag(512, 'The first texts of the file.', low=1)
  max_tokens: int = flag(128, 'Tokens of a text that are embedded.', low=3)
  batch_tokens: int = flag(
    0, 'Tokens of one of our batches; 0: as in a run.', low=0
  )
  peer_batch: int = flag(32, 'Texts in a batch of the peers.', low=1)
  rounds: int = flag(5, 'Timed turns of each.', low=1)
  peers: str = flag(
    'sentence_transformers,onnxruntime', 'Who takes turns with us.'
  )
  compute_dtype: str = flag(
    'float32', 'Of the products.', choices=('float32', 'bfloat16')
  )
  peak_tflops: float = flag(0.0, "The device's, to print its share.", low=0)


def read_texts(config: EncodeConfig) -> list[str]:
  """The first texts."""
  if config.texts:
    records = read_documents(config.texts)
    found = list(itertools.islice(records, config.num_texts))
  else:
    dataset = load_dataset(SourceConfig(dataset=EMBEDDED))
    found = dataset.train.records(range(config.num_texts))
  return [document_text(record, encode_title=True) for record in found]


def tokenize(
  config: EncodeConfig, texts: list[str], tokenizer
) -> tuple[TokenView, np.ndarray]:
  """Our tokens, and the widths that they are padded to."""
  tokens = tokenize_texts(
    [''] * len(texts), texts, tokenizer, config.max_tokens
  )
  view = tokens.view(config.max_tokens)
  return view, bucket_widths(
    view.lengths,
    config.max_tokens,
    min_saved=width_cost(_PASSES),
  )


def make_ours(config: EncodeConfig, texts: list[str], tokenized: bool) -> Embed:
  """Texts, or their tokens, to `[num_texts, dim]` embeddings by lmtx_jax."""
  from lmtx_jax import devices

  devices.setup(default_cache(), JAX_ENVIRON)
  from lmtx_jax.encode import Encoder

  loaded = pretrained.load(config.model, config.compute_dtype)
  encoder = Encoder(loaded.encoder, loaded.params, config.batch_tokens)
  if tokenized:
    tokens = tokenize(config, texts, loaded.tokenizer)
    return lambda: encoder.encode(*tokens)
  return lambda: encoder.encode(*tokenize(config, texts, loaded.tokenizer))


def make_sentence_transformers(config: EncodeConfig, texts: list[str]) -> Embed:
  """Texts to `[num_texts, dim]` embeddings by sentence-transformers."""
  from sentence_transformers import SentenceTransformer
  import torch

  encoder = SentenceTransformer(config.model)
  encoder.max_seq_length = config.max_tokens
  lower = torch.autocast(
    encoder.device.type,
    torch.bfloat16,
    enabled=config.compute_dtype == 'bfloat16',
  )

  def embed() -> np.ndarray:
    with lower:
      return encoder.encode(texts, batch_size=config.peer_batch)

  return embed


def make_onnxruntime(config: EncodeConfig, texts: list[str]) -> Embed:
  """Texts to `[num_texts, dim]` embeddings by onnxruntime."""
  from onnxruntime import InferenceSession
  from transformers import AutoTokenizer

  with tempfile.TemporaryDirectory() as folder:
    path = _export(config.model, folder)
    session = InferenceSession(path, providers=['CPUExecutionProvider'])
  tokenizer = AutoTokenizer.from_pretrained(config.model)

  def embed() -> np.ndarray:
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    out = np.empty((len(texts), session.get_outputs()[0].shape[1]), np.float32)
    for start in range(0, len(order), config.peer_batch):
      rows = order[start : start + config.peer_batch]
      batch = tokenizer(
        [texts[i] for i in rows],
        padding=True,
        truncation=True,
        max_length=config.max_tokens,
        return_tensors='np',
      )
      feed = {'ids': batch['input_ids'], 'mask': batch['attention_mask']}
      out[rows] = session.run(None, feed)[0]
    return out

  return embed


def _export(model: str, folder: str) -> str:
  """Writes mean-pooled, normalised BERT as a fused ONNX graph."""
  from onnxruntime.transformers.optimizer import optimize_model
  import torch
  from transformers import AutoModel

  class Tower(torch.nn.Module):
    def __init__(self):
      super().__init__()
      # The attention whose exported nodes onnxruntime knows how to fuse.
      self.bert = AutoModel.from_pretrained(model, attn_implementation='eager')

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
      hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
      weight = mask[:, :, None].float()
      mean = (hidden * weight).sum(1) / weight.sum(1)
      return torch.nn.functional.normalize(mean, dim=1)

  tower = Tower().eval()
  ids = torch.randint(1000, 2000, (4, 20))
  mask = torch.ones_like(ids)
  mask[0, 10:] = 0
  path = os.path.join(folder, 'plain.onnx')
  axes = {0: 'batch', 1: 'length'}
  with contextlib.redirect_stdout(io.StringIO()):  # our output is one line
    torch.onnx.export(
      tower,
      (ids, mask),
      path,
      input_names=['ids', 'mask'],
      output_names=['embedding'],
      dynamic_axes={'ids': axes, 'mask': axes, 'embedding': {0: 'batch'}},
      opset_version=17,
      dynamo=False,  # the newer exporter's graphs are not fused
    )
    shape = tower.bert.config
    fused = optimize_model(
      path,
      model_type='bert',
      num_heads=shape.num_attention_heads,
      hidden_size=shape.hidden_size,
    )
    fused.save_model_to_file(path)
  return path


_PEERS = {
  'sentence_transformers': make_sentence_transformers,
  'onnxruntime': make_onnxruntime,
}


def main(values: flags.FlagValues) -> None:
  """Measures and prints."""
  config = cli.build(EncodeConfig, values)
  texts = read_texts(config)
  peers = {name: _PEERS[name] for name in chosen(config.peers, _PEERS)}
  median = medians(
    alternate(
      {
        'ours': (make_ours, (config, texts, False)),
        'ours_tokenized': (make_ours, (config, texts, True)),
        **{name: (make, (config, texts)) for name, make in peers.items()},
      },
      config.rounds,
    )
  )
  loaded = pretrained.load(config.model)
  view, widths = tokenize(config, texts, loaded.tokenizer)
  batch_tokens = config.batch_tokens or default_batch_tokens()
  padded = sum(
    batch.size * batch.width
    for batch in encode_batches(view.lengths, widths, batch_tokens, 1)
  )
  flops = forward_flops(loaded.encoder.config, view.lengths)
  line = {
    'benchmark': 'encode',
    **dataclasses.asdict(config),
    'num_texts': len(texts),
    'padding': round(1 - float(view.lengths.sum()) / padded, 4),
    'ours_texts_per_s': round(len(texts) / median['ours'], 2),
    'ours_tokenized_texts_per_s': round(
      len(texts) / median['ours_tokenized'], 2
    ),
    **rate(flops, median['ours_tokenized'], config.peak_tflops),
  }
  for name in peers:
    line[f'{name}_texts_per_s'] = round(len(texts) / median[name], 2)
    line[f'{name}_ratio'] = round(median[name] / median['ours'], 3)
  print(json.dumps(line))


if __name__ == '__main__':
  cli.run(main, (EncodeConfig,), __doc__)
