"""How systems were run on the benchmarks: the numbers of each are in its presets."""

import dataclasses
from collections.abc import Mapping

from maskclip_jax.postprocess import OutputKind
from maskclip_jax.postprocess.tiles import Order


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
  """How one system was run on one benchmark; None leaves the model's own value.

  Attributes:
    short_edge: the short side of a photo is resized to this many pixels,
    long_edge: unless the long side would exceed this many.
    object_threshold: see `PostprocessConfig`.
    overlap_threshold: see `PostprocessConfig`.
    tasks: those that the system can do, or did; None for all of the protocol.
    semantic_order: see `PostprocessConfig`. None: as the official code, by whether only
      semantic output is asked for.
    view: another order or choice of classes of the same ground truth.
    training: what the system's training named, a vocabulary or its words, which splits
      the classes into seen and unseen; None reports no split.
    scores: fields of `Scores` that the benchmark was run with.
    tuned: these were chosen on the benchmark's own photos, which metrics then say.
    options: what only this system knows and its weights were made for.
  """

  short_edge: int | None = None
  long_edge: int | None = None
  object_threshold: float | None = None
  overlap_threshold: float | None = None
  tasks: tuple[OutputKind, ...] | None = None
  semantic_order: Order | None = None
  view: str | None = None
  training: str | tuple[str, ...] | None = None
  scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
  tuned: bool = False
  options: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
