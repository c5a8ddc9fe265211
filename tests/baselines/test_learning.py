"""Each method learns: P@1 of documents it never saw rises."""

import contextlib
import functools

from baseline_fixtures import FakeTokenizer, documents, view
import jax
import numpy as np
import pytest

from lmtx_jax.baselines.ict import IctPairs
from lmtx_jax.baselines.maclr import MaclrPairs
from lmtx_jax.baselines.simcse import SimCsePairs
from lmtx_jax.encode import Encoder
from lmtx_jax.metric_writer import MetricWriter
from lmtx_jax.model.bi_encoder import BiEncoder
from lmtx_jax.model.transformer import TransformerConfig
from lmtx_jax.train import losses
from lmtx_jax.train.clusters import cluster
from lmtx_jax.train.loop import FitConfig, fit
from lmtx_jax.train.pair_source import Refresh

TOPICS, COMMON, BATCH = 16, 24, 16
TOKENIZER = FakeTokenizer()
LABELS = view(TOKENIZER, [f'name{i} alias{i}' for i in range(TOPICS)])


def make_corpus(num_docs, seed):
  """Titles name the topic; sentences hold words of it, and common ones."""
  rng = np.random.default_rng(seed)
  texts, topics = [], rng.integers(0, TOPICS, num_docs)
  for topic in topics:
    words = [f'name{topic}', f'alias{topic}', *(f'w{topic}of{i}' for i in '12')]
    sentences = [
      rng.permutation(
        [*rng.choice(words, 2), *(f'c{i}' for i in rng.integers(0, COMMON, 3))]
      )
      for _ in range(4)
    ]
    title = f'{words[0]} c{rng.integers(0, COMMON)}'
    texts.append((title, ' '.join(f'{" ".join(s)} .' for s in sentences)))
  return documents(TOKENIZER, texts), topics


TRAIN, _ = make_corpus(320, 0)
TEST, TRUTH = make_corpus(200, 1)
ENCODER = BiEncoder(
  TransformerConfig(
    num_layers=1,
    dim=32,
    num_heads=2,
    ffn_dim=64,
    vocab_size=len(TOKENIZER.get_vocab()),
    max_positions=32,
    dropout=0.1,
    attention_dropout=0.1,
    init_std=0.1,
  )
)
START = jax.tree.map(np.asarray, ENCODER.init(jax.random.key(0)))


def encode(params, inputs, width):
  # 40 texts at a time divide those of all parts: few shapes are compiled.
  return Encoder(ENCODER, params, 40 * width).encode(inputs, np.array([width]))


def precision_at_1(params):
  docs = encode(params, TEST.view(26, title=False), 26)
  labels = encode(params, LABELS, 4)
  return np.mean((docs @ labels.T).argmax(axis=1) == TRUTH)


def train(folder, pairs, loss, refresh=None):
  with contextlib.closing(MetricWriter(str(folder))) as writer:
    return fit(
      ENCODER,
      START,
      pairs,
      loss,
      FitConfig(5e-3, 5, 1e-6, 0.0, 1000),
      rng=jax.random.key(7),
      cycle=0,
      checkpoints_dir=str(folder / 'checkpoints'),
      writer=writer,
      desc='train',
      refresh=refresh,
    )


HOW = dict(batch_size=BATCH, epochs=4, seed=(0, 4))
INFO_NCE = functools.partial(losses.info_nce, temperature=0.05)


def simcse():
  return SimCsePairs(TRAIN.view(28), **HOW)


def ict():
  return IctPairs(
    TRAIN,
    TOKENIZER,
    max_query_tokens=8,
    max_block_tokens=28,
    removal_rate=1.0,  # one shape
    **HOW,
  )


@pytest.fixture(scope='module')
def before():
  return precision_at_1(START)


# What SimCSE learns is which words tell texts apart, not which go together.
@pytest.mark.parametrize(('make', 'rise'), [(simcse, 0.15), (ict, 0.4)])
def test_it_learns(make, rise, before, tmp_path):
  assert before < 0.5
  after = precision_at_1(train(tmp_path, make(), INFO_NCE))
  assert after > before + rise


def test_maclr_learns_with_its_clusters(before, tmp_path):
  pairs = MaclrPairs(
    TRAIN,
    LABELS,
    TOKENIZER,
    max_title_tokens=4,
    max_content_tokens=26,
    removal_rate=0.9,
    num_labels=4,
    **HOW,
  )
  asked = []

  def refresh(step, params):
    asked.append(step)
    embeddings = encode(params, TRAIN.view(26, title=False), 26)
    return pairs.with_clusters(cluster(embeddings, 2 * TOPICS, seed=0))

  loss = functools.partial(
    losses.cluster_contrast, temperature=0.05, num_labels=4, weight=1.0
  )
  after = precision_at_1(train(tmp_path, pairs, loss, Refresh(30, refresh)))
  assert asked == [0, 30, 60]
  assert after > before + 0.4
