"""Encoders on disk: sentence-transformers and transformers folders."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import hashlib
import os
from typing import Any

from flax import traverse_util
import huggingface_hub
import jax
import numpy as np
import safetensors
import safetensors.numpy
from transformers import PreTrainedTokenizerFast

from lmtx_jax.model import hugging_face
from lmtx_jax.model.bi_encoder import BiEncoder, Params
from lmtx_jax.model.json_files import read_json, write_json
from lmtx_jax.model.tokenizer import (
  load_tokenizer,
  save_tokenizer,
  train_word_piece,
)
from lmtx_jax.types import UserError

_WEIGHTS = 'model.safetensors'
_MODULES = ('Transformer', 'Pooling', 'Normalize')
_POOLING_KEYS = {
  'mean': 'pooling_mode_mean_tokens',
  'cls': 'pooling_mode_cls_token',
}


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """An encoder with all it needs to read a text.

  Attributes:
    encoder: the model.
    params: its parameters, float32.
    tokenizer: the fast tokenizer, neither padding nor truncating by itself.
    hf_config: config.json as it was found.
  """

  encoder: BiEncoder
  params: Params
  tokenizer: PreTrainedTokenizerFast
  hf_config: dict[str, Any]

  @property
  def digest(self) -> str:
    """Hex digest of all that its embeddings follow from."""
    # How attention is computed changes its rounding only.
    encoder = dataclasses.replace(self.encoder, attention='xla')
    digest = hashlib.sha256(repr(encoder).encode())
    digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
    for leaf in jax.tree.leaves(self.params):
      digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def load(name: str, compute_dtype: str = 'float32') -> Pretrained:
  """Reads a folder, or fetches a model from the Hugging Face hub.

  Args:
    name: folder or hub name of a sentence-transformers or a transformers model
      with model.safetensors; without modules.json, embeddings are means of
      unit norm.
    compute_dtype: 'float32' or 'bfloat16'.

  Raises:
    UserError: no such model, no safetensors, or one that is not supported.
  """
  folder = _fetch(name)
  pooling, normalize, part = _read_modules(folder)
  folder = os.path.join(folder, part)
  hf_config = read_json(os.path.join(folder, 'config.json'))
  source = os.path.join(folder, _WEIGHTS)
  config = hugging_face.transformer_config(
    hf_config, os.path.join(folder, 'config.json')
  )
  encoder = BiEncoder(config, pooling, normalize, compute_dtype)
  params = hugging_face.from_tensors(
    hugging_face.architecture(hf_config, source),
    _read_tensors(source),
    jax.eval_shape(encoder.init, jax.random.key(0)),
    source,
  )
  tokenizer = load_tokenizer(folder)
  if len(tokenizer) > config.vocab_size:
    raise UserError(
      f'{folder}: the tokenizer has {len(tokenizer)} words, the model'
      f' {config.vocab_size}'
    )
  return Pretrained(encoder, params, tokenizer, hf_config)


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
  arch = hugging_face.architecture(like.hf_config, folder)
  tensors = dict(hugging_face.to_tensors(arch, params))
  # Not save_file: a full disk is no OSError there.
  data = safetensors.numpy.save(tensors, metadata={'format': 'pt'})
  with open(os.path.join(folder, _WEIGHTS), 'wb') as f:
    f.write(data)
  local = ('_name_or_path', 'torch_dtype', 'transformers_version')
  config = {k: v for k, v in like.hf_config.items() if k not in local}
  config |= {'architectures': [arch.model], 'dtype': 'float32'}
  write_json(config, folder, 'config.json')
  save_tokenizer(like.tokenizer, folder, max_seq_length)
  _write_modules(like.encoder, folder, max_seq_length)


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
  config = hugging_face.TransformerConfig(
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


def _fetch(name: str) -> str:
  """A local folder for a folder's or a hub model's name."""
  if os.path.isdir(name):
    return name
  try:
    return huggingface_hub.snapshot_download(
      name, allow_patterns=['*.json', '*.txt', _WEIGHTS, f'*/{_WEIGHTS}']
    )
  except (OSError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f'--encoder={name} is neither a folder nor a model that the Hugging Face'
      f' hub could give: {reason}'
    ) from e


def _read_modules(folder: str) -> tuple[str, bool, str]:
  """Pooling, normalisation, and the transformer's sub-folder."""
  file = os.path.join(folder, 'modules.json')
  if not os.path.exists(file):
    return 'mean', True, ''
  modules = {m['type'].rpartition('.')[2]: m for m in read_json(file)}
  if odd := [kind for kind in modules if kind not in _MODULES]:
    raise UserError(
      f'{file}: module {odd[0]} is not supported, only ' + ', '.join(_MODULES)
    )
  if 'Transformer' not in modules:
    raise UserError(f'{file}: there is no module Transformer')
  pooling = 'mean'
  if 'Pooling' in modules:
    path = modules['Pooling']['path']
    pooling = _read_pooling(os.path.join(folder, path, 'config.json'))
  return pooling, 'Normalize' in modules, modules['Transformer']['path']


def _read_pooling(file: str) -> str:
  """Reads 'mean' or 'cls', in the words of old and of new versions."""
  config = read_json(file)
  modes = config.get('pooling_mode') or [
    key.removeprefix('pooling_mode_').removesuffix('s').removesuffix('_token')
    for key, value in config.items()
    if key.startswith('pooling_mode_') and value
  ]
  modes = [modes] if isinstance(modes, str) else modes
  if len(modes) != 1 or modes[0] not in _POOLING_KEYS:
    raise UserError(
      f'{file}: pooling {"+".join(modes)!r} is not supported, only '
      + ', '.join(_POOLING_KEYS)
    )
  return modes[0]


def _write_modules(
  encoder: BiEncoder, folder: str, max_seq_length: int
) -> None:
  """What sentence-transformers reads beside the model."""
  names = {'Transformer': '', 'Pooling': '1_Pooling'}
  if encoder.normalize:
    names['Normalize'] = '2_Normalize'
  modules = [
    dict(
      idx=i, name=str(i), path=path, type=f'sentence_transformers.models.{kind}'
    )
    for i, (kind, path) in enumerate(names.items())
  ]
  write_json(modules, folder, 'modules.json')
  pooling = {
    key: mode == encoder.pooling for mode, key in _POOLING_KEYS.items()
  }
  pooling |= {'word_embedding_dimension': encoder.dim}
  write_json(pooling, folder, '1_Pooling', 'config.json')
  if encoder.normalize:
    write_json({}, folder, '2_Normalize', 'config.json')
  write_json(
    {'max_seq_length': max_seq_length, 'do_lower_case': False},
    folder,
    'sentence_bert_config.json',
  )
  write_json(
    {'similarity_fn_name': 'cosine' if encoder.normalize else 'dot'},
    folder,
    'config_sentence_transformers.json',
  )


def _read_tensors(file: str) -> dict[str, np.ndarray]:
  if not os.path.exists(file):
    folder = os.path.dirname(file)
    hint = ''
    if os.path.exists(os.path.join(folder, 'pytorch_model.bin')):
      hint = '; pytorch_model.bin is a pickle and is never read, convert it'
    raise UserError(f'{folder}: there is no {_WEIGHTS}{hint}')
  try:
    return safetensors.numpy.load_file(file)
  except safetensors.SafetensorError as e:
    raise UserError(f'{file}: not a safetensors file: {e}') from e
