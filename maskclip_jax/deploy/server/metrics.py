"""What a server measures, for Prometheus."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from maskclip_jax.compilations import Compilations

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
  """The numbers of one server.

  Attributes:
    requests: answered requests, by route and status.
    seconds: from the first byte to the answer, by route.
    stages: seconds of the parts of the work, by stage: decode, wait, network, results,
      encode.
    batches: photos that went through the network together.
    kept: photos whose network outputs were still there.
    queue: photos in work.
    compilations: programs that were made ready since the server is, which should be 0.
  """

  content_type = prometheus_client.CONTENT_TYPE_LATEST

  def __init__(self, compiled: Compilations):
    self._registry = registry = CollectorRegistry()
    names = {'namespace': 'maskclip', 'registry': registry}
    self.requests = Counter(
      'requests', 'Answered requests.', ['route', 'status'], **names
    )
    self.seconds = Histogram(
      'request_seconds', 'Of a request.', ['route'], buckets=_SECONDS, **names
    )
    self.stages = Histogram(
      'stage_seconds', 'Of a part of the work.', ['stage'], buckets=_SECONDS, **names
    )
    self.batches = Histogram(
      'batch_photos', 'Photos in the network together.', buckets=_BATCHES, **names
    )
    self.kept = Counter(
      'kept_outputs', 'Photos that needed no network: its outputs were kept.', **names
    )
    self.queue = Gauge('queue_photos', 'Photos in work.', **names)
    self.compilations = Gauge(
      'compilations', 'Programs made ready since the server is ready.', **names
    )
    self._compiled, self._before = compiled, None
    self.compilations.set_function(self._since_ready)

  def ready(self) -> None:
    """From now on nothing should be compiled."""
    self._before = self._compiled.total

  def _since_ready(self) -> int:
    return 0 if self._before is None else self._compiled.total - self._before

  def text(self) -> bytes:
    """All of them in the format that Prometheus reads."""
    return prometheus_client.generate_latest(self._registry)
