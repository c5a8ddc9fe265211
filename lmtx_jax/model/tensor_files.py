"""Files of tensors: safetensors, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
import os

import numpy as np
import safetensors
import safetensors.numpy

from lmtx_jax.types import UserError

WEIGHTS = 'model.safetensors'


def read_tensors(file: str) -> dict[str, np.ndarray]:
  """Reads the tensors of a model.

  Raises:
    UserError: there is no such file, or a broken one.
  """
  if not os.path.exists(file):
    folder = os.path.dirname(file)
    hint = ''
    if os.path.exists(os.path.join(folder, 'pytorch_model.bin')):
      hint = '; pytorch_model.bin is a pickle and is never read, convert it'
    raise UserError(f'{folder}: there is no {WEIGHTS}{hint}')
  try:
    return safetensors.numpy.load_file(file)
  except (safetensors.SafetensorError, OSError) as e:
    raise UserError(f'{file}: not a safetensors file: {e}') from e


def write_tensors(file: str, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes float32 tensors for PyTorch."""
  whole = {
    name: np.ascontiguousarray(value, np.float32)
    for name, value in tensors.items()
  }
  # Not save_file: a full disk is no OSError there.
  data = safetensors.numpy.save(whole, metadata={'format': 'pt'})
  with open(file, 'wb') as f:
    f.write(data)
