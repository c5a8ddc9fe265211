"""Which of the peers that are compared with take part."""

from __future__ import annotations

from collections.abc import Collection
import importlib.util
import sys

from lmtx_jax.types import UserError

# The module of each peer; all come with `pip install -e '.[benchmarks]'`.
_MODULES = {
  'scann': 'scann',
  'hnswlib': 'hnswlib',
  'faiss': 'faiss',
  'bm25s': 'bm25s',
  'onnxruntime': 'onnxruntime',
  'sentence_transformers': 'sentence_transformers',
  'torch': 'torch',
}
# JAX would take most of a GPU's memory, and PyTorch waits beside it.
JAX_ENVIRON = {'XLA_CLIENT_MEM_FRACTION': '.3'}


def chosen(names: str, known: Collection[str]) -> list[str]:
  """The peers of a --peers that are installed.

  What is not is told on standard error.

  Args:
    names: comma-separated.
    known: the names that there are.

  Raises:
    UserError: an unknown name.
  """
  found = []
  for name in filter(None, names.split(',')):
    if name not in known:
      raise UserError(f'--peers={name}: choose of {", ".join(known)}')
    module = _MODULES.get(name)
    if module is None or importlib.util.find_spec(module):
      found.append(name)
    else:
      print(
        f'{name} is left out, for it is not installed:'
        " pip install -e '.[benchmarks]'",
        file=sys.stderr,
      )
  return found
