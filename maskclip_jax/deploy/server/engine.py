"""The one thread that owns the model: it compiles, then answers job after job."""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from maskclip_jax.deploy.canvases import Size
from maskclip_jax.deploy.server.batching import Job, JobQueue, portions
from maskclip_jax.deploy.server.metrics import Metrics
from maskclip_jax.deploy.server.settings import Settings, default_canvases
from maskclip_jax.plan import Plan
from maskclip_jax.postprocess import OUTPUT_KINDS
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.image_outputs import ImageOutputs
from maskclip_jax.text.tokenizer import contexts
from maskclip_jax.text.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)
_ANY_WORDS = 'cat; stuff:floor'


class Engine:
  """A model in a thread of its own.

  Args:
    segmenter: the model; nobody else may use it from now on.
    settings: canvases, batches, what is kept.
    metrics: counts.
    words: vocabularies whose vectors are made at the start.
    on_ready: called, in the thread, when all is compiled.

  Attributes:
    settings: with the canvases there are.
    state: 'starting', 'ready', 'failed' or 'stopped'.
  """

  def __init__(
    self,
    segmenter: Segmenter,
    settings: Settings,
    metrics: Metrics,
    words: Iterable[Vocabulary] = (),
    on_ready: Callable[[], object] = lambda: None,
  ):
    canvases = settings.canvases or default_canvases(segmenter.preset.preprocessing)
    self.settings = dataclasses.replace(settings, canvases=canvases)
    segmenter.buckets = (settings.bucket,)
    self.state = 'starting'
    self._segmenter, self._metrics = segmenter, metrics
    self._words, self._on_ready = tuple(words), on_ready
    self._jobs = JobQueue()
    self._kept: collections.OrderedDict[tuple, ImageOutputs] = collections.OrderedDict()
    self._stopping = threading.Event()
    # A daemon: a program that takes minutes to compile does not keep the process.
    self._thread = threading.Thread(target=self._run, name='model', daemon=True)

  def start(self) -> None:
    """Begins to compile; `state` tells when it is over."""
    self._thread.start()

  def submit(self, job: Job) -> None:
    """Adds a job, whose `answer` gets the prediction."""
    self._jobs.put(job)

  def stop(self, seconds: float) -> bool:
    """Answers what waits and ends the thread; whether it did within these seconds."""
    self._stopping.set()
    self._jobs.close()
    self._thread.join(seconds)
    return not self._thread.is_alive()

  def _run(self) -> None:
    try:
      self._warm_up()
      self._metrics.ready()
      if not self._stopping.is_set():
        self.state = 'ready'
        self._on_ready()
    except Exception:
      # Without a program nothing can be answered: `/health` says so, and who watches
      # it starts the server again.
      _LOG.exception('the model cannot be compiled')
      self.state = 'failed'
      self._jobs.close()
    while batch := self._jobs.take(self.settings.batch):
      self._answer(batch)
    if self.state != 'failed':
      self.state = 'stopped'

  def _warm_up(self) -> None:
    """Runs every program there will be, on noise."""
    segmenter = self._segmenter
    closed = segmenter.preset.vocabulary is not None
    plan = segmenter.plan(None if closed else _ANY_WORDS, 'semantic')
    if not closed:
      for length in contexts(segmenter.preset.config.clip.context_length):
        # A letter a token, so that each length of prompts is compiled.
        segmenter.encode_text([' '.join('a' * (length - 2))])
    for words in (plan.words, *self._words):
      segmenter.text_bank(words)
    for canvas in self.settings.canvases:
      for size in self.settings.sizes:
        if self._stopping.is_set():
          return
        self._compile(canvas, size, plan)

  def _compile(self, canvas: Size, size: int, plan: Plan) -> None:
    """Runs the network on some photos, and every task on the first of them."""
    noise = np.random.default_rng(0).integers(0, 256, (*canvas, 3), np.uint8)
    found = self._segmenter.outputs([noise] * size, [canvas] * size, plan, canvas)
    if size > 1:
      return
    # So that something is found.
    loose = dataclasses.replace(
      plan.postprocessing, object_threshold=0.0, reject_void=False
    )
    # Results of a photo that was resized are resized back, which is another program.
    larger = tuple(2 * side for side in canvas)
    for original in (canvas, larger):
      geometry = dataclasses.replace(found[0].geometry, original=original)
      outputs = dataclasses.replace(found[0], geometry=geometry)
      for task in OUTPUT_KINDS:
        one = dataclasses.replace(plan, tasks=(task,), postprocessing=loose)
        self._segmenter.prediction(outputs, one)

  def _answer(self, batch: Sequence[Job]) -> None:
    """Answers jobs of one batch key."""
    fresh, now = [], time.perf_counter()
    for job in batch:
      self._metrics.stages.labels('wait').observe(now - job.arrived)
      outputs = self._kept.get(job.outputs_key)
      if outputs is None:
        fresh.append(job)
      else:
        self._kept.move_to_end(job.outputs_key)
        self._metrics.kept.inc()
        self._finish(job, outputs)
    for count in portions(len(fresh), self.settings.sizes):
      self._compute(fresh[:count])
      fresh = fresh[count:]

  def _compute(self, jobs: Sequence[Job]) -> None:
    """Runs the network on jobs; where they fail together, on each."""
    first = jobs[0]
    begun = time.perf_counter()
    try:
      found = self._segmenter.outputs(
        [job.resized for job in jobs],
        [job.size for job in jobs],
        first.plan,
        first.canvas,
      )
    except Exception as error:
      # Such as no memory for so many.
      if len(jobs) == 1:
        first.answer.set_exception(error)
        return
      for job in jobs:
        self._compute([job])
      return
    self._metrics.stages.labels('network').observe(time.perf_counter() - begun)
    self._metrics.batches.observe(len(jobs))
    for job, outputs in zip(jobs, found, strict=True):
      self._finish(job, outputs)
      self._keep(job, outputs)

  def _finish(self, job: Job, outputs: ImageOutputs) -> None:
    begun = time.perf_counter()
    try:
      prediction = self._segmenter.prediction(outputs, job.plan, job.photo)
    except Exception as error:
      job.answer.set_exception(error)
      return
    self._metrics.stages.labels('results').observe(time.perf_counter() - begun)
    job.answer.set_result(prediction)

  def _keep(self, job: Job, outputs: ImageOutputs) -> None:
    self._kept[job.outputs_key] = outputs
    while len(self._kept) > self.settings.kept:
      self._kept.popitem(last=False)
