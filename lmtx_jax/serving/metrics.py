"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lmtx_jax.serving.shapes import Shape

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
  """Counts of one service; several in one process do not mix."""

  def __init__(self):
    self._registry = CollectorRegistry()
    shared = {'registry': self._registry, 'namespace': 'lmtx'}
    self._requests = Counter(
      'requests', 'Requests answered.', ['path', 'status'], **shared
    )
    self._seconds = Histogram(
      'request_seconds',
      'From the first byte of a request to the last of its answer.',
      ['path'],
      buckets=_SECONDS,
      **shared,
    )
    self._documents = Counter('documents', 'Documents tagged.', **shared)
    self._sizes = Histogram(
      'batch_documents', 'Documents of a batch.', buckets=_SIZES, **shared
    )
    self._padding = Counter(
      'padding_documents', 'Documents that only filled a batch up.', **shared
    )
    self._busy = Counter(
      'device_seconds', 'Time of batches, by what is done.', ['part'], **shared
    )
    prometheus.ProcessCollector(registry=self._registry)
    prometheus.PlatformCollector(registry=self._registry)

  def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
    """Adds a number that is asked for when Prometheus asks."""
    gauge = Gauge(name, about, namespace='lmtx', registry=self._registry)
    gauge.set_function(value)

  def request(self, path: str, status: int, seconds: float) -> None:
    """Notes an answered request."""
    self._requests.labels(path, str(status)).inc()
    self._seconds.labels(path).observe(seconds)

  def batch(
    self, documents: int, shape: Shape, encode_s: float, search_s: float
  ) -> None:
    """Notes a tagged batch."""
    self._documents.inc(documents)
    self._sizes.observe(documents)
    self._padding.inc(shape.size - documents)
    self._busy.labels('encode').inc(encode_s)
    self._busy.labels('search').inc(search_s)

  def text(self) -> bytes:
    """All numbers as Prometheus reads them."""
    return prometheus.generate_latest(self._registry)
