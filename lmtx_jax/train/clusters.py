"""Documents that are alike: k-means of their embeddings."""

from __future__ import annotations

import numpy as np

from lmtx_jax.embeddings import as_float32, blocks

_MIN_PASSES, _MAX_PASSES = 2, 10  # over the rows
_SHOWN = 500_000  # rows in all passes together, about
_BATCHES = 16  # of a pass, each of which moves the centres
_MIN_BATCH, _MAX_BATCH = 1024, 2**15  # rows, but for very many centres
# Drawing the first centres far from each other takes time quadratic in their
# number; many centres lie well enough where rows do.
_FAR_APART = 1000


def cluster(embeddings: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
  """Clusters by k-means in small batches (Sculley, WWW 2010).

  In memory is one batch of rows at a time: at most 32,768, or twice as many as
  there are clusters.

  Args:
    embeddings: `[n, dim]` f32 or bf16, unit norm; memory-mapped will do.
    num_clusters: how many; where not below n, each row is alone.
    seed: of the order of the rows and of the first centres.

  Returns:
    `[n]` int32 in [0, num_clusters); some clusters may be empty.
  """
  num_rows, dim = embeddings.shape
  if num_clusters >= num_rows:
    return np.arange(num_rows, dtype=np.int32)
  from sklearn.cluster import MiniBatchKMeans  # slow, and not always needed

  rng = np.random.default_rng((seed, num_clusters))
  model = MiniBatchKMeans(
    num_clusters,
    init='k-means++' if num_clusters <= _FAR_APART else 'random',
    n_init=1,
    random_state=int(rng.integers(2**31)),
  )
  size = min(max(num_rows // _BATCHES, _MIN_BATCH), _MAX_BATCH)
  size = min(max(size, 2 * num_clusters), num_rows)
  passes = min(max(_SHOWN // num_rows, _MIN_PASSES), _MAX_PASSES)
  for _ in range(passes):
    order = rng.permutation(num_rows)
    # The rest of a pass is left to the next one: no batch is too small.
    for start in range(0, num_rows - size + 1, size):
      rows = np.sort(order[start : start + size])  # as they lie on the disk
      model.partial_fit(as_float32(embeddings[rows]))
  return np.concatenate(
    [
      model.predict(as_float32(embeddings[rows])).astype(np.int32)
      for rows in blocks(num_rows, dim)
    ]
  )
