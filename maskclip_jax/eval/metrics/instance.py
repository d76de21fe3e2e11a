"""COCO average precision of masks, by pycocotools, over all classes and over groups.

[masqclip 9.5]: AP (IoU 0.50 to 0.95), AP50, AP75, and AP of small, medium and large
objects; for the base/novel split each of them averaged over the group's classes from
the precision array, which is not what detectron2 prints per class.

Each image is judged when it comes, so neither masks nor annotations are kept; what is
kept are the matches of its detections, which pycocotools accumulates in the end.
"""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from maskclip_jax.eval.metrics.metric import Metrics, State, check_groups, mean

# {'size': [height, width], 'counts': bytes}, as pycocotools encodes a mask.
Rle = Mapping[str, Any]

# Name, index of the IoU threshold (None: mean over all), index of the area range.
_NUMBERS = (
  ('AP', None, 0),
  ('AP50', 0, 0),
  ('AP75', 5, 0),
  ('APs', None, 1),
  ('APm', None, 2),
  ('APl', None, 3),
)
_AREAS, _THRESHOLDS = 4, 10


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
  """Predicted objects of one image.

  Attributes:
    masks: one per object.
    classes: class indices.
    scores: the order in which they are judged.
  """

  masks: Sequence[Rle]
  classes: Int[np.ndarray, ' n']
  scores: Float[np.ndarray, ' n']

  def __post_init__(self):
    _check_columns(self)
    if np.isnan(self.scores).any():
      raise ValueError('a score is NaN')


@dataclasses.dataclass(frozen=True, eq=False)
class TrueObjects:
  """True objects of one image.

  Attributes:
    masks: one per object; they may overlap.
    classes: class indices.
    crowd: regions of many objects, which are not judged.
    areas: pixels as the annotations state them; they decide what is small or large.
  """

  masks: Sequence[Rle]
  classes: Int[np.ndarray, ' n']
  crowd: Bool[np.ndarray, ' n']
  areas: Float[np.ndarray, ' n']

  def __post_init__(self):
    _check_columns(self)


def _check_columns(table: Detections | TrueObjects) -> None:
  lengths = {f.name: len(getattr(table, f.name)) for f in dataclasses.fields(table)}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'the columns of objects have unequal lengths: {lengths}')


@dataclasses.dataclass(frozen=True, eq=False)
class _Judged:
  """How the objects of one class in one image were judged; detections best first."""

  label: int
  scores: Float[np.ndarray, ' d']
  matched: Bool[np.ndarray, 'area threshold d']
  ignored: Bool[np.ndarray, 'area threshold d']
  truth_ignored: Bool[np.ndarray, 'area g']


