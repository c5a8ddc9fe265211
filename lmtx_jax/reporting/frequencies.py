"""How often each label is predicted, against how often it is true."""

from __future__ import annotations

import dataclasses

import numpy as np

from lmtx_jax.types import Ragged

_FIRST = 5  # predictions a document that count where no truth tells how many


@dataclasses.dataclass(frozen=True)
class Frequencies:
  """Over the test documents.

  Attributes:
    predicted: `[num_labels]` int64, documents that each label is given.
    true: `[num_labels]` int64, documents that it is true of; None without
      truth.
    rule: how many predictions of a document count.
  """

  predicted: np.ndarray
  true: np.ndarray | None
  rule: str

  def bins(self) -> list[tuple[str, int, int]]:
    """By how often a label is true: its name, pairs true, pairs predicted."""
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    top = int(self.true.max(initial=0))
    edges = [edge for edge in edges if edge <= top]
    place = np.digitize(self.true, edges) - 1
    true = np.bincount(place, self.true, len(edges)).astype(int)
    predicted = np.bincount(place, self.predicted, len(edges)).astype(int)
    names = [
      _range(low, high)
      for low, high in zip(edges, [*edges[1:], None], strict=True)
    ]
    return list(zip(names, true.tolist(), predicted.tolist(), strict=True))


def count(
  labels: np.ndarray, targets: Ragged | None, num_labels: int
) -> Frequencies:
  """Counts predictions and truth.

  Args:
    labels: `[num_docs, k]` int32, best first, -1 where there are no more.
    targets: true labels of the same documents; None where not known.
    num_labels: size of the label set.
  """
  columns = np.arange(labels.shape[1])
  if targets is None or not len(targets.values):
    counted = labels[:, :_FIRST]
    return Frequencies(_counts(counted, num_labels), None, f'first {_FIRST}')
  # As many as are true, so that the sums can be compared.
  counted = np.where(columns < targets.lengths[:, None], labels, -1)
  most = np.minimum(targets.lengths, labels.shape[1])
  rule = 'as many of each document as it has true labels'
  if (targets.lengths > most).any():
    rule += f', {labels.shape[1]} at most'
  true = np.bincount(targets.values, minlength=num_labels)
  return Frequencies(_counts(counted, num_labels), true, rule)


def _counts(labels: np.ndarray, num_labels: int) -> np.ndarray:
  return np.bincount(labels[labels >= 0], minlength=num_labels)


def _range(low: int, high: int | None) -> str:
  if high is None:
    return f'{low}+' if low else '0'
  return str(low) if high == low + 1 else f'{low}-{high - 1}'
