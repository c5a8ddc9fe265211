"""The embedded dataset: which functions numpy and scipy refer each other to.

Documents are the docstrings of all public functions, classes and methods of
the installed numpy and scipy, without their See Also section; the labels are
those same objects; a document's truth is what its See Also section names. It
is a small LF-WikiSeeAlso that needs no download.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import types
import warnings

from numpydoc.docscrape import NumpyDocString, ParseError

from lmtx_jax.data import reading
from lmtx_jax.types import Record

_VERSION = 1  # of the extraction; part of the cache key
_ROOTS = ('numpy', 'scipy')
# Not part of what a user calls: tests, build tools, C-level doubles.
_SKIPPED = ('conftest', 'cython_special', 'distutils', 'f2py', 'tests')
# Where a See Also section may mean a name that it gives without its module.
_FALLBACK_SCOPES = ('numpy', 'scipy', 'numpy.ma', 'scipy.stats')
_RANDOM_OUTPUT = re.compile(r'^ *array\([^)]*\) *# may vary\n', re.MULTILINE)
_WORD_SET = re.compile(r"\{('\w+'(?:, '\w+')+)\}")


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One documented object.

  Attributes:
    name: its shortest public name.
    summary: the first paragraph of its docstring, on one line.
    content: its docstring without See Also.
    see_also: names of the objects that it refers to.
  """

  name: str
  summary: str
  content: str
  see_also: Sequence[str]

  @property
  def is_test(self) -> bool:
    """Half of the documents with truth, chosen by their name alone."""
    return bool(self.see_also) and _hash(self.name)[0] % 2 == 0


class ScipySeeAlso:
  """A `reading.Source` of the docstrings of numpy and scipy."""

  def __init__(self):
    self._entries: list[_Entry] = []

  def digest(self) -> str:
    """Of the versions; the docstrings need not be read to know it."""
    versions = [
      importlib.metadata.version(root) for root in (*_ROOTS, 'numpydoc')
    ]
    return _hash(f'scipy_see_also {_VERSION} {versions}').hex()

  def records(self, split: str) -> Iterator[tuple[Record, Sequence[int]]]:
    """Labels are (name, summary), documents (name, docstring)."""
    index = {entry.name: i for i, entry in enumerate(self._read())}
    for entry in self._of(split):
      if split == reading.LABEL:
        yield Record(entry.name, entry.name, entry.summary), ()
      else:
        targets = sorted(index[name] for name in entry.see_also)
        yield Record(entry.name, entry.name, entry.content), targets

  def filters(self, split: str) -> Iterator[tuple[str, int, int]]:
    """A document is never tagged with its own label."""
    if split != reading.LABEL:
      index = {entry.name: i for i, entry in enumerate(self._read())}
      for row, entry in enumerate(self._of(split)):
        yield entry.name, row, index[entry.name]

  def place(self, split: str, row: int) -> str:
    """The name of the object."""
    return self._of(split)[row].name

  def _read(self) -> list[_Entry]:
    if not self._entries:
      self._entries = _entries()
    return self._entries

  def _of(self, split: str) -> list[_Entry]:
    if split == reading.LABEL:
      return self._read()
    return [e for e in self._read() if e.is_test == (split == reading.TEST)]


def _entries() -> list[_Entry]:
  """All documented objects, ordered by name."""
  with warnings.catch_warnings():
    # Deprecated modules warn on import, numpydoc on unusual sections.
    warnings.simplefilter('ignore')
    names = _public_names()
    docs = {
      key: doc
      for key, (item, _) in names.items()
      if (doc := _parsed(item.__doc__))
    }
    by_name = {
      name: key
      for key, (_, aliases) in names.items()
      for name in aliases
      if key in docs
    }
    canonical = {key: _shortest(names[key][1]) for key in docs}
    return sorted(
      (
        _entry(doc, names[key][1], by_name, canonical)
        for key, doc in docs.items()
      ),
      key=lambda entry: entry.name,
    )


