"""The flags of the systems that LMTX is compared with."""

from __future__ import annotations

import dataclasses

from lmtx_jax.cli import flag
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class MethodConfig:
  """Self-supervised methods: --method=rts, maclr, ict, simcse."""

  contrast_temperature: float = flag(
    0.05, 'Temperature of the contrast between embeddings.', low=1e-6
  )
  min_words: int = flag(
    80, 'RTS: shortest window of words that a document is cut into.', low=2
  )
  max_words: int = flag(
    160, 'RTS: longest window of words that a document is cut into.', low=2
  )
  max_cut_tokens: int = flag(
    0,
    'RTS: tokens of a document that windows are cut from; 0: as many as are '
    'trained on.',
    low=0,
  )
  removal_rate: float = flag(
    0.9,
    'ICT: share of the sentences that are taken out of their block; MACLR: of '
    'the sentences that the title is taken out of.',
    low=0.0,
    high=1.0,
  )
  training_head: bool = flag(
    False, 'SimCSE: a dense layer with tanh, in training only.'
  )
  regulariser_weight: float = flag(
    1.0, 'MACLR: weight of the second pass through dropout.', low=0.0
  )
  regulariser_labels: int = flag(
    8,
    'MACLR: random labels of a batch as negatives of that pass, to be divided '
    'among the devices.',
    low=0,
  )
  cluster_refresh_steps: int = flag(
    5000, 'MACLR: steps between two clusterings of the documents.', low=1
  )
  cluster_counts: str = flag(
    '2500,5000,10000,20000,40000',
    'MACLR: clusters, each number for --cluster_growth_steps steps; after the '
    'last one a document is alone.',
  )
  cluster_growth_steps: int = flag(
    10_000, 'MACLR: steps with one number of clusters.', low=1
  )
  second_stage_steps: int = flag(
    0, 'MACLR: steps of its second stage at most; 0: as --max_steps.', low=0
  )
  second_stage_threshold: float = flag(
    0.8,
    'MACLR: cosine above which the top label of a document is taken for its '
    'own, beside the one of TF-IDF.',
    low=-1.0,
    high=1.0,
  )

  def __post_init__(self):
    """Checks what no flag can check alone."""
    if self.min_words > self.max_words:
      raise UserError(
        f'--min_words={self.min_words} is more than'
        f' --max_words={self.max_words}'
      )
    try:
      counts = self.numbers_of_clusters
    except ValueError:
      counts = ()
    if not counts or min(counts) < 1:
      raise UserError(
        f'--cluster_counts={self.cluster_counts}: numbers from 1 are wanted,'
        ' with commas between them'
      )

  @property
  def numbers_of_clusters(self) -> tuple[int, ...]:
    """MACLR's numbers of clusters, one after the other."""
    return tuple(int(count) for count in self.cluster_counts.split(','))


@dataclasses.dataclass(frozen=True)
class IcxmlConfig:
  """--method=icxml."""

  icxml_demonstrations: str = flag(
    'content',
    'Where demonstrations come from: titles like that of the document, or '
    'titles that would have the labels retrieved for it.',
    choices=('content', 'label'),
  )
  icxml_num_demonstrations: int = flag(
    10, 'Demonstrations a document at most.', low=1
  )
  icxml_demonstration_labels: int = flag(
    10, 'Labels of each demonstration.', low=1
  )
  icxml_retrieved: int = flag(
    30, 'Labels retrieved for --icxml_demonstrations=label.', low=1
  )
  icxml_domain: str = flag(
    'wikipedia',
    'What the documents are, in the words of the questions.',
    choices=('wikipedia', 'product', 'document'),
  )
  icxml_answer_tokens: int = flag(512, 'Tokens of an answer at most.', low=16)
  answer_store: str = flag(
    '',
    'SQLite file of all answers, shared by runs; empty: in the run directory.',
    operational=True,
  )
