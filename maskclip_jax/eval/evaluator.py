"""A model with the words of a protocol, running over examples.

Photos are read and resized by threads, grouped by canvas, and the next batch is on its
way through the network while the outputs of one are used.
"""

import contextlib
import copy
import dataclasses
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from maskclip_jax.batches import by_canvas, canvas_of, read_ahead
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.eval.judge import Judge
from maskclip_jax.eval.predictor import (
  PLAIN,
  ClassColumns,
  ImageOutputs,
  Photo,
  Predictor,
  Running,
  Variant,
)
from maskclip_jax.eval.protocols import ProtocolRun
from maskclip_jax.eval.results import image_results
from maskclip_jax.postprocess import OutputKind, Results
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Scores
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Options:
  """How an evaluation runs.

  Attributes:
    batch_size: photos per call of the network, over all devices of a host.
    variants: test-time augmentation, for semantic tasks only.
    tasks: those of the protocol to judge; None for all.
    limit: only the first so many examples; None for all.
    scores: fields of `Scores` in place of the protocol's; 'model' for the model's own,
      which are the same on every benchmark.
    save_every: photos between two savings of the state.
    save_predictions: whether results are written as files.
    readers: threads that read and decode photos.

  Raises:
    ValueError: a number below one, or augmentation of other tasks.
  """

  batch_size: int = 1
  variants: tuple[Variant, ...] = PLAIN
  tasks: tuple[OutputKind, ...] | None = None
  limit: int | None = None
  scores: Mapping[str, float | bool] | Literal['model'] | None = None
  save_every: int = 50
  save_predictions: bool = False
  readers: int = 2

  def __post_init__(self):
    for name in ('batch_size', 'save_every', 'readers', 'limit'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f'{name} must be at least 1, not {value}')


class Stopwatch:
  """Adds up the seconds of stages, of all threads."""

  def __init__(self):
    self.seconds: dict[str, float] = defaultdict(float)
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
      yield
    finally:
      with self._lock:
        self.seconds[name] += time.perf_counter() - start


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
  """One example on its way: resized in every variant."""

  index: int
  example: EvalExample
  photos: tuple[Photo, ...]
  canvases: tuple[tuple[int, int], ...]


