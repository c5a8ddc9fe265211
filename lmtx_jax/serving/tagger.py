"""The encoder at compiled shapes, and the labels of the moment."""

from __future__ import annotations

from collections.abc import Sequence
import threading
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from lmtx_jax import devices
from lmtx_jax.bundle import Bundle
from lmtx_jax.data.tokens import TokenView, special_of
from lmtx_jax.serving.labels import LabelView
from lmtx_jax.serving.shapes import Shape, shapes_of
from lmtx_jax.types import Record

_FEW = 10  # labels that most requests are content with


def default_batch_tokens() -> int:
  """Tokens of a batch: on a CPU so few that the next need not wait long."""
  return 512 if jax.default_backend() == 'cpu' else 16_384


class Tagger:
  """Embeds and looks up, in shapes that are compiled before they are used.

  Attributes:
    view: the labels, see `use`; whoever needs them twice reads it once.
    compiled: shapes that a batch may have; never empty after `compile_first`.
    shapes: those and the ones to come.
  """

  def __init__(self, bundle: Bundle, batch_tokens: int, max_top_k: int):
    """Takes an open bundle.

    Args:
      bundle: opened with the same `batch_tokens`.
      batch_tokens: tokens of a batch on one device, padding included.
      max_top_k: labels that a document can be given.
    """
    self._bundle = bundle
    self._depths = sorted({min(_FEW, max_top_k), max_top_k})
    self._depth_of_nearest = max_top_k + 1  # for the label itself
    self.view = LabelView(bundle.state)
    self.shapes = shapes_of(bundle.doc_widths, batch_tokens, devices.total())
    self.compiled: tuple[Shape, ...] = ()
    self._stopped = threading.Event()
    self._thread = threading.Thread(
      target=self._compile_rest, name='compile', daemon=True
    )
    self._special = special_of(bundle.tokenizer)

  @property
  def about(self) -> dict[str, Any]:
    """What the bundle tells of itself."""
    return self._bundle.about

  def text_of(self, record: Record) -> str:
    """What of a document is read; nothing can be told of an empty one."""
    title = record.title if self._bundle.text.encode_title else ''
    return f'{title} {record.content}'.strip()

  def compile_first(self) -> None:
    """Compiles what the first request needs, and the searches."""
    self._compile(self.shapes[0])
    self._compile_searches(self.view)

  def use(self, view: LabelView) -> None:
    """Answers from other labels from now on.

    One assignment switches to them, so that a batch knows all of a change or
    nothing of it.
    """
    self._compile_searches(view)
    self.view = view

  def _compile_searches(self, view: LabelView) -> None:
    dim = self._bundle.about['dim']
    for size in sorted({shape.size for shape in self.shapes}):
      queries = np.zeros((size, dim), np.float32)
      for depth in self._depths:
        view.state.search(queries, None, depth)
      words = self._bundle.words([Record('', '', '')] * size, view.state)
      if words is not None:
        view.state.search(queries, words, self._depths[-1])
    queries = np.zeros((1, dim), np.float32)
    view.state.search(queries, None, self._depth_of_nearest)

  def start(self) -> None:
    """Compiles the other shapes by and by; requests are answered meanwhile."""
    self._thread.start()

  def stop(self) -> None:
    """Ends that after the shape that it is at; may be called again."""
    self._stopped.set()
    if self._thread.is_alive():
      self._thread.join()

  def _compile_rest(self) -> None:
    start = time.monotonic()
    for shape in self.shapes[1:]:
      if self._stopped.is_set():
        return
      self._compile(shape)
    logging.info(
      '%d shapes ready after %.1f s', len(self.shapes), time.monotonic() - start
    )

  def _compile(self, shape: Shape) -> None:
    longest = np.zeros(shape.width - 2, np.int32)
    self.embed([longest] * shape.size, shape)
    self.compiled += (shape,)

  def tokens(self, records: Sequence[Record]) -> list[np.ndarray]:
    """`[num_tokens]` ids of each document, without the two special ones."""
    view = self._bundle.inputs(records)
    return [
      view.values[start : start + size]
      for start, size in zip(view.starts, view.sizes, strict=True)
    ]

  def embed(self, tokens: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Embeds documents in one batch.

    Args:
      tokens: of at most `shape.size` documents of at most `shape.width` tokens,
        see `tokens`.
      shape: one that is compiled.

    Returns:
      `[len(tokens), dim]` float32.
    """
    padded = [tokens[i % len(tokens)] for i in range(shape.size)]
    sizes = np.array([len(ids) for ids in padded], np.int64)
    inputs = TokenView(
      np.concatenate(padded), np.cumsum(sizes) - sizes, sizes, self._special
    )
    embeddings = self._bundle.encoder.encode(inputs, np.array([shape.width]))
    return embeddings[: len(tokens)]

  def look_up(
    self,
    embeddings: np.ndarray,
    records: Sequence[Record],
    top_k: Sequence[int],
  ) -> list[list[dict[str, Any]]]:
    """The best labels of each document, best first.

    All from one view of the labels, whatever replaces it meanwhile.

    Args:
      embeddings: `[n, dim]` float32.
      records: `[n]` the documents; the words of a view's labels are found in
        them, where words count.
      top_k: `[n]` how many each wants, `max_top_k` at most.

    Returns:
      of each `{"uid", "title", "score"}`.
    """
    view = self.view
    words = self._bundle.words(records, view.state)
    depth = min(d for d in self._depths if d >= max(top_k))
    rows = view.state.describe(view.state.search(embeddings, words, depth))
    return [row[:k] for row, k in zip(rows, top_k, strict=True)]

  def nearest(
    self, view: LabelView, label: int, top_k: int
  ) -> list[dict[str, Any]]:
    """The labels closest to a label, itself left out.

    Args:
      view: what the label is of.
      label: its index there.
      top_k: how many, `max_top_k` at most.

    Returns:
      of each `{"uid", "title", "score"}`, best first.
    """
    query = np.asarray(view.state.embeddings[label : label + 1], np.float32)
    tags = view.state.search(query, None, self._depth_of_nearest)
    (found,) = view.state.describe(tags)
    uid = view.state.labels.get([label])[0].uid
    return [other for other in found if other['uid'] != uid][:top_k]
