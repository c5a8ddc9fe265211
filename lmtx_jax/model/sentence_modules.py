"""The modules that make up a sentence-transformers folder."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from lmtx_jax.model.bi_encoder import BiEncoder, Params
from lmtx_jax.model.json_files import read_json, read_object, write_json
from lmtx_jax.model.tensor_files import WEIGHTS, read_tensors, write_tensors
from lmtx_jax.types import UserError

_ORDER = ('Transformer', 'Pooling', 'Dense', 'Normalize')
_STATIC_ORDER = ('StaticEmbedding', 'Normalize')
_POOLING_KEYS = {
  'mean': 'pooling_mode_mean_tokens',
  'cls': 'pooling_mode_cls_token',
}
_ACTIVATIONS = {
  'tanh': 'torch.nn.modules.activation.Tanh',
  'identity': 'torch.nn.modules.linear.Identity',
}
# Keys of a Dense module's config.json to the only value that is supported.
_DENSE_ONLY = {
  'module_input_name': 'sentence_embedding',
  'module_output_name': 'sentence_embedding',
  'use_residual': False,
}


@dataclasses.dataclass(frozen=True)
class Modules:
  """What a folder says about what follows its first module.

  Attributes:
    first: folder of the first module, which reads the text.
    static: that module is a table of vectors, not a transformer.
    pooling: 'mean' or 'cls'.
    dense: folder of the dense layer; empty: there is none.
    normalize: embeddings have unit norm.
  """

  first: str
  static: bool = False
  pooling: str = 'mean'
  dense: str = ''
  normalize: bool = True


def read_modules(folder: str) -> Modules:
  """Reads modules.json; without it, embeddings are means of unit norm.

  Raises:
    UserError: modules that are not supported, or not in this order.
  """
  file = os.path.join(folder, 'modules.json')
  if not os.path.exists(file):
    return Modules(folder)
  entries = read_json(file)
  try:
    kinds = [entry['type'].rpartition('.')[2] for entry in entries]
    paths = [
      os.path.join(folder, entry['path']) if entry['path'] else folder
      for entry in entries
    ]
  except (TypeError, KeyError, AttributeError) as e:
    raise UserError(
      f'{file}: not a list of modules, each with type and path'
    ) from e
  _check_kinds(kinds, file)
  path = dict(zip(kinds, paths, strict=True))
  return Modules(
    first=paths[0],
    static=kinds[0] == 'StaticEmbedding',
    pooling=_read_pooling(path['Pooling']) if 'Pooling' in path else 'mean',
    dense=path.get('Dense', ''),
    normalize='Normalize' in path,
  )


def _check_kinds(kinds: list[str], file: str) -> None:
  order = _STATIC_ORDER if 'StaticEmbedding' in kinds else _ORDER
  if odd := [kind for kind in kinds if kind not in order]:
    raise UserError(
      f'{file}: module {odd[0]} is not supported, only ' + ', '.join(order)
    )
  if order[0] not in kinds:
    raise UserError(f'{file}: there is no module {order[0]}')
  if kinds != [kind for kind in order if kind in kinds]:
    raise UserError(
      f'{file}: modules {", ".join(kinds)} are not supported, only '
      f'{", ".join(order)}, in this order and each once'
    )


def _read_pooling(folder: str) -> str:
  """Reads 'mean' or 'cls', in the words of old and of new versions."""
  file = os.path.join(folder, 'config.json')
  config = read_object(file)
  modes = config.get('pooling_mode') or [
    key.removeprefix('pooling_mode_').removesuffix('s').removesuffix('_token')
    for key, value in config.items()
    if key.startswith('pooling_mode_') and value
  ]
  modes = modes if isinstance(modes, list) else [modes]
  if len(modes) != 1 or modes[0] not in [*_POOLING_KEYS]:
    raise UserError(
      f'{file}: pooling {"+".join(map(str, modes))!r} is not supported, only '
      + ', '.join(_POOLING_KEYS)
    )
  return modes[0]


def read_dense(encoder: BiEncoder, folder: str) -> tuple[BiEncoder, Params]:
  """Adds the dense layer that lies in a folder.

  Returns:
    The encoder with it, and its parameters.

  Raises:
    UserError: a layer that does something else, or of another shape.
  """
  file = os.path.join(folder, 'config.json')
  config = read_object(file)
  for key, value in _DENSE_ONLY.items():
    if config.get(key, value) not in (value, None):
      raise UserError(
        f'{file}: {key} {config[key]!r} is not supported, only {value!r}'
      )
  name = config.get('activation_function', _ACTIVATIONS['tanh'])
  activation = str(name).rpartition('.')[2].lower()
  if activation not in _ACTIVATIONS:
    raise UserError(
      f'{file}: activation_function {name!r} is not supported, only '
      + ', '.join(_ACTIVATIONS.values())
    )
  inputs, outputs = config.get('in_features'), config.get('out_features')
  if inputs != encoder.config.dim or not outputs:
    raise UserError(
      f'{file}: a layer from {inputs} to {outputs} features does not follow an'
      f' encoder of {encoder.config.dim}'
    )
  wanted = {'kernel': ('linear.weight', (outputs, inputs))}
  if config.get('bias', True):
    wanted['bias'] = ('linear.bias', (outputs,))
  source = os.path.join(folder, WEIGHTS)
  tensors, params = read_tensors(source), {}
  for key, (name, shape) in wanted.items():
    if name not in tensors or tensors[name].shape != shape:
      raise UserError(f'{source}: there is no tensor {name} of shape {shape}')
    params[key] = np.ascontiguousarray(tensors[name].T, np.float32)
  dense = encoder.with_dense(outputs, activation, bias='bias' in wanted)
  return dense, params


def write_modules(
  encoder: BiEncoder, params: Params, folder: str, max_seq_length: int
) -> None:
  """Writes what sentence-transformers reads beside a transformer."""
  kinds = ['Transformer', 'Pooling']
  kinds += ['Dense'] * bool(encoder.dense_dim)
  kinds += ['Normalize'] * encoder.normalize
  paths = _write_list(kinds, folder)
  pooling: dict[str, Any] = {
    key: mode == encoder.pooling for mode, key in _POOLING_KEYS.items()
  }
  pooling |= {'word_embedding_dimension': encoder.config.dim}
  write_json(pooling, folder, paths['Pooling'], 'config.json')
  if encoder.dense_dim:
    _write_dense(encoder, params['dense'], os.path.join(folder, paths['Dense']))
  write_json(
    {'max_seq_length': max_seq_length, 'do_lower_case': False},
    folder,
    'sentence_bert_config.json',
  )
  _write_similarity(encoder.normalize, folder)


def write_static_modules(normalize: bool, folder: str) -> None:
  """Writes what sentence-transformers reads beside a table of vectors."""
  _write_list(['StaticEmbedding'] + ['Normalize'] * normalize, folder)
  _write_similarity(normalize, folder)


def _write_dense(encoder: BiEncoder, params: Params, folder: str) -> None:
  config = {
    'in_features': encoder.config.dim,
    'out_features': encoder.dense_dim,
    'bias': encoder.dense_bias,
    'activation_function': _ACTIVATIONS[encoder.dense_activation],
  }
  write_json(config, folder, 'config.json')
  tensors = {'linear.weight': np.asarray(params['kernel']).T}
  if encoder.dense_bias:
    tensors['linear.bias'] = np.asarray(params['bias'])
  write_tensors(os.path.join(folder, WEIGHTS), tensors)


def _write_list(kinds: list[str], folder: str) -> dict[str, str]:
  """Writes modules.json.

  Returns:
    The folder of each module, within `folder`.
  """
  paths = {
    kind: f'{i}_{kind}' if i else '' for i, kind in enumerate(kinds)
  }  # the first one lies in the folder itself
  modules = [
    dict(
      idx=i, name=str(i), path=path, type=f'sentence_transformers.models.{kind}'
    )
    for i, (kind, path) in enumerate(paths.items())
  ]
  write_json(modules, folder, 'modules.json')
  if 'Normalize' in paths:
    write_json({}, folder, paths['Normalize'], 'config.json')
  return paths


def _write_similarity(normalize: bool, folder: str) -> None:
  """Writes how sentence-transformers is to compare embeddings."""
  write_json(
    {'similarity_fn_name': 'cosine' if normalize else 'dot'},
    folder,
    'config_sentence_transformers.json',
  )