def _entry(
  doc: NumpyDocString,
  aliases: Sequence[str],
  by_name: dict[str, int],
  canonical: dict[int, str],
) -> _Entry:
  own = _shortest(aliases)
  found = {
    canonical[by_name[name]]
    for references, _ in doc['See Also']
    for reference, _ in references
    if (name := _resolved(reference.strip('`~ '), aliases, by_name))
  }
  doc['See Also'] = []
  summary = ' '.join(' '.join(doc['Summary']).split())
  return _Entry(own, summary, str(doc).strip(), sorted(found - {own}))


def _resolved(
  reference: str, aliases: Sequence[str], by_name: dict[str, int]
) -> str | None:
  """The full name that a See Also section means, innermost scope first."""
  scopes = []
  for alias in sorted(aliases, key=_rank):
    parts = alias.split('.')[:-1]
    scopes += ['.'.join(parts[:n]) for n in range(len(parts), 0, -1)]
  scopes += _FALLBACK_SCOPES
  candidates = [reference, *(f'{scope}.{reference}' for scope in scopes)]
  return next((name for name in candidates if name in by_name), None)


def _public_names() -> dict[int, tuple[Callable, list[str]]]:
  """Each public object, by identity, with all its public names."""
  out: dict[int, tuple[Callable, list[str]]] = {}

  def add(item: Callable, name: str, scope: str) -> None:
    home = getattr(item, '__module__', None) or scope
    is_public = not name.rpartition('.')[2].startswith('_')
    if is_public and callable(item) and home.split('.')[0] in _ROOTS:
      out.setdefault(id(item), (item, []))[1].append(name)

  for module in (m for root in _ROOTS for m in _modules(root)):
    members = vars(module)
    for name in members.get('__all__') or list(members):
      add(members.get(name), f'{module.__name__}.{name}', module.__name__)
  classes = [
    (item, _shortest(aliases))
    for item, aliases in out.values()
    if inspect.isclass(item)
  ]
  # A method belongs to the class that defines it; an inherited one is named
  # after an heir only where that class is not public.
  for inherited in (False, True):
    known = set(out)
    for item, class_name in classes:
      for name, (method, owner) in _members(item).items():
        if inherited == (owner is not item) and id(method) not in known:
          add(method, f'{class_name}.{name}', owner.__module__)
  return out


def _members(item: type) -> dict[str, tuple[object, type]]:
  """What a class shows by name, and the class that defines it."""
  return {
    name: (getattr(member, '__func__', member), owner)
    for owner in reversed(item.__mro__)
    for name, member in vars(owner).items()
  }


def _modules(name: str) -> Iterator[types.ModuleType]:
  """A package and its public modules, depth first, in order of name."""
  module = importlib.import_module(name)
  yield module
  for info in pkgutil.iter_modules(getattr(module, '__path__', ())):
    if not info.name.startswith('_') and info.name not in _SKIPPED:
      yield from _modules(f'{name}.{info.name}')


def _parsed(docstring: object) -> NumpyDocString | None:
  """The parsed docstring; None if there is none or it is malformed."""
  if not isinstance(docstring, str) or not docstring.strip():
    return None
  try:
    doc = NumpyDocString(_stable(docstring))
  except (ParseError, ValueError):
    return None
  return doc if ''.join(doc['Summary']).strip() else None


def _stable(docstring: str) -> str:
  """Mends what scipy writes anew at each import, so that caches agree.

  Those are random numbers in examples and Python sets in a random order.
  """
  docstring = _RANDOM_OUTPUT.sub('', docstring)
  return _WORD_SET.sub(
    lambda match: '{' + ', '.join(sorted(match[1].split(', '))) + '}', docstring
  )


def _shortest(names: Sequence[str]) -> str:
  return min(names, key=_rank)


def _rank(name: str) -> tuple[int, str]:
  return len(name), name


def _hash(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()
