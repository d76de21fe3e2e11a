"""Panoptic quality: PQ, SQ, RQ over all classes, things and stuff [masqclip 9.5].

A predicted and a true segment of one class match when their IoU exceeds one half. Void
pixels and crowd regions are not judged: void inside a prediction leaves the union, and
an unmatched prediction that lies mostly in void or in a crowd of its class is not an
error.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from maskclip_jax.eval.metrics.metric import (
  Metrics,
  State,
  check_groups,
  check_shape,
  mean,
  ratio,
)

_COUNTS = ('true_positives', 'false_positives', 'false_negatives')
# IoUs are added as multiples of this: 64-bit integers add up to the same number in any
# order, on any number of hosts, and hold eight million segments.
_UNIT = 2.0**-40


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
  """A map of segments and what they are.

  Attributes:
    map: row of the segment of each pixel; negative where there is none.
    classes: class of each row.
    crowd: rows that are regions of many objects, for the truth only.
    areas: pixels of each row as the official annotations state them, which is not
      always what the map holds [masqclip 9.2]; counted on the map by default.

  Raises:
    ValueError: columns of unequal length, or a map with rows that do not exist.
  """

  map: Int[np.ndarray, 'height width']
  classes: Int[np.ndarray, ' n']
  crowd: Bool[np.ndarray, ' n'] | None = None
  areas: Float[np.ndarray, ' n'] | None = None

  def __post_init__(self):
    rows = len(self.classes)
    for name in ('crowd', 'areas'):
      column = getattr(self, name)
      if column is not None and len(column) != rows:
        raise ValueError(f'{len(column)} values of {name} for {rows} segments')
    if self.map.size and self.map.max() >= rows:
      raise ValueError(f'the map names segment {self.map.max()} of {rows}')

  @classmethod
  def from_ids(
    cls,
    ids: Int[np.ndarray, 'height width'],
    segment_ids: Sequence[int],
    classes: Sequence[int],
    crowd: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
  ) -> 'Segments':
    """Segments from a map of arbitrary ids, 0 for void.

    Raises:
      ValueError: the map holds an id that is not listed, or an id is listed twice.
    """
    segment_ids = np.asarray(segment_ids, np.int64)
    found, inverse = np.unique(ids, return_inverse=True)
    rows = {int(segment): row for row, segment in enumerate(segment_ids)}
    if len(rows) < len(segment_ids):
      raise ValueError('two segments have the same id')
    rows.setdefault(0, -1)
    if unlisted := [int(i) for i in found if int(i) not in rows]:
      raise ValueError(f'the map holds ids that no segment has: {unlisted[:5]}')
    table = np.array([rows[int(i)] for i in found], np.int32)
    return cls(
      table[inverse].reshape(ids.shape),
      np.asarray(classes, np.int32),
      None if crowd is None else np.asarray(crowd, bool),
      None if areas is None else np.asarray(areas, np.float64),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
  """How the segments of one image were judged.

  Attributes:
    pairs: rows of the matched (true, predicted) segments.
    iou: the overlap of each pair, 0 to 1.
    missed: true rows that nothing matches, crowds left out.
    wrong: predicted rows that match nothing and are not excused.
  """

  pairs: Int[np.ndarray, 'm 2']
  iou: Float[np.ndarray, ' m']
  missed: Int[np.ndarray, ' n']
  wrong: Int[np.ndarray, ' p']


def overlaps(
  predicted: Segments, truth: Segments
) -> Int[np.ndarray, 'true+1 predicted+1']:
  """Pixels shared by every true (row) and predicted segment; the last is void.

  Raises:
    ValueError: the maps differ in size.
  """
  if predicted.map.shape != truth.map.shape:
    raise ValueError(
      f'a prediction of {predicted.map.shape} pixels for a truth of {truth.map.shape}'
    )
  rows, columns = len(truth.classes) + 1, len(predicted.classes) + 1
  row = np.where(truth.map < 0, rows - 1, truth.map).astype(np.int64)
  column = np.where(predicted.map < 0, columns - 1, predicted.map)
  cells = (row * columns + column).reshape(-1)
  return np.bincount(cells, minlength=rows * columns).reshape(rows, columns)


def match(predicted: Segments, truth: Segments) -> Matches:
  """Matches the segments of one image.

  Raises:
    ValueError: the maps differ in size, or a predicted segment has no pixel.
  """
  shared = overlaps(predicted, truth)
  area = shared[:, :-1].sum(0)
  if (area == 0).any():
    raise ValueError(f'predicted segment {int(area.argmin())} has no pixel')
  in_void = shared[-1, :-1]
  shared_area = shared[:-1, :-1]
  crowd = truth.crowd
  crowd = np.zeros(len(truth.classes), bool) if crowd is None else crowd
  true_area = truth.areas
  true_area = shared[:-1].sum(1) if true_area is None else true_area
  union = area + np.asarray(true_area, np.float64)[:, None] - shared_area - in_void
  same = (truth.classes[:, None] == predicted.classes) & ~crowd[:, None]
  # A stated area may be smaller than the map's [masqclip 9.2]; no union is empty.
  iou = np.where(shared_area > 0, shared_area / np.maximum(union, 1e-9), 0.0)
  pairs = np.argwhere(same & (iou > 0.5))
  excused = in_void + _in_crowd(predicted, truth, crowd, shared_area)
  unmatched = np.setdiff1d(np.arange(len(area)), pairs[:, 1])
  return Matches(
    pairs,
    iou[pairs[:, 0], pairs[:, 1]],
    np.setdiff1d(np.flatnonzero(~crowd), pairs[:, 0]),
    unmatched[excused[unmatched] / area[unmatched] <= 0.5],
  )


def _in_crowd(predicted, truth, crowd, shared) -> Int[np.ndarray, ' predicted']:
  """Pixels of each prediction in the crowd region of its class.

  Of several crowd regions of a class the last counts, as in the reference.
  """
  last = {int(truth.classes[row]): row for row in np.flatnonzero(crowd)}
  rows = [last.get(int(label), -1) for label in predicted.classes]
  columns = np.arange(len(rows))
  table = np.concatenate([shared, np.zeros((1, len(rows)), shared.dtype)])
  return table[np.array(rows, np.int64), columns]


class PanopticMetrics:
  """Accumulates panoptic predictions.

  Args:
    thing: which classes are countable.
    groups: class indices by group, besides things and stuff.
  """

  def __init__(
    self,
    thing: Bool[np.ndarray, ' k'] | Sequence[bool],
    groups: Mapping[str, tuple[int, ...]] | None = None,
  ):
    thing = np.asarray(thing, bool)
    self._groups = {'th': thing, 'st': ~thing}
    check_groups(groups or {}, len(thing))
    for name, members in (groups or {}).items():
      self._groups[f'[{name}]'] = np.isin(np.arange(len(thing)), members)
    columns = (*_COUNTS, 'iou')
    self._state = {name: np.zeros(len(thing), np.int64) for name in columns}

  def add(self, predicted: Segments, truth: Segments) -> Matches:
    """Adds one image; returns how it was judged.

    Raises:
      ValueError: the maps differ in size, a predicted segment has no pixel, or a class
        does not exist.
    """
    classes = len(self._state['iou'])
    for labels in (predicted.classes, truth.classes):
      if len(labels) and not 0 <= min(labels) <= max(labels) < classes:
        raise ValueError(f'a segment has a class outside 0 to {classes - 1}')
    matches = match(predicted, truth)
    labels = truth.classes[matches.pairs[:, 0]]
    np.add.at(self._state['true_positives'], labels, 1)
    units = np.round(matches.iou / _UNIT).astype(np.int64)
    np.add.at(self._state['iou'], labels, units)
    np.add.at(self._state['false_negatives'], truth.classes[matches.missed], 1)
    np.add.at(self._state['false_positives'], predicted.classes[matches.wrong], 1)
    return matches

  def state(self) -> State:
    return {name: values.copy() for name, values in self._state.items()}

  def merge(self, state: State) -> None:
    for name, values in self._state.items():
      check_shape(state, name, values.shape)
      self._state[name] = values + state[name]

  def result(self) -> Metrics:
    """PQ, SQ and RQ over the classes that occur or are predicted."""
    hits, extra, missed = (self._state[name] for name in _COUNTS)
    iou = self._state['iou'] * _UNIT
    total = hits + extra / 2 + missed / 2
    occurs = hits + extra + missed > 0
    # A class without a match scores zero, one that never occurs does not count.
    quality = np.where(occurs, ratio(iou, np.maximum(hits, 1)), np.nan)
    per_class = {
      'PQ': 100 * ratio(iou, total),
      'SQ': 100 * quality,
      'RQ': 100 * ratio(hits, total),
    }
    values = {name: mean(column) for name, column in per_class.items()}
    for group, members in self._groups.items():
      for name, column in per_class.items():
        values[f'{name}{group}'] = mean(column[members])
    return Metrics(values, per_class)