class InstanceMetrics:
  """Accumulates detections.

  Args:
    classes: how many classes there are.
    groups: class indices by group, such as base and novel.
    max_detections: most detections judged per class and image.
  """

  def __init__(
    self,
    classes: int,
    groups: Mapping[str, tuple[int, ...]] | None = None,
    max_detections: int = 100,
  ):
    self._groups = dict(groups or {})
    check_groups(self._groups, classes)
    self.classes, self._most = classes, max_detections
    self._images: dict[str, tuple[_Judged, ...]] = {}

  def add(self, image_id: str, predicted: Detections, truth: TrueObjects) -> None:
    """Judges one image.

    Args:
      image_id: its name; decides the order among equal scores, as in the reference.
      predicted: the detections.
      truth: the annotations.

    Raises:
      ValueError: the image came before, or a class does not exist.
    """
    if image_id in self._images:
      raise ValueError(f'image {image_id} was already evaluated')
    for labels in (predicted.classes, truth.classes):
      if len(labels) and not 0 <= min(labels) <= max(labels) < self.classes:
        raise ValueError(f'an object has a class outside 0 to {self.classes - 1}')
    self._images[image_id] = tuple(self._judge(predicted, truth))

  def _judge(self, predicted: Detections, truth: TrueObjects):
    judge = COCOeval(iouType='segm')
    judge.params.maxDets = [self._most]
    _fill(judge, predicted, truth)
    for label in sorted({key[1] for key in (*judge._gts, *judge._dts)}):
      judge.ious[0, label] = judge.computeIoU(0, label)
      found = [
        judge.evaluateImg(0, label, area, self._most) for area in judge.params.areaRng
      ]
      yield _Judged(
        label,
        np.asarray(found[0]['dtScores'], np.float64),
        np.stack([entry['dtMatches'] != 0 for entry in found]),
        np.stack([entry['dtIgnore'] for entry in found]),
        np.stack([np.asarray(entry['gtIgnore'], bool) for entry in found]),
      )

  def state(self) -> State:
    images = list(self._images)
    entries = [(i, e) for i, image in enumerate(images) for e in self._images[image]]
    counts = [(i, e.label, len(e.scores), e.truth_ignored.shape[1]) for i, e in entries]
    judged = [e for _, e in entries]

    def joined(name, shape, dtype):
      parts = [getattr(e, name) for e in judged]
      return np.concatenate([np.zeros((*shape, 0), dtype), *parts], axis=-1)

    return {
      'classes': np.array(self.classes),
      'images': np.array(images, np.str_),
      'entries': np.array(counts, np.int64).reshape(-1, 4),
      'scores': joined('scores', (), np.float64),
      'matched': joined('matched', (_AREAS, _THRESHOLDS), bool),
      'ignored': joined('ignored', (_AREAS, _THRESHOLDS), bool),
      'truth_ignored': joined('truth_ignored', (_AREAS,), bool),
    }

  def merge(self, state: State) -> None:
    if int(state['classes']) != self.classes:
      raise ValueError(
        f'the saved state is of {int(state["classes"])} classes, not {self.classes}'
      )
    names = [str(name) for name in state['images']]
    if twice := sorted(set(names) & set(self._images)):
      raise ValueError(f'image {twice[0]} was evaluated twice')
    images: dict[str, list[_Judged]] = {name: [] for name in names}
    detections = truths = 0
    for image, label, found, real in state['entries'].tolist():
      columns = slice(detections, detections + found)
      images[names[image]].append(
        _Judged(
          label,
          state['scores'][columns],
          state['matched'][..., columns],
          state['ignored'][..., columns],
          state['truth_ignored'][:, truths : truths + real],
        )
      )
      detections, truths = detections + found, truths + real
    self._images |= {name: tuple(judged) for name, judged in images.items()}

  def result(self) -> Metrics:
    """AP, AP50, AP75, APs, APm and APl; by group where given."""
    precision = self._precision()

    def average(threshold, area, members=None):
      part = (
        precision[..., area] if threshold is None else precision[threshold, ..., area]
      )
      part = part if members is None else part[..., list(members)]
      return 100 * mean(np.where(part < 0, np.nan, part).reshape(-1))

    values = {name: average(*where) for name, *where in _NUMBERS}
    for group, members in self._groups.items():
      for name, *where in _NUMBERS:
        values[f'{name}[{group}]'] = average(*where, members)
    per_class = {
      name: np.array([average(*where, [k]) for k in range(self.classes)])
      for name, *where in _NUMBERS[:3]
    }
    return Metrics(values, per_class)

  def _precision(self) -> Float[np.ndarray, 'threshold recall k area']:
    """Precision at 101 recalls; -1 for classes without a true object."""
    names = sorted(self._images, key=_order(self._images))
    if not names:
      return -np.ones((_THRESHOLDS, 101, self.classes, _AREAS))
    judge = COCOeval(iouType='segm')
    parameters = judge.params
    parameters.imgIds = list(range(len(names)))
    parameters.catIds = list(range(self.classes))
    parameters.maxDets = [self._most]
    table: list[Any] = [None] * (self.classes * _AREAS * len(names))
    for position, name in enumerate(names):
      for judged in self._images[name]:
        for area in range(_AREAS):
          row = (judged.label * _AREAS + area) * len(names) + position
          table[row] = {
            'dtScores': judged.scores,
            'dtMatches': judged.matched[area],
            'dtIgnore': judged.ignored[area],
            'gtIgnore': judged.truth_ignored[area],
          }
    judge.evalImgs, judge._paramsEval = table, parameters
    with contextlib.redirect_stdout(io.StringIO()):  # It reports its progress.
      judge.accumulate()
    return judge.eval['precision'][..., 0]


def _fill(judge: COCOeval, predicted: Detections, truth: TrueObjects) -> None:
  """Puts the objects of one image, of number 0, where the evaluation looks."""
  # Numbers start at one: zero means 'not matched' there.
  for i, (label, crowd) in enumerate(zip(truth.classes, truth.crowd, strict=True), 1):
    judge._gts[0, int(label)].append(
      {
        'id': i,
        'segmentation': truth.masks[i - 1],
        'area': float(truth.areas[i - 1]),
        'iscrowd': int(crowd),
        'ignore': int(crowd),
      }
    )
  if len(predicted.masks):
    areas = coco_mask.area(list(predicted.masks))
    for i, label in enumerate(predicted.classes, 1):
      judge._dts[0, int(label)].append(
        {
          'id': i,
          'segmentation': predicted.masks[i - 1],
          'area': float(areas[i - 1]),
          'score': float(predicted.scores[i - 1]),
        }
      )


def _order(names: Sequence[str]):
  """Sorts COCO's image numbers as numbers, and file names as text."""
  return int if all(name.isdecimal() for name in names) else str
