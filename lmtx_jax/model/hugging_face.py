"""What Hugging Face calls our configuration and parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from flax import traverse_util
import numpy as np

from lmtx_jax.model.architectures import ARCHITECTURES, Architecture
from lmtx_jax.model.layers import ACTIVATIONS, TransformerConfig
from lmtx_jax.types import UserError

# transformers has MPNet share distances out among so many, whatever
# config.json says.
_BUCKETS = 32


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
    UserError: an architecture, an activation or buckets that are not supported,
      or heads that do not divide the width.
  """
  arch = architecture(hf_config, source)
  from transformers import AutoConfig  # slow to import

  whole = AutoConfig.for_model(**hf_config).to_dict()
  values = {ours: whole[theirs] for ours, theirs in arch.fields.items()}
  # What they count are rows, those before the first one in use among them.
  values['max_positions'] -= arch.first_position
  config = TransformerConfig(first_position=arch.first_position, **values)
  if config.relative_buckets not in (0, _BUCKETS):
    raise UserError(
      f'{source}: {config.relative_buckets} buckets of relative positions are'
      f' not supported, only {_BUCKETS}'
    )
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
  values['max_positions'] += arch.first_position
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
