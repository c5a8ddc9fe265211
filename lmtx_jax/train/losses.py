"""The losses: pure functions of embeddings, the same on one device and many.

Shapes: `b` queries of this device; `P` passages of the whole batch, gathered
over the devices: the `B` own ones of the queries, then the extra ones; `dim`
the embedding's width.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from lmtx_jax.train_config import TrainConfig, WarmupConfig

# (query_emb [b, dim], passage_emb [P, dim], own [b], masked [b, P]) -> [b] f32,
# one value a query, which no other query changes.
Loss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def triplet(
  doc_emb: jax.Array,
  label_emb: jax.Array,
  own: jax.Array,
  masked: jax.Array,
  *,
  margin: float,
) -> jax.Array:
  """Sum of the hinges over all in-batch negatives (paper, equation 1).

  Args:
    doc_emb: `[b, dim]` f32, unit norm.
    label_emb: `[P, dim]` f32, unit norm, each document's sampled positive.
    own: `[b]` int32, which of the labels is the document's own positive.
    masked: `[b, P]` bool, labels that are no negatives of the document.
    margin: by which the positive must win.

  Returns:
    `[b]` f32.
  """
  score = doc_emb @ label_emb.T  # [b, P]
  positive = jnp.take_along_axis(score, own[:, None], axis=1)  # [b, 1]
  hinge = jnp.maximum(0.0, score - positive + margin)
  return jnp.where(masked, 0.0, hinge).sum(axis=1)


def triplet_softmax(
  doc_emb: jax.Array,
  label_emb: jax.Array,
  own: jax.Array,
  masked: jax.Array,
  *,
  margin: float,
  temperature: float,
  num_negatives: int,
) -> jax.Array:
  """Hinges of the hardest in-batch negatives, weighted by a softmax.

  With s the cosine, p the positive and N the k highest labels not masked:
  h_n = max(0, s_n - s_p + margin), w = softmax over N of
  (s_n / temperature) * [h_n != 0], loss = mean over the k places of h_n * w_n.
  A satisfied negative keeps the logit 0; the gradient flows through w (the
  authors' published code).

  Args:
    doc_emb: `[b, dim]` f32, unit norm.
    label_emb: `[P, dim]` f32, unit norm, each document's sampled positive.
    own: `[b]` int32, which of the labels is the document's own positive.
    masked: `[b, P]` bool, labels that are no negatives of the document.
    margin: by which the positive must win.
    temperature: of the softmax.
    num_negatives: k.

  Returns:
    `[b]` f32.
  """
  score = doc_emb @ label_emb.T  # [b, P]
  positive = jnp.take_along_axis(score, own[:, None], axis=1)  # [b, 1]
  k = min(num_negatives, score.shape[1])
  # The choice carries no gradient; the chosen scores do.
  _, hardest = jax.lax.top_k(
    jax.lax.stop_gradient(jnp.where(masked, -jnp.inf, score)), k
  )
  real = ~jnp.take_along_axis(masked, hardest, axis=1)  # [b, k]
  negative = jnp.take_along_axis(score, hardest, axis=1)
  hinge = jnp.where(real, jnp.maximum(0.0, negative - positive + margin), 0.0)
  logit = jnp.where(hinge != 0, negative / temperature, 0.0)
  # Finite, so that a document without any negative has a gradient of 0.
  weight = jax.nn.softmax(jnp.where(real, logit, -1e30), axis=1)
  return (hinge * weight).mean(axis=1)


def info_nce(
  query_emb: jax.Array,
  passage_emb: jax.Array,
  own: jax.Array,
  masked: jax.Array,
  *,
  temperature: float,
) -> jax.Array:
  """Cross entropy of a query's own passage among the whole batch's (RTS).

  With the positive drawn at random and its other positives masked it is also
  the decoupled softmax of DEXML (Gupta et al., ICLR 2024): -log of
  e^(s_p / t) / (e^(s_p / t) + sum over negatives of e^(s_n / t)), whose mean
  over the positives is what the draw gives on average.

  Args:
    query_emb: `[b, dim]` f32, unit norm.
    passage_emb: `[P, dim]` f32, unit norm.
    own: `[b]` int32, which passage belongs to the query.
    masked: `[b, P]` bool, passages that are no negatives of the query.
    temperature: of the softmax.

  Returns:
    `[b]` f32.
  """
  logit = (query_emb @ passage_emb.T) / temperature  # [b, P]
  is_own = own[:, None] == jnp.arange(logit.shape[1])[None, :]
  logit = jnp.where(masked & ~is_own, -jnp.inf, logit)
  log_p = jax.nn.log_softmax(logit, axis=1)
  return -jnp.take_along_axis(log_p, own[:, None], axis=1)[:, 0]


def cluster_contrast(
  query_emb: jax.Array,
  passage_emb: jax.Array,
  own: jax.Array,
  masked: jax.Array,
  *,
  temperature: float,
  num_labels: int,
  weight: float,
) -> jax.Array:
  """Contrast with several positives, and its regulariser (MACLR, stage I).

  The passages are the `B` contents, then the queries' own texts again with
  another dropout, `B` as well, then labels. Contrast: the mean over a query's
  positives, its own content and those of its cluster, of their cross entropy
  among the contents. Regulariser: the cross entropy of the query's own text
  among the texts again and the labels.

  Args:
    query_emb: `[b, dim]` f32.
    passage_emb: `[2 * B + num_labels, dim]` f32.
    own: `[b]` int32, which content belongs to the query.
    masked: `[b, 2 * B + num_labels]` bool, of the contents those that are
      positives too; of the others it is not read.
    temperature: of both softmaxes.
    num_labels: labels among the passages.
    weight: of the regulariser.

  Returns:
    `[b]` f32.
  """
  logit = (query_emb @ passage_emb.T) / temperature  # [b, P]
  size = (logit.shape[1] - num_labels) // 2  # B
  log_p = jax.nn.log_softmax(logit[:, :size], axis=1)
  positive = masked[:, :size] | (own[:, None] == jnp.arange(size)[None, :])
  contrast = jnp.where(positive, log_p, 0.0).sum(axis=1) / positive.sum(axis=1)
  log_p = jax.nn.log_softmax(logit[:, size:], axis=1)
  again = jnp.take_along_axis(log_p, own[:, None], axis=1)[:, 0]
  return -contrast - weight * again


@functools.lru_cache(maxsize=4)  # one object, so that one step is compiled
def cycle_loss(config: TrainConfig) -> Loss:
  """The loss of a cycle, with the constants of its flags."""
  if config.loss == 'triplet':
    return functools.partial(triplet, margin=config.margin)
  if config.loss == 'decoupled_softmax':
    return functools.partial(info_nce, temperature=config.loss_temperature)
  return functools.partial(
    triplet_softmax,
    margin=config.margin,
    temperature=config.loss_temperature,
    num_negatives=config.num_negatives,
  )


@functools.lru_cache(maxsize=4)
def warmup_loss(config: WarmupConfig) -> Loss:
  """The loss of the warm-up, with the constants of its flags."""
  return functools.partial(info_nce, temperature=config.warmup_temperature)
