"""Why a model's numbers are not higher: the same run with one part made perfect.

One pass over the examples gives the numbers as they are, with the words of the ground
truth, with oracle names and with oracle masks (`oracles.py`); besides what becomes of
true regions by size, costly confusions, calibration, and the best and worst photos.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_mask

from maskclip_jax import jax_settings
from maskclip_jax.eval.diagnosis import findings, oracles
from maskclip_jax.eval.diagnosis.overlaps import Regions, overlap
from maskclip_jax.eval.evaluator import Evaluator, Item, Options
from maskclip_jax.eval.examples import EvalExample, Truth
from maskclip_jax.eval.judge import Judge, Predicted, detections, predicted_segments
from maskclip_jax.eval.metrics.metric import (
  Metrics,
  State,
  joined_states,
  mean,
  state_of,
)
from maskclip_jax.eval.metrics.panoptic import match
from maskclip_jax.eval.metrics.semantic import SemanticMetrics
from maskclip_jax.eval.predictor import PLAIN, ImageOutputs
from maskclip_jax.eval.results import class_scores
from maskclip_jax.eval.resumable import Share, state_path
from maskclip_jax.eval.runner import Progress
from maskclip_jax.postprocess import Results, postprocess
from maskclip_jax.postprocess.class_scores import ClassScores

AS_IS = 'as it is'
TRUE_WORDS = 'ground-truth words'
ORACLE_NAMES = 'oracle names'
ORACLE_MASKS = 'oracle masks'


@dataclasses.dataclass(frozen=True, eq=False)
class DiagnosedPhoto:
  """A photo for the report.

  Attributes:
    score: quality of its result, 0 to 100.
    example: the photo with its ground truth.
    results: what the model made of it.
  """

  score: float
  example: EvalExample
  results: Results


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
  """What was found.

  Attributes:
    name: the name of the evaluation.
    about: what its protocol is, for people.
    headline: names of the numbers that the literature quotes.
    metrics: the numbers of each variant, `AS_IS` first.
    class_names: by class index.
    things: which classes are countable.
    examples: how many photos.
    fates: the fates of the true regions.
    calibration: the calibration of the masks' scores.
    confusions: by pixels, where the protocol has a semantic task.
    wrong_names: (true, named, how often) of regions that were found.
    best, worst: photos, the extreme ones first.
  """

  name: str
  about: str
  headline: tuple[str, ...]
  metrics: dict[str, Metrics]
  class_names: tuple[str, ...]
  things: tuple[bool, ...]
  examples: int
  fates: findings.Fates
  calibration: findings.Calibration
  confusions: list[findings.Confusion]
  wrong_names: list[tuple[int, int, int]]
  best: list[DiagnosedPhoto]
  worst: list[DiagnosedPhoto]


@jax_settings.own()
def diagnose(
  evaluator: Evaluator,
  source: Sequence[EvalExample],
  workdir: pathlib.Path | None = None,
  *,
  data: Mapping[str, Any] | None = None,
  dtype: str = 'float32',
  pictures: int = 4,
  on_progress: Progress | None = None,
) -> Diagnosis:
  """Runs a protocol with each part made perfect in turn.

  As an evaluation it is shared by all hosts, and goes on where a killed run was.

  Args:
    evaluator: the model on the protocol; without test-time augmentation.
    source: the examples; the same on every host.
    workdir: where the state is saved; None saves nothing.
    data: fingerprint of the examples.
    dtype: compute type that the model was made with.
    pictures: how many of the best and of the worst photos to show.
    on_progress: is told how many examples of this host are done, of how many.

  Raises:
    ValueError: augmentation is asked for, or the directory holds the state of another
      diagnosis.
    RecordError: an example cannot be read.
  """
  check_diagnosable(evaluator.options)
  key = {**evaluator.key(data), 'dtype': dtype, 'what': 'diagnosis'}
  work = _Work(evaluator, len(source))
  path = None if workdir is None else state_path(workdir, 'diagnosis')
  share = Share(work, len(source), path, key, evaluator.options.save_every)
  try:
    for item, (one,) in evaluator.outputs(source, share.todo):
      work.add(item, one)
      share.finished(item.index)
      if on_progress is not None:
        on_progress(*share.progress)
  finally:
    share.save()
  whole = _Work(evaluator, len(source))
  for state in share.gather():
    whole.merge(state)
  diagnosis = whole.result(source, pictures)
  share.forget()
  return diagnosis


def check_diagnosable(options: Options) -> None:
  """Refuses what a diagnosis cannot be made of.

  Raises:
    ValueError: augmentation is asked for.
  """
  if options.variants != PLAIN:
    raise ValueError('a diagnosis is made without flipping and scales: leave them out')


def extremes(
  quality: Float[np.ndarray, ' n'], pictures: int
) -> tuple[list[int], list[int]]:
  """The best and the worst examples, the extreme ones first; none is in both.

  Args:
    quality: the quality of each example, NaN where there is nothing to judge.
    pictures: how many of each, at most.
  """
  judged = np.flatnonzero(~np.isnan(quality))
  best = judged[np.argsort(-quality[judged], kind='stable')][:pictures].tolist()
  worst = judged[np.argsort(quality[judged], kind='stable')][:pictures].tolist()
  return best, [index for index in worst if index not in best]


class _Work:
  """Everything that is accumulated over the photos."""

  def __init__(self, evaluator: Evaluator, examples: int):
    self._evaluator = evaluator
    names = [AS_IS, TRUE_WORDS, ORACLE_NAMES]
    self._namer = None
    if oracles.can_name_regions(evaluator.segmenter):
      self._namer = oracles.RegionNamer(evaluator.segmenter, evaluator.bank)
      names.append(ORACLE_MASKS)
    self._judges: dict[str, Judge] = {name: evaluator.judge() for name in names}
    self._fates, self._calibration = findings.Fates(), findings.Calibration()
    self._names = findings.NameConfusion()
    self._parts = {
      **self._judges,
      'fates': self._fates,
      'calibration': self._calibration,
      'names': self._names,
    }
    self._quality = np.full(examples, np.nan)

  def state(self) -> State:
    parts = {name: part.state() for name, part in self._parts.items()}
    return {**joined_states(parts), 'quality': self._quality}

  def merge(self, state: State) -> None:
    for name, part in self._parts.items():
      part.merge(state_of(name, state))
    other = state['quality']
    self._quality = np.where(np.isnan(other), self._quality, other)

  def add(self, item: Item, outputs: ImageOutputs) -> None:
    """Judges one photo in every variant."""
    evaluator, example = self._evaluator, item.example
    words, regions = evaluator.words, Regions.of(example.truth)
    scores = class_scores(outputs, words)
    results = self._judge(AS_IS, example, outputs, scores)
    self._quality[item.index] = image_quality(example.truth, results)
    present = oracles.present_words(words, _present(example.truth, regions))
    restricted = class_scores(outputs, present)
    self._judge(TRUE_WORDS, example, outputs, restricted)
    iou = overlap(outputs, regions)
    named = oracles.named_by_truth(iou, regions, words)
    self._judge(ORACLE_NAMES, example, outputs, named)
    if self._namer is not None:
      self._add_oracle_masks(item, outputs, regions)
    labels, best = findings.best_labels(
      np.asarray(scores.probabilities), np.asarray(scores.classes)
    )
    self._fates.add(regions, iou, labels)
    self._names.add(regions, iou, labels)
    self._calibration.add(regions, iou, labels, best)

  def _judge(
    self, name: str, example: EvalExample, outputs: ImageOutputs, scores: ClassScores
  ) -> Results:
    evaluator = self._evaluator
    results = postprocess(
      outputs.mask_logits,
      scores,
      evaluator.words.thing,
      outputs.geometry,
      evaluator.postprocessing,
      evaluator.tasks,
    )
    self._judges[name].add(example, Predicted.of(results))
    return results

  def _add_oracle_masks(self, item: Item, outputs: ImageOutputs, regions: Regions):
    evaluator = self._evaluator
    logits = None
    if len(regions):
      logits = self._namer(item.photos[0], regions, outputs)
    results = oracles.named_regions(
      logits, regions, evaluator.words, top_k=evaluator.postprocessing.top_k
    )
    example = oracles.judged_regions(item.example, regions)
    self._judges[ORACLE_MASKS].add(example, Predicted.of(results))

  def result(self, source: Sequence[EvalExample], pictures: int) -> Diagnosis:
    """What was found, with the pictures of the best and the worst examples."""
    best, worst = extremes(self._quality, pictures)
    # Their results are made again: kept until now, they would be part of every state.
    shown = {
      item.index: DiagnosedPhoto(self._quality[item.index], item.example, results)
      for item, results in self._evaluator.results(source, [*best, *worst])
    }
    evaluator, protocol = self._evaluator, self._evaluator.run.protocol
    metrics = {name: judge.result() for name, judge in self._judges.items()}
    headline = [n for n in protocol.headline if n in metrics[AS_IS].values]
    pixels = self._judges[AS_IS].metrics.get('semantic')
    confusions = []
    if isinstance(pixels, SemanticMetrics):
      confusions = findings.costly_confusions(pixels.confusion())
    return Diagnosis(
      name=evaluator.name,
      about=protocol.about,
      headline=tuple(headline),
      metrics=metrics,
      class_names=tuple(c.name for c in evaluator.vocabulary.classes),
      things=tuple(evaluator.vocabulary.things.tolist()),
      examples=len(source),
      fates=self._fates,
      calibration=self._calibration,
      confusions=confusions,
      wrong_names=self._names.wrong(),
      best=[shown[index] for index in best],
      worst=[shown[index] for index in worst],
    )


def _present(truth: Truth, regions: Regions) -> np.ndarray:
  """The classes in a photo, by any of its tasks."""
  others = []
  if truth.semantic is not None:
    others.append(np.unique(truth.semantic[truth.semantic >= 0]))
  if truth.instance is not None:
    others.append(truth.instance.classes)
  return findings.present_classes(regions, others)


def image_quality(truth: Truth, results: Results) -> float:
  """How good the result for one photo is, 0 to 100; NaN with nothing to judge.

  PQ over the photo's own classes where there are segments, else the mean IoU of its
  classes, else the share of objects that are found with their class.
  """
  if truth.panoptic is not None:
    predicted = predicted_segments(results.panoptic, results.segments)
    matches = match(predicted, truth.panoptic)
    total = len(matches.pairs) + (len(matches.missed) + len(matches.wrong)) / 2
    return 100 * float(matches.iou.sum() / total) if total else float('nan')
  if truth.semantic is not None:
    judged = truth.semantic >= 0
    labels = np.unique(truth.semantic[judged])
    same = truth.semantic == results.semantic
    overlaps = [
      np.sum(same & (truth.semantic == k))
      / np.sum(judged & ((truth.semantic == k) | (results.semantic == k)))
      for k in labels.tolist()
    ]
    return 100 * mean(np.array(overlaps))
  return _objects_found(truth, results)


def _objects_found(truth: Truth, results: Results) -> float:
  """Share of objects that a detection of their class matches, in percent."""
  real = np.flatnonzero(~truth.instance.crowd)
  if not len(real):
    return float('nan')
  found = detections(results.instances)
  if not len(found.masks):
    return 0.0
  wanted = [truth.instance.masks[row] for row in real]
  iou = coco_mask.iou(list(found.masks), wanted, [0] * len(wanted))
  same = found.classes[:, None] == truth.instance.classes[real]
  return 100 * float(((iou > findings.FOUND) & same).any(0).mean())
