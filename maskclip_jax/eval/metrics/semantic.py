"""Semantic metrics: mIoU by both denominators, fwIoU, accuracies, Boundary IoU.

Sources: [masqclip 9.5], [ovseg 7.2], [segclip 4.6]. The mean IoU of the field
has two definitions, which differ most where many classes never occur in a validation
set (ADE20K-847, PASCAL Context 459):

- `mIoU_gt`: mean over the classes that occur in the ground truth (detectron2 since July
  2022);
- `mIoU_gt_or_pred`: a class that is predicted somewhere but occurs nowhere counts as
  zero (detectron2 up to 0.6, OVSeg's own evaluator, mmsegmentation).

Both are always reported.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Int64

from maskclip_jax.eval.metrics import boundary as boundaries
from maskclip_jax.eval.metrics.metric import (
  Metrics,
  State,
  check_groups,
  check_shape,
  mean,
  ratio,
)

# Pixels counted by one call: of one shape, so that no size of a photo compiles.
_CHUNK = 1 << 18
# Counts on the device are 32-bit; they move to 64-bit ones before they can overflow.
_MOST_PIXELS = np.iinfo(np.int32).max


@functools.partial(jax.jit, donate_argnums=0)
def _count(
  counts: Int32[Array, ' cells'],
  predicted: Int[Array, ' n'],
  truth: Int[Array, ' n'],
  pixels: Int[Array, ''],
) -> Int32[Array, ' cells']:
  """Adds the first `pixels` pairs to a flat confusion matrix; negative is 'none'."""
  side = round(counts.size**0.5)
  predicted, truth = predicted.astype(jnp.int32), truth.astype(jnp.int32)
  predicted = jnp.where(predicted < 0, side - 1, predicted)
  truth = jnp.where(truth < 0, side - 1, truth)
  cell = jnp.where(jnp.arange(_CHUNK) < pixels, predicted * side + truth, counts.size)
  return counts.at[cell].add(1, mode='drop')


class ConfusionMatrix:
  """Pairs of predicted and true class, counted on the device.

  Attributes:
    classes: how many; one more row and column, the last, stand for 'none'.
  """

  def __init__(self, classes: int):
    if classes < 1:
      raise ValueError('a confusion matrix needs at least one class')
    self.classes = classes
    self._total = np.zeros((classes + 1, classes + 1), np.int64)
    self._counts = None
    self._pixels = 0

  def add(
    self,
    predicted: Int[np.ndarray, 'height width'],
    truth: Int[np.ndarray, 'height width'],
  ) -> None:
    """Counts one image.

    Args:
      predicted: class of each pixel; negative, or `classes`, where there is none.
      truth: class of each pixel; negative, or `classes`, where it is not judged.

    Raises:
      ValueError: the sizes differ, or a class does not exist.
    """
    if predicted.shape != truth.shape:
      raise ValueError(
        f'a prediction of {predicted.shape} pixels for a truth of {truth.shape}'
      )
    flat = []
    for name, labels in (('predicted', predicted), ('true', truth)):
      if labels.size and labels.max() > self.classes:
        raise ValueError(
          f'{name} class {labels.max()} does not exist: there are {self.classes}'
        )
      flat.append(np.asarray(labels, np.int16).reshape(-1))
    for start in range(0, predicted.size, _CHUNK):
      part = [labels[start : start + _CHUNK] for labels in flat]
      self._add_chunk(*part)

  def _add_chunk(self, predicted, truth):
    if self._pixels + len(truth) > _MOST_PIXELS:
      self._flush()
    if self._counts is None:
      self._counts = jnp.zeros((self.classes + 1) ** 2, jnp.int32)
    padding = (0, _CHUNK - len(truth))
    self._counts = _count(
      self._counts, np.pad(predicted, padding), np.pad(truth, padding), len(truth)
    )
    self._pixels += len(truth)

  def _flush(self):
    if self._counts is not None:
      self._total += np.asarray(self._counts, np.int64).reshape(self._total.shape)
    self._counts, self._pixels = None, 0

  def merge(self, counts: Int64[np.ndarray, 'k+1 k+1']) -> None:
    """Adds the counts of another matrix."""
    self._total += counts

  def counts(self) -> Int64[np.ndarray, 'k+1 k+1']:
    """Pixels by predicted class (row) and true class (column)."""
    self._flush()
    return self._total.copy()


class SemanticMetrics:
  """Accumulates semantic predictions.

  Args:
    classes: how many classes there are.
    groups: class indices by group, such as seen and unseen.
    boundary: how boundaries are taken for Boundary IoU (see `boundary.py`), or None.
  """

  def __init__(
    self,
    classes: int,
    groups: Mapping[str, tuple[int, ...]] | None = None,
    boundary: boundaries.Rule | None = 'regions',
  ):
    self._groups = dict(groups or {})
    check_groups(self._groups, classes)
    if boundary is not None:
      boundaries.check_rule(boundary)
    self._rule = boundary
    self._matrices = {'confusion': ConfusionMatrix(classes)}
    if boundary is not None:
      self._matrices['boundary'] = ConfusionMatrix(classes)
    self.classes = classes

  def add(
    self,
    predicted: Int[np.ndarray, 'height width'],
    truth: Int[np.ndarray, 'height width'],
  ) -> None:
    """Adds one image.

    Args:
      predicted: class of each pixel; negative where there is none.
      truth: class of each pixel; negative where it is not judged.

    Raises:
      ValueError: the sizes differ, or a class does not exist.
    """
    self._matrices['confusion'].add(predicted, truth)
    if self._rule is None:
      return
    none = self.classes
    truth = np.where(truth < 0, none, truth)
    if self._rule == 'detectron2':
      maps = (boundaries.number_differences(m) for m in (predicted, truth))
    else:
      near = boundaries.class_boundaries(predicted, none)
      # Pixels that are not judged hold no predicted boundary either.
      maps = (
        np.where(truth == none, none, near),
        boundaries.class_boundaries(truth, none),
      )
    self._matrices['boundary'].add(*maps)

  def state(self) -> State:
    return {name: matrix.counts() for name, matrix in self._matrices.items()}

  def merge(self, state: State) -> None:
    for name, matrix in self._matrices.items():
      check_shape(state, name, (self.classes + 1, self.classes + 1))
      matrix.merge(state[name])

  def confusion(self) -> Int64[np.ndarray, 'k+1 k+1']:
    """Pixels by predicted (row) and true (column) class; the last are 'none'."""
    return self._matrices['confusion'].counts()

  def result(self) -> Metrics:
    """mIoU by both rules, fwIoU, mACC, pACC and Boundary IoU; by group where given."""
    confusion = self.confusion()
    hits, true, predicted = _margins(confusion)
    values = _means(hits, true, predicted, np.arange(self.classes))
    judged = true.sum()
    iou = _iou(hits, true, predicted)
    values['fwIoU'] = 100 * float(
      ratio(np.nansum(iou * true), judged)  # IoU is NaN where `true` is 0.
    )
    accuracy = ratio(hits, true)
    values['mACC'] = 100 * mean(accuracy)
    values['pACC'] = 100 * float(ratio(hits.sum(), judged))
    for name, members in self._groups.items():
      group = _means(hits, true, predicted, np.array(members))
      values |= {f'{key}[{name}]': value for key, value in group.items()}
    per_class = {'IoU': 100 * iou, 'ACC': 100 * accuracy}
    if self._rule is not None:
      near = 100 * self._boundary_iou()
      values['BoundaryIoU'] = mean(near[true > 0])
      per_class['BoundaryIoU'] = near
    return Metrics(values, per_class)

  def _boundary_iou(self) -> Float[np.ndarray, ' k']:
    counts = self._matrices['boundary'].counts()
    if self._rule == 'detectron2':
      hits, true, predicted = _margins(counts)
    else:
      # Here 'none' is a pixel that is near no border, which the other map may be.
      hits = np.diag(counts)[:-1]
      true, predicted = counts.sum(0)[:-1], counts.sum(1)[:-1]
    return ratio(hits, true + predicted - hits)


def _margins(confusion: Int64[np.ndarray, 'k+1 k+1']):
  """Per class: pixels right, pixels true, and judged pixels predicted.

  Pixels without a prediction count as missed.
  """
  hits = np.diag(confusion)[:-1]
  return hits, confusion.sum(0)[:-1], confusion[:-1, :-1].sum(1)


def _iou(hits, true, predicted) -> Float[np.ndarray, ' k']:
  """IoU of the classes that occur, NaN for the others."""
  return np.where(true > 0, ratio(hits, true + predicted - hits), np.nan)


def _means(hits, true, predicted, members) -> dict[str, float]:
  """Both means over some of the classes."""
  hits, true, predicted = hits[members], true[members], predicted[members]
  iou = _iou(hits, true, predicted)
  total = np.nansum(iou)
  return {
    'mIoU_gt': 100 * float(ratio(total, np.sum(true > 0))),
    'mIoU_gt_or_pred': 100 * float(ratio(total, np.sum(true + predicted > 0))),
  }
