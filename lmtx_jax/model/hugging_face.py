"""What Hugging Face calls our configuration and parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from flax import traverse_util
import numpy as np
from transformers import AutoConfig

from lmtx_jax.model.transformer import ACTIVATIONS, TransformerConfig
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Architecture:
  """One `model_type`.

  Attributes:
    model: name of its class in transformers.
    fields: our configuration field to its key in config.json.
    layer: prefix of the tensors of one layer.
    embeddings: our table to its tensor.
    modules: our module of a layer to its modules; several are joined along
      the outputs.
  """

  model: str
  fields: Mapping[str, str]
  layer: str
  embeddings: Mapping[str, str]
  modules: Mapping[str, tuple[str, ...]]

  def tensor_names(self, path: tuple[str, ...]) -> list[str]:
    """Tensors that make up the parameter at `path`."""
    if path[0] == 'embeddings' and path[1] != 'norm':
      return [f'embeddings.{self.embeddings[path[1]]}.weight']
    leaf = 'bias' if path[-1] == 'bias' else 'weight'
    if path[0] == 'embeddings':
      return [f'embeddings.LayerNorm.{leaf}']
    prefix = self.layer.format(path[0].removeprefix('layer_'))
    modules = self.modules['.'.join(path[1:-1])]
    return [f'{prefix}.{module}.{leaf}' for module in modules]


ARCHITECTURES = {
  'distilbert': Architecture(
    model='DistilBertModel',
    fields=dict(
      num_layers='n_layers',
      dim='dim',
      num_heads='n_heads',
      ffn_dim='hidden_dim',
      vocab_size='vocab_size',
      max_positions='max_position_embeddings',
      pad_token_id='pad_token_id',
      activation='activation',
      dropout='dropout',
      attention_dropout='attention_dropout',
      init_std='initializer_range',
    ),
    layer='transformer.layer.{}',
    embeddings=dict(word='word_embeddings', position='position_embeddings'),
    modules={
      'attention.qkv': (
        'attention.q_lin',
        'attention.k_lin',
        'attention.v_lin',
      ),
      'attention.out': ('attention.out_lin',),
      'attention_norm': ('sa_layer_norm',),
      'ffn_in': ('ffn.lin1',),
      'ffn_out': ('ffn.lin2',),
      'ffn_norm': ('output_layer_norm',),
    },
  ),
  'bert': Architecture(
    model='BertModel',
    fields=dict(
      num_layers='num_hidden_layers',
      dim='hidden_size',
      num_heads='num_attention_heads',
      ffn_dim='intermediate_size',
      vocab_size='vocab_size',
      max_positions='max_position_embeddings',
      type_vocab_size='type_vocab_size',
      pad_token_id='pad_token_id',
      activation='hidden_act',
      layer_norm_eps='layer_norm_eps',
      dropout='hidden_dropout_prob',
      attention_dropout='attention_probs_dropout_prob',
      projection_dropout='hidden_dropout_prob',
      init_std='initializer_range',
    ),
    layer='encoder.layer.{}',
    embeddings=dict(
      word='word_embeddings',
      position='position_embeddings',
      token_type='token_type_embeddings',
    ),
    modules={
      'attention.qkv': (
        'attention.self.query',
        'attention.self.key',
        'attention.self.value',
      ),
      'attention.out': ('attention.output.dense',),
      'attention_norm': ('attention.output.LayerNorm',),
      'ffn_in': ('intermediate.dense',),
      'ffn_out': ('output.dense',),
      'ffn_norm': ('output.LayerNorm',),
    },
  ),
}


def architecture(hf_config: Mapping[str, Any], source: str) -> Architecture:
  """The architecture that a config.json names.

  Raises:
    UserError: one that is not supported; `source` names it to the user.
  """
  kind = hf_config.get('model_type')
  if kind not in ARCHITECTURES:
    raise UserError(
      f'{source}: model_type {kind!r} is not supported, only '
      + ', '.join(ARCHITECTURES)
    )
  position = hf_config.get('position_embedding_type') or 'absolute'
  if position != 'absolute':
    raise UserError(
      f'{source}: position_embedding_type {position!r} is not supported,'
      ' only absolute'
    )
  return ARCHITECTURES[kind]


def transformer_config(
  hf_config: Mapping[str, Any], source: str
) -> TransformerConfig:
  """Our configuration from a config.json, its gaps filled by transformers.

  Raises:
    UserError: an architecture or an activation that is not supported, or
      heads that do not divide the width.
  """
  fields = architecture(hf_config, source).fields
  whole = AutoConfig.for_model(**hf_config).to_dict()
  values = {ours: whole[theirs] for ours, theirs in fields.items()}
  config = TransformerConfig(**values)
  if config.activation not in ACTIVATIONS:
    raise UserError(
      f'{source}: activation {config.activation!r} is not supported, only '
      + ', '.join(ACTIVATIONS)
    )
  if config.dim % config.num_heads:
    raise UserError(
      f'{source}: {config.num_heads} heads do not divide a width of'
      f' {config.dim}'
    )
  return config


def config_json(kind: str, config: TransformerConfig) -> dict[str, Any]:
  """A config.json for a configuration of our own."""
  arch = ARCHITECTURES[kind]
  values = dataclasses.asdict(config)
  return {'model_type': kind, 'architectures': [arch.model]} | {
    theirs: values[ours] for ours, theirs in arch.fields.items()
  }


def from_tensors(
  arch: Architecture,
  tensors: Mapping[str, np.ndarray],
  shapes: Mapping[str, Any],
  source: str,
) -> dict[str, Any]:
  """Parameters from the tensors of a checkpoint; tensors not asked for stay.

  Args:
    arch: says which tensor is which parameter.
    tensors: names, with or without the prefix of a model with a head, to
      arrays of any float type.
    shapes: tree of anything with a `shape`, as the parameters should be.
    source: names the checkpoint to the user.

  Returns:
    Nested dicts of float32 arrays.

  Raises:
    UserError: a tensor is missing or has another shape.
  """
  tensors = {_plain_name(name): value for name, value in tensors.items()}
  params = {}
  for path, leaf in traverse_util.flatten_dict(shapes).items():
    names = arch.tensor_names(path)
    shape = (*leaf.shape[:-1], leaf.shape[-1] // len(names))
    parts = []
    for name in names:
      wanted = shape[::-1] if path[-1] == 'kernel' else shape
      if name not in tensors:
        raise UserError(f'{source}: tensor {name} is missing, shape {wanted}')
      value = tensors[name]
      if value.shape != wanted:
        raise UserError(
          f'{source}: tensor {name} has shape {value.shape}, config.json says'
          f' {wanted}'
        )
      value = np.asarray(value, np.float32)
      parts.append(value.T if path[-1] == 'kernel' else value)
    params[path] = np.ascontiguousarray(np.concatenate(parts, axis=-1))
  return traverse_util.unflatten_dict(params)


def to_tensors(
  arch: Architecture, params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """The names and float32 tensors that Hugging Face expects."""
  for path, value in traverse_util.flatten_dict(params).items():
    names = arch.tensor_names(path)
    parts = np.split(np.asarray(value, np.float32), len(names), axis=-1)
    for name, part in zip(names, parts, strict=True):
      part = part.T if path[-1] == 'kernel' else part
      yield name, np.ascontiguousarray(part)


def _plain_name(name: str) -> str:
  """Without a model's prefix; TensorFlow's words for a layer norm renamed."""
  for kind in ARCHITECTURES:
    name = name.removeprefix(f'{kind}.')
  if name.endswith(('.gamma', '.beta')):
    name = name.replace('.gamma', '.weight').replace('.beta', '.bias')
  return name