class Evaluator:
  """A model with the words of a protocol, ready to run over examples.

  Args:
    segmenter: the model. Without weights it is only checked: `of` gives some.
    run: the protocol as its system runs it.
    options: how it runs.
    words: other words for the same classes, in the same order.
    share: how much of the protocol it is for, where that is not all: '2 of 2000'.
    devices: all local ones by default.

  Raises:
    ValueError: words, tasks, batch or augmentation that do not fit.
  """

  def __init__(
    self,
    segmenter: Segmenter,
    run: ProtocolRun,
    options: Options | None = None,
    words: Vocabulary | None = None,
    *,
    share: str = '',
    devices: Sequence[jax.Device] | None = None,
  ):
    options, run = options or Options(), run.after_training(segmenter.preset)
    self.run, self.options = run, options
    self.tasks = tuple(
      t for t in run.views if options.tasks is None or t in options.tasks
    )
    if unknown := set(options.tasks or ()) - set(run.views):
      raise ValueError(
        f'{run.protocol.name} does not judge {min(unknown)}, only '
        f'{", ".join(run.views)}'
      )
    if options.variants != PLAIN and self.tasks != ('semantic',):
      raise ValueError(
        f'flipping and scales average class maps, so they need a semantic task alone, '
        f'and {run.protocol.name} judges {", ".join(self.tasks)}'
      )
    check_model_options(segmenter, run)
    self.vocabulary = fitting_vocabulary(segmenter, run, words)
    self.preprocessing = run.preprocessing(segmenter.preset)
    self.postprocessing = run.postprocessing(segmenter.preset)
    self.scores = _scores(segmenter, run, options)
    self.predictor = Predictor(segmenter, self.scores, options.batch_size, devices)
    self.name = _name(run, options, words, share)
    self.segmenter = segmenter
    if segmenter.has_weights:
      self._take(segmenter)

  def _take(self, segmenter: Segmenter) -> None:
    self.segmenter = segmenter
    self.bank = segmenter.text_bank(self.vocabulary)
    self.words = ClassColumns.of(self.bank)
    self.predictor = self.predictor.loaded(segmenter, self.bank)

  def of(self, segmenter: Segmenter) -> 'Evaluator':
    """The same evaluation, and its compiled programs, of the same network with other
    weights (`Segmenter.with_weights`)."""
    other = copy.copy(self)
    other._take(segmenter)
    return other

  def judge(self) -> Judge:
    """An empty judge of the tasks."""
    return Judge(self.run, self.vocabulary.things, self.tasks)

  def key(self, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What decides the numbers."""
    flat = {k: np.asarray(v) for k, v in params.flatten(self.segmenter.model).items()}
    return {
      'protocol': self.name,
      'model': bundle.fingerprints(flat)[0],
      'system': self.segmenter.preset.system,
      'network': dataclasses.asdict(self.segmenter.preset.config),
      'words': self.vocabulary.content_key(),
      'data': dict(data or {}),
      'tasks': list(self.tasks),
      'preprocessing': dataclasses.asdict(self.preprocessing),
      'postprocessing': dataclasses.asdict(self.postprocessing),
      'scores': dataclasses.asdict(self.scores),
      'variants': [dataclasses.asdict(v) for v in self.options.variants],
    }

  def outputs(
    self,
    source: Sequence[EvalExample],
    indices: Sequence[int],
    watch: Stopwatch | None = None,
  ) -> Iterator[tuple[Item, list[ImageOutputs]]]:
    """Runs the network over examples; batches may change their order.

    The next batch is under way while the outputs of one are used.

    Yields:
      Each example and its outputs, one per variant.
    """
    watch = watch or Stopwatch()

    def read(index: int) -> Item:
      example = source[index]
      photos = tuple(
        variant.photo(example.photo, self.preprocessing)
        for variant in self.options.variants
      )
      step = self.segmenter.canvas_step
      canvases = tuple(canvas_of(photo, step) for photo in photos)
      return Item(index, example, photos, canvases)

    size, readers = self.options.batch_size, self.options.readers
    items = read_ahead(read, indices, readers, readers + 2 * size)
    batches = by_canvas(items, lambda item: item.canvases, size)
    started = None
    while True:
      with watch.stage('reading'):
        batch = next(batches, None)
      with watch.stage('network'):
        running = batch and (batch, self._start(batch))
      if started is not None:
        yield from self._finish(*started, watch)
      started = running
      if batch is None:
        return

  def results(
    self,
    source: Sequence[EvalExample],
    indices: Sequence[int],
    watch: Stopwatch | None = None,
  ) -> Iterator[tuple[Item, Results]]:
    """Post-processed results of examples, in the order of `outputs`.

    Every device has a thread that post-processes what lies there.

    Yields:
      Each example and its results.
    """
    watch = watch or Stopwatch()

    def process(found: tuple[Item, list[ImageOutputs]]) -> tuple[Item, Results]:
      item, outputs = found
      with watch.stage('post-processing'):
        variants = self.options.variants
        return item, image_results(
          outputs, variants, self.words, self.postprocessing, self.tasks
        )

    threads = self.predictor.devices
    yield from read_ahead(
      process, self.outputs(source, indices, watch), threads, threads
    )

  def _start(self, batch: Sequence[Item]) -> list[Running]:
    originals = [item.example.photo.shape[:2] for item in batch]
    return [
      self.predictor.start([item.photos[v] for item in batch], originals, canvas)
      for v, canvas in enumerate(batch[0].canvases)
    ]

  def _finish(self, batch, running: Sequence[Running], watch: Stopwatch):
    with watch.stage('network'):
      by_variant = [one.images() for one in running]
    for row, item in enumerate(batch):
      yield item, [images[row] for images in by_variant]


def check_model_options(segmenter: Segmenter, run: ProtocolRun) -> None:
  """Refuses a model that was not made as the protocol asks.

  Raises:
    ValueError: an option of the protocol that the model's config lacks, or has
      otherwise; or scores to combine in a system that combines none.
  """
  if not set(run.settings.scores) <= segmenter.score_names:
    wanted = ', '.join(f'{name} {value}' for name, value in run.settings.scores.items())
    raise ValueError(
      f'{run.protocol.name} is run with {wanted}, and {segmenter.preset.system} '
      'combines no scores: use a model of the system that the protocol is for'
    )
  config = segmenter.model.config if run.settings.options else None
  for name, wanted in run.settings.options.items():
    found = getattr(config, name, None)
    if found != wanted:
      raise ValueError(
        f'{run.protocol.name} is run with {name} {wanted}, and this model has '
        f'{"no such option" if found is None else found}: use a model with that value'
      )


def fitting_vocabulary(
  segmenter: Segmenter, run: ProtocolRun, words: Vocabulary | None = None
) -> Vocabulary:
  """The protocol's classes as the model reads them.

  Args:
    segmenter: the model.
    run: the protocol.
    words: other words for the same classes, in the same order.

  Raises:
    ValueError: the model knows other classes only, or the words do not fit.
  """
  own, name = run.vocabulary(), run.protocol.name
  fixed = segmenter.preset.vocabulary
  if fixed is not None:
    known = segmenter.vocabulary(None)
    if words is not None or not own.same_classes(known):
      raise ValueError(
        f'{name} asks for {own.name if words is None else words.name}, and this model '
        f'knows only {fixed}: use an open-vocabulary model'
      )
    return known
  if words is None:
    return segmenter.vocabulary(own)
  if len(words) != len(own):
    raise ValueError(
      f'the vocabulary {words.name} has {len(words)} classes and {name} judges '
      f'{len(own)}: give one class for each of {own.name}, in its order'
    )
  given, wanted = ([c.name for c in v.classes] for v in (words, own))
  if given != wanted and sorted(given) == sorted(wanted):
    raise ValueError(
      f'the vocabulary {words.name} has the classes of {name} in another order: sort '
      f'it as {own.name}'
    )
  classes = [
    dataclasses.replace(new, thing=old.thing, id=old.id)
    for new, old in zip(words.classes, own.classes, strict=True)
  ]
  return segmenter.vocabulary(dataclasses.replace(words, classes=tuple(classes)))


def _scores(segmenter: Segmenter, run: ProtocolRun, options: Options) -> Scores:
  """How class scores are combined.

  Raises:
    ValueError: other scores are asked of a system that combines none.
  """
  preset = segmenter.preset
  read = sorted(segmenter.score_names)
  if options.scores == 'model':
    if set(read) <= {'coat'}:
      raise ValueError(f'{preset.system} combines no scores: leave --scores out')
    return preset.scores
  if unread := sorted(set(options.scores or ()).difference(read)):
    raise ValueError(
      f'{preset.system} combines no scores by {", ".join(unread)}: it reads '
      f'{", ".join(read) or "none, so leave --scores out"}'
    )
  return dataclasses.replace(run.scores(preset), **(options.scores or {}))


def _name(
  run: ProtocolRun, options: Options, words: Vocabulary | None, share: str
) -> str:
  """The protocol's name and what is done otherwise."""
  parts = [run.protocol.name]
  if words is not None:
    parts.append(f'words:{words.name}')
  scales = sorted({variant.scale for variant in options.variants})
  if any(variant.flip for variant in options.variants):
    parts.append('flip')
  if scales != [1.0]:
    parts.append('scales:' + ','.join(f'{scale:g}' for scale in scales))
  if options.scores == 'model':
    parts.append('untuned')
  elif options.scores:
    given = ','.join(f'{k}={float(v):g}' for k, v in sorted(options.scores.items()))
    parts.append(f'scores:{given}')
  elif run.settings.tuned:
    parts.append('tuned')
  if share or options.limit is not None:
    parts.append(share or f'first {options.limit}')
  return '+'.join(parts)
