"""How many programs JAX has made ready in this process."""

import jax


class Compilations:
  """Counts programs from the moment that `listen` is called.

  Attributes:
    programs: compiled anew.
    loaded: read from the compilation cache.
    seconds: that both took.
  """

  def __init__(self):
    self.programs, self.loaded, self.seconds = 0, 0, 0.0

  @property
  def total(self) -> int:
    """Programs that something had to wait for."""
    return self.programs + self.loaded

  def listen(self) -> None:
    """Begins to count; there is no end to it, as JAX has none for listeners."""
    jax.monitoring.register_event_duration_secs_listener(self._on_duration)
    jax.monitoring.register_event_listener(self._on_event)

  def _on_duration(self, event: str, seconds: float, **_) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      self.programs += 1
      self.seconds += seconds

  def _on_event(self, event: str, **_) -> None:
    # Told before the duration, which comes for these as well.
    if event == '/jax/compilation_cache/cache_hits':
      self.programs -= 1
      self.loaded += 1
