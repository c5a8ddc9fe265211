"""Encoders on disk: sentence-transformers and transformers folders."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING, Any

from flax import traverse_util
import huggingface_hub
import jax
import numpy as np
import safetensors.numpy

from lmtx_jax.model import hugging_face
from lmtx_jax.model.bi_encoder import BiEncoder, Params
from lmtx_jax.model.json_files import read_object, write_json
from lmtx_jax.model.layers import TransformerConfig
from lmtx_jax.model.sentence_modules import (
  Modules,
  read_dense,
  read_modules,
  write_modules,
  write_static_modules,
)
from lmtx_jax.model.tensor_files import WEIGHTS, read_tensors, write_tensors
from lmtx_jax.model.tokenizer import (
  load_tokenizer,
  save_tokenizer,
  train_word_piece,
)
from lmtx_jax.model.word_vectors import WordVectors, WordVectorsConfig
from lmtx_jax.types import UserError

if TYPE_CHECKING:  # slow to import
  from transformers import PreTrainedTokenizerFast

_VECTORS = 'embedding.weight'  # the tensor of a StaticEmbedding
_VOCABULARIES = ('tokenizer.json', 'vocab.txt')


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """An encoder with all it needs to read a text.

  Attributes:
    encoder: the model.
    params: its parameters, float32.
    tokenizer: the fast tokenizer, neither padding nor truncating by itself.
    hf_config: config.json as it was found; empty for word vectors.
  """

  encoder: BiEncoder | WordVectors
  params: Params
  tokenizer: PreTrainedTokenizerFast
  hf_config: dict[str, Any]

  @property
  def digest(self) -> str:
    """Hex digest of all that its embeddings follow from."""
    encoder = self.encoder
    if isinstance(encoder, BiEncoder):
      # How attention is computed changes its rounding only.
      encoder = dataclasses.replace(encoder, attention='xla')
    digest = hashlib.sha256(repr(encoder).encode())
    digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
    for leaf in jax.tree.leaves(self.params):
      digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def load(
  name: str, compute_dtype: str = 'float32', pooling: str = ''
) -> Pretrained:
  """Reads a folder, or fetches a model from the Hugging Face hub.

  Args:
    name: folder or hub name of a sentence-transformers or a transformers model
      with model.safetensors; without modules.json, embeddings are means of
      unit norm.
    compute_dtype: 'float32' or 'bfloat16'.
    pooling: 'mean' or 'cls', whatever the folder says; empty: what it says.

  Raises:
    UserError: no such model, no safetensors, or one that is not supported.
  """
  modules = read_modules(_fetch(name))
  if modules.static:
    return _load_static(modules, compute_dtype)
  folder = modules.first
  hf_config = read_object(os.path.join(folder, 'config.json'))
  source = os.path.join(folder, WEIGHTS)
  config = hugging_face.transformer_config(
    hf_config, os.path.join(folder, 'config.json')
  )
  encoder = BiEncoder(
    config, pooling or modules.pooling, modules.normalize, compute_dtype
  )
  params = hugging_face.from_tensors(
    hugging_face.architecture(hf_config, source),
    read_tensors(source),
    jax.eval_shape(encoder.init, jax.random.key(0)),
    source,
  )
  if modules.dense:
    encoder, params['dense'] = read_dense(encoder, modules.dense)
  tokenizer = _load_tokenizer(folder, config.vocab_size)
  _check_case(tokenizer, folder)
  return Pretrained(encoder, params, tokenizer, hf_config)


def _load_static(modules: Modules, compute_dtype: str) -> Pretrained:
  """A table of vectors."""
  source = os.path.join(modules.first, WEIGHTS)
  table = read_tensors(source).get(_VECTORS)
  if table is None or table.ndim != 2:
    raise UserError(f'{source}: there is no table {_VECTORS}')
  encoder = WordVectors(
    WordVectorsConfig(*table.shape), modules.normalize, compute_dtype
  )
  params = {'word_vectors': np.asarray(table, np.float32)}
  tokenizer = _load_tokenizer(modules.first, len(table))
  return Pretrained(encoder, params, tokenizer, {})


def _load_tokenizer(folder: str, vocab_size: int) -> PreTrainedTokenizerFast:
  # Without either, transformers makes one that knows no word at all.
  files = [os.path.join(folder, name) for name in _VOCABULARIES]
  if not any(map(os.path.exists, files)):
    raise UserError(f'{folder}: there is no {" or ".join(_VOCABULARIES)}')
  tokenizer = load_tokenizer(folder)
  for name in ('cls_token', 'sep_token', 'pad_token'):
    if getattr(tokenizer, name) is None:
      raise UserError(f'{folder}: the tokenizer has no {name}')
  if len(tokenizer) > vocab_size:
    raise UserError(
      f'{folder}: the tokenizer has {len(tokenizer)} words, the model'
      f' {vocab_size}'
    )
  return tokenizer


def save(
  folder: str | os.PathLike,
  like: Pretrained,
  params: Params,
  *,
  max_seq_length: int,
) -> None:
  """Writes a sentence-transformers folder; equal input gives equal bytes.

  Args:
    folder: is made if need be.
    like: the encoder, tokenizer and config.json to write.
    params: what to write in place of its parameters.
    max_seq_length: tokens, where sentence-transformers will cut a text.
  """
  folder = os.fspath(folder)
  os.makedirs(folder, exist_ok=True)
  file = os.path.join(folder, WEIGHTS)
  if isinstance(like.encoder, WordVectors):
    write_tensors(file, {_VECTORS: params['word_vectors']})
    # No module but the tokenizer cuts a text, and it does not frame it.
    save_tokenizer(
      like.tokenizer, folder, max_seq_length, truncation=max_seq_length - 2
    )
    write_static_modules(like.encoder.normalize, folder)
    return
  arch = hugging_face.architecture(like.hf_config, folder)
  transformer = {k: v for k, v in params.items() if k != 'dense'}
  write_tensors(file, dict(hugging_face.to_tensors(arch, transformer)))
  local = ('_name_or_path', 'torch_dtype', 'transformers_version')
  config = {k: v for k, v in like.hf_config.items() if k not in local}
  config |= {'architectures': [arch.model], 'dtype': 'float32'}
  write_json(config, folder, 'config.json')
  save_tokenizer(like.tokenizer, folder, max_seq_length)
  write_modules(like.encoder, params, folder, max_seq_length)


def scratch(
  texts: Iterable[str],
  *,
  num_layers: int,
  dim: int,
  num_heads: int,
  vocab_size: int,
  max_tokens: int,
  seed: int,
  compute_dtype: str = 'float32',
) -> Pretrained:
  """A DistilBERT without pretraining, with a vocabulary of its own.

  Args:
    texts: what the WordPiece vocabulary is trained on.
    num_layers: layers.
    dim: width; the feed-forward network is four times as wide.
    num_heads: attention heads.
    vocab_size: words at most.
    max_tokens: longest text, tokens.
    seed: of the parameters.
    compute_dtype: 'float32' or 'bfloat16'.

  Raises:
    UserError: heads that do not divide the width.
  """
  if dim % num_heads:
    raise UserError(
      f'--scratch_heads={num_heads} does not divide --scratch_dim={dim}'
    )
  tokenizer = train_word_piece(texts, vocab_size)
  config = TransformerConfig(
    num_layers=num_layers,
    dim=dim,
    num_heads=num_heads,
    ffn_dim=4 * dim,
    vocab_size=len(tokenizer),
    max_positions=max_tokens,
    pad_token_id=tokenizer.pad_token_id,
  )
  encoder = BiEncoder(config, dtype=compute_dtype)
  params = jax.jit(encoder.init)(jax.random.key(seed))
  return Pretrained(
    encoder,
    jax.tree.map(np.asarray, params),
    tokenizer,
    hugging_face.config_json('distilbert', config),
  )


def save_params(file: str | os.PathLike, params: Params) -> None:
  """Writes parameters as safetensors."""
  flat = traverse_util.flatten_dict(params, sep='/')
  data = safetensors.numpy.save({k: np.asarray(v) for k, v in flat.items()})
  # Written by Python, so that a full disk is an OSError like any other.
  with open(file, 'wb') as f:
    f.write(data)


def load_params(file: str | os.PathLike) -> Params:
  """Reads what `save_params` wrote."""
  flat = safetensors.numpy.load_file(file)
  return traverse_util.unflatten_dict(flat, sep='/')


def local_folder(name: str) -> str:
  """The folder of a model that was loaded; '' where there is none any more."""
  if os.path.isdir(name):
    return name
  try:
    return huggingface_hub.snapshot_download(name, local_files_only=True)
  except (OSError, ValueError):
    return ''


def _fetch(name: str) -> str:
  """A local folder for a folder's or a hub model's name."""
  if os.path.isdir(name):
    return name
  try:
    return huggingface_hub.snapshot_download(
      name,
      allow_patterns=['*.json', '*.txt', WEIGHTS, f'*/{WEIGHTS}', 'README.md'],
    )
  except (OSError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f'--encoder={name} is no folder, no file and no model that the Hugging'
      f' Face hub could give: {reason}'
    ) from e


def _check_case(tokenizer: PreTrainedTokenizerFast, folder: str) -> None:
  """Refuses what sentence-transformers would do to capital letters."""
  file = os.path.join(folder, 'sentence_bert_config.json')
  if not (os.path.exists(file) and read_object(file).get('do_lower_case')):
    return
  normalizer = tokenizer.backend_tokenizer.normalizer
  if normalizer is None or normalizer.normalize_str('A') != 'a':
    raise UserError(
      f'{file}: do_lower_case is not supported where the tokenizer keeps'
      ' capital letters'
    )
