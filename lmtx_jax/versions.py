"""What must be the same everywhere for processes to compute the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib

from lmtx_jax import __version__

_PACKAGES = ('jax', 'numpy', 'scann', 'tokenizers', 'transformers')


def versions() -> dict[str, str]:
  """Versions of this package and of those that its results depend on.

  Its own sources count as well, for code may differ under one version.
  """
  found = {'lmtx_jax': __version__, 'sources': _digest_of_sources()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # ScaNN, on some platforms
      found[name] = 'absent'
  return found


def _digest_of_sources() -> str:
  """Of all .py files of the package, in hex."""
  folder, digest = pathlib.Path(__file__).parent, hashlib.sha256()
  for path in sorted(folder.rglob('*.py')):
    digest.update(f'{path.relative_to(folder)}\0'.encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest()[:12]
