"""Embeddings on disk: memory-mapped .npy files of float32 or bfloat16.

Other programs read them too: a bfloat16 file opens in plain numpy as two-byte
void (`np.load(path).view(ml_dtypes.bfloat16)`), for .npy has no name for it.
"""

from __future__ import annotations

from collections.abc import Iterator
import os

import jax.numpy as jnp
import numpy as np

from lmtx_jax.types import UserError

DTYPES = ('float32', 'bfloat16')
_DTYPES = {name: np.dtype(getattr(jnp, name)) for name in DTYPES}
_BLOCK_BYTES = 2**26  # copied at a time


def create_embeddings(
  path: str, shape: tuple[int, int], dtype: str = 'float32'
) -> np.memmap:
  """Makes a memory-mapped array to write to, on disk space that is claimed.

  Where there is none, that is an error here; a write to memory would end the
  process without a word.

  Args:
    path: of the .npy file.
    shape: `(num_rows, dim)`.
    dtype: one of DTYPES.

  Returns:
    an array of that shape and type; `flush()` it when it is filled.

  Raises:
    OSError: the disk is full.
  """
  stored = 'V2' if dtype == 'bfloat16' else np.float32
  array = np.lib.format.open_memmap(path, 'w+', stored, shape)
  if hasattr(os, 'posix_fallocate'):  # not on macOS
    with open(path, 'r+b') as f:
      os.posix_fallocate(f.fileno(), 0, os.path.getsize(path))
  return array.view(_DTYPES[dtype])


def open_embeddings(path: str) -> np.memmap:
  """Opens `[num_rows, dim]` float32 or bfloat16, memory-mapped, to read.

  Raises:
    UserError: the file is damaged, or holds something else.
  """
  try:
    array = np.load(path, mmap_mode='r', allow_pickle=False)
  except (ValueError, EOFError) as e:
    raise UserError(f'{path} is not a whole array: {e}') from e
  if array.dtype == np.dtype('V2'):
    array = array.view(_DTYPES['bfloat16'])
  if array.ndim != 2 or array.dtype not in _DTYPES.values():
    raise UserError(
      f'{path} has shape {array.shape} of {array.dtype}; embeddings are two'
      ' dimensions of float32 or bfloat16'
    )
  return array


def copy_embeddings(embeddings: np.ndarray, path: str) -> None:
  """Copies `[num_rows, dim]` f32 or bf16 into a file, block by block."""
  out = create_embeddings(path, embeddings.shape, embeddings.dtype.name)
  for rows in blocks(*embeddings.shape):
    out[rows] = embeddings[rows]
  out.flush()


def blocks(num_rows: int, dim: int) -> Iterator[slice]:
  """Slices of rows that are a fair piece of work or memory each."""
  size = max(1, _BLOCK_BYTES // (4 * dim))
  for start in range(0, num_rows, size):
    yield slice(start, min(start + size, num_rows))


def inner_products(
  left: np.ndarray,
  left_rows: np.ndarray,
  right: np.ndarray,
  right_rows: np.ndarray,
) -> np.ndarray:
  """Of pairs of embeddings, of which some are in memory at a time.

  Args:
    left: `[n, dim]` f32 or bf16, memory-mapped or not.
    left_rows: `[p]` int.
    right: `[m, dim]` f32 or bf16, memory-mapped or not.
    right_rows: `[p]` int.

  Returns:
    `[p]` f32.
  """
  out = np.empty(len(left_rows), np.float32)
  for part in blocks(len(out), left.shape[1]):
    out[part] = np.einsum(
      'pd,pd->p',
      as_float32(left[left_rows[part]]),
      as_float32(right[right_rows[part]]),
    )
  return out


def as_float32(embeddings: np.ndarray) -> np.ndarray:
  """The same values in float32, in memory or still memory-mapped."""
  return np.ascontiguousarray(embeddings, np.float32)
