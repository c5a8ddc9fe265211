"""JSON files of a model folder."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from typing import Any

from lmtx_jax.types import UserError


def read_json(file: str) -> Any:
  """Reads a file; one that is missing or broken is a UserError."""
  try:
    with open(file, encoding='utf-8') as f:
      return json.load(f)
  except FileNotFoundError as e:
    raise UserError(f'{file}: there is no such file') from e
  except (ValueError, RecursionError) as e:
    raise UserError(f'{file}: not JSON: {e}') from e


def read_object(file: str) -> dict[str, Any]:
  """As `read_json`, of a file that must hold an object."""
  value = read_json(file)
  if not isinstance(value, dict):
    raise UserError(f'{file}: not an object')
  return value


def write_json(value: Mapping | list, *path: str) -> None:
  """Writes a file and the folder it lies in; equal values, equal bytes."""
  file = os.path.join(*path)
  os.makedirs(os.path.dirname(file), exist_ok=True)
  with open(file, 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2, sort_keys=True)
    f.write('\n')
