"""Adds labels to a bundle and removes them, without training.

A change writes a new generation of label files and then switches to it (see
bundle_labels), so that readers never see half of one. The index is built anew
each time: one of a few hundred thousand labels takes seconds, and its hashing
fits the labels that there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import errno
import fcntl
import itertools
import os

import numpy as np

from lmtx_jax import __version__
from lmtx_jax.bundle import Bundle
from lmtx_jax.bundle_labels import (
  ABOUT,
  EMBEDDINGS,
  GENERATION,
  LABELS,
  SCANN,
  LabelState,
  bundle_format,
  open_labels,
  write_label_index,
)
from lmtx_jax.data.corpus import label_text
from lmtx_jax.embeddings import blocks, create_embeddings
from lmtx_jax.files import remove, staged, write_json
from lmtx_jax.fused_files import OF_LABELS, write_fused
from lmtx_jax.label_file import Label, write_rows
from lmtx_jax.types import Record, UserError

_LOCK = '.labels.lock'


class LabelExistsError(UserError):
  """A label that is to be added is there already."""


class UnknownLabelError(UserError):
  """A label that is to be removed is not there."""


class LastLabelError(UserError):
  """No label would be left."""


class ReadOnlyError(UserError):
  """The bundle cannot be written to."""


def add_labels(
  bundle: Bundle, labels: Sequence[Record], places: Sequence[str] = ()
) -> None:
  """Adds labels behind those that a bundle has now, whoever added them.

  The bundle that is handed in embeds them, and is not changed: `reload` it.

  Args:
    bundle: where to.
    labels: the new ones; their content is embedded if that of the first labels
      was, and is not kept.
    places: where each was read, for an error message.

  Raises:
    LabelExistsError: a uid is there already, or comes twice.
    ReadOnlyError: the bundle cannot be written to.
    UserError: a label without text, or a broken bundle.
  """
  places = places or [f'label {label.uid!r}' for label in labels]
  with _editing(bundle.folder):
    state = open_labels(bundle.folder, 0)
    if 'max_label_tokens' not in state.about:
      raise UserError(f"{bundle.folder}/{ABOUT} lacks 'max_label_tokens'")
    _check_new(state, bundle.text.label_text, labels, places)
    if not labels:
      return
    _replace(
      bundle.folder,
      state,
      np.arange(len(state)),
      [Label(label.uid, label.title) for label in labels],
      bundle.embed_labels(labels),
      [label_text(label, bundle.text.label_text) for label in labels],
    )


def remove_labels(
  folder: str, uids: Sequence[str], places: Sequence[str] = ()
) -> None:
  """Removes labels from the bundle in a folder; the others keep their order.

  Args:
    folder: of the bundle.
    uids: of the labels.
    places: where each was read, for an error message.

  Raises:
    UnknownLabelError: a uid is not there, or comes twice.
    LastLabelError: no label would be left.
    ReadOnlyError: the bundle cannot be written to.
    UserError: a broken bundle.
  """
  places = places or ['remove'] * len(uids)
  with _editing(folder):
    state = open_labels(folder, 0)
    known = {label.uid for label in state.labels}
    gone = set()
    for place, uid in zip(places, uids, strict=True):
      if uid in gone:
        raise UnknownLabelError(f'{place}: label {uid!r} comes twice')
      if uid not in known:
        raise UnknownLabelError(
          f'{place}: there is no label {uid!r} in the bundle'
        )
      known.remove(uid)
      gone.add(uid)
    if not known:
      raise LastLabelError(
        f'a bundle keeps a label, and these are all {len(state)}'
      )
    if not uids:
      return
    kept = [i for i, label in enumerate(state.labels) if label.uid in known]
    none = np.zeros((0, state.embeddings.shape[1]), np.float32)
    _replace(folder, state, np.array(kept), [], none, [])


def _check_new(
  state: LabelState,
  text: str,
  labels: Sequence[Record],
  places: Sequence[str],
) -> None:
  """Raises where labels cannot be added."""
  seen = {label.uid: '' for label in state.labels}
  for place, label in zip(places, labels, strict=True):
    if label.uid in seen:
      first = seen[label.uid]
      where = f'at {first}' if first else 'in the bundle'
      raise LabelExistsError(
        f'{place}: label uid {label.uid!r} is {where} already'
      )
    if not label.uid.strip():
      raise UserError(f'{place}: uid is white space')
    if not label_text(label, text).strip():
      raise UserError(f'{place}: label {label.uid!r} has no text')
    seen[label.uid] = place


@contextlib.contextmanager
def _editing(folder: str) -> Iterator[None]:
  """One editor at a time; the next one waits."""
  if not os.path.exists(os.path.join(folder, ABOUT)):
    raise UserError(f'--bundle={folder} is not a bundle: no {ABOUT} in it')
  try:
    with open(os.path.join(folder, _LOCK), 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      yield  # the lock may be open to who can write nothing else
  except OSError as e:
    if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
      raise
    raise ReadOnlyError(
      f'{folder}: its labels cannot be changed here: {e.strerror}'
    ) from e


def _replace(
  folder: str,
  state: LabelState,
  kept: np.ndarray,
  added: Sequence[Label],
  embeddings: np.ndarray,
  texts: Sequence[str],
) -> None:
  """Writes the next generation, switches to it, deletes what is outdated.

  Args:
    folder: of the bundle.
    state: its labels now.
    kept: `[num_kept]` indices of those that stay, ascending.
    added: the new ones.
    embeddings: `[num_added, dim]` float32, of the new ones.
    texts: of the new ones.
  """
  number = _number(state.about.get('label_folder', ''))
  _sweep(folder, number)
  name = f'labels_{number + 1:06d}'
  num_labels = len(kept) + len(added)
  with staged(os.path.join(folder, name)) as temporary:
    os.mkdir(temporary)
    old = (label for i in kept.tolist() for label in state.labels.get([i]))
    write_rows(os.path.join(temporary, LABELS), itertools.chain(old, added))
    path = os.path.join(temporary, EMBEDDINGS)
    out = create_embeddings(
      path,
      (num_labels, state.embeddings.shape[1]),
      state.embeddings.dtype.name,
    )
    for rows in blocks(len(kept), out.shape[1]):
      out[rows] = state.embeddings[kept[rows]]
    out[len(kept) :] = embeddings
    out.flush()
    kind = write_label_index(temporary, out, state.index)
    if state.fused:
      write_fused(temporary, state.fused.with_labels(kept, texts))
  changed = {
    'format': bundle_format(state.fused),
    'version': __version__,
    'num_labels': num_labels,
    'label_folder': name,
    'index': kind,
  }
  with staged(os.path.join(folder, ABOUT)) as temporary:
    write_json(temporary, state.about | changed)
  _sweep(folder, number + 1)


def _number(name: str) -> int:
  """Of a generation: the files of the export are number 0."""
  return int(GENERATION.fullmatch(name)[1]) if name else 0


def _sweep(folder: str, current: int) -> None:
  """Deletes label files that are neither in use nor those before."""
  for name in os.listdir(folder):
    match = GENERATION.fullmatch(name.removeprefix('.unfinished-'))
    if match and (
      name.startswith('.') or int(match[1]) not in (current - 1, current)
    ):
      remove(os.path.join(folder, name))
  if current > 1:
    for name in (LABELS, EMBEDDINGS, SCANN, *OF_LABELS):
      remove(os.path.join(folder, name))
