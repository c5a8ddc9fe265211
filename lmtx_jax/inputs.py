"""What a run works on: documents drawn, texts, tokens, all from one dataset."""

from __future__ import annotations

import dataclasses

from absl import logging
import numpy as np

from lmtx_jax.config import Config
from lmtx_jax.data.batches import bucket_widths, width_cost
from lmtx_jax.data.corpus import (
  Corpus,
  Dataset,
  Texts,
  document_texts,
  label_texts,
)
from lmtx_jax.data.digests import keep_digests
from lmtx_jax.data.tokens import Tokens, TokenView, tokenize
from lmtx_jax.types import UserError

_BLOCK = 1024  # documents read at a time
_DEV_SHARE = 5  # dev documents are at most one of these many


@dataclasses.dataclass(frozen=True)
class Documents:
  """Documents of one part, as every stage needs them.

  Attributes:
    corpus: the records.
    texts: as the teacher reads them.
    tokens: of the records.
    inputs: as they are embedded.
  """

  corpus: Corpus
  texts: Texts
  tokens: Tokens
  inputs: TokenView


@dataclasses.dataclass(frozen=True)
class Inputs:
  """All that a run reads.

  Attributes:
    dataset: where it comes from.
    train: training documents.
    dev: documents of the dev score, disjoint from the training documents.
    test: held-out documents.
    train_inputs: the training documents as they are trained on.
    labels: the label set, as it is embedded.
    label_texts: as the teacher reads them.
    label_key: `[num_labels]` int32, the first label of the same text.
    doc_widths: bucket widths of documents.
    label_widths: bucket widths of labels.
  """

  dataset: Dataset
  train: Documents
  dev: Documents
  test: Documents
  train_inputs: TokenView
  labels: TokenView
  label_texts: Texts
  label_key: np.ndarray
  doc_widths: np.ndarray
  label_widths: np.ndarray


def draw_documents(
  dataset: Dataset, config: Config
) -> tuple[Corpus, Corpus, Corpus]:
  """Training, dev and test documents.

  Dev documents are drawn first, so that they stay the same for every number
  of training documents. Empty documents are never dev documents.
  """
  corpus, sample = dataset.train, config.sample
  if len(corpus) < 2:
    raise UserError('at least two training documents are needed')
  rng = np.random.default_rng((config.run.seed, 1))
  order = rng.permutation(len(corpus))
  num_dev = min(sample.num_dev_docs, max(1, len(corpus) // _DEV_SHARE))
  if num_dev < sample.num_dev_docs:
    logging.warning('only %d dev documents: too few documents', num_dev)
  dev = _first_with_text(document_texts(corpus, config.text), order, num_dev)
  if not len(dev):
    raise UserError(
      'no training document has a text; where it stands in "title",'
      ' --encode_title is needed'
    )
  rest = order[~np.isin(order, dev)]
  train = rest[: sample.num_train_docs or len(rest)]
  if len(train) < sample.num_train_docs:
    logging.warning('only %d training documents', len(train))
  test = np.arange(len(dataset.test))[: sample.num_test_docs or None]
  return (
    corpus.take(np.sort(train), 'train'),
    corpus.take(np.sort(dev), 'dev'),
    dataset.test.take(test, 'test'),
  )


def _first_with_text(texts: Texts, order: np.ndarray, count: int) -> np.ndarray:
  """The first documents of `order` that are not empty, read as needed."""
  found: list[int] = []
  for start in range(0, len(order), _BLOCK):
    rows = order[start : start + _BLOCK]
    found += [
      row
      for row, text in zip(rows, texts.get(rows), strict=True)
      if text.strip()
    ]
    if len(found) >= count:
      break
  return np.array(found[:count], np.int64)


def load_inputs(
  dataset: Dataset,
  drawn: tuple[Corpus, Corpus, Corpus],
  tokenizer,
  config: Config,
) -> Inputs:
  """Tokenises what was drawn, or opens what an earlier run tokenised."""
  cache = config.source.data_cache
  longest = max(
    config.encoder.max_doc_tokens, config.encoder.max_train_doc_tokens
  )

  def documents(corpus: Corpus, most: int = longest) -> Documents:
    tokens = tokenize(corpus, tokenizer, most, cache)
    return Documents(
      corpus,
      document_texts(corpus, config.text),
      tokens,
      document_view(tokens, config, config.encoder.max_doc_tokens),
    )

  # Windows are cut from more than is ever read at once.
  cut = config.method.max_cut_tokens if config.run.method == 'rts' else 0
  train = documents(drawn[0], max(longest, cut))
  dev, test = documents(drawn[1]), documents(drawn[2])
  labels = label_view(
    tokenize(dataset.labels, tokenizer, config.encoder.max_label_tokens, cache),
    config,
  )
  texts = label_texts(dataset.labels, config.text)
  keep_digests(texts, config.text.label_text, cache)
  _, first, inverse = np.unique(
    texts.digests, return_index=True, return_inverse=True
  )
  passes = config.run.num_cycles + 1  # all is embedded before cycle 0 too
  return Inputs(
    dataset=dataset,
    train=train,
    dev=dev,
    test=test,
    train_inputs=document_view(
      train.tokens,
      config,
      config.encoder.max_train_doc_tokens or config.encoder.max_doc_tokens,
    ),
    labels=labels,
    label_texts=texts,
    label_key=first[inverse].astype(np.int32),
    doc_widths=bucket_widths(
      np.concatenate([part.inputs.lengths for part in (train, dev, test)]),
      config.encoder.max_doc_tokens,
      min_saved=width_cost(passes),
    ),
    label_widths=bucket_widths(
      labels.lengths,
      config.encoder.max_label_tokens,
      min_saved=width_cost(passes),
    ),
  )


def document_view(tokens: Tokens, config: Config, max_tokens: int) -> TokenView:
  """Documents as the encoder reads them."""
  return tokens.view(max_tokens, title=config.text.encode_title)


def label_view(tokens: Tokens, config: Config) -> TokenView:
  """Labels as the encoder reads them."""
  return tokens.view(
    config.encoder.max_label_tokens,
    content=config.text.label_text == 'title_content',
  )
