"""Statistics of a diagnosis: what happens to true regions, confusions, calibration.

Small accumulators on the host; each counts what one picture of the report shows. Their
states add up exactly, in any order (`metrics.py`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

from maskclip_jax.eval.diagnosis.overlaps import Regions
from maskclip_jax.eval.metrics.metric import State, ratio

# COCO's borders between small, medium and large, in pixels of the photo.
AREAS = (('small', 0), ('medium', 32**2), ('large', 96**2))
FATES = ('found, named right', 'found, named wrong', 'not found')
THRESHOLDS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())
BINS = 10
# Scores are added as multiples of this: integers add up the same in any order.
_UNIT = 2.0**-40
# A mask finds a region whose IoU exceeds this.
FOUND = 0.5


class Fates:
  """Whether true regions are found by a mask, and named right by the best mask.

  Attributes:
    counts: regions by size and fate.
    recall: regions by size found at each of `THRESHOLDS`.
  """

  def __init__(self):
    self.counts = np.zeros((len(AREAS), len(FATES)), np.int64)
    self.recall = np.zeros((len(AREAS), len(THRESHOLDS)), np.int64)

  def add(
    self,
    regions: Regions,
    iou: Float32[np.ndarray, 'q n'],
    labels: Int[np.ndarray, ' q'],
  ) -> None:
    """Adds a photo.

    Args:
      regions: what there is.
      iou: the overlap of every mask with every region, 0 to 1.
      labels: the best class of every mask.
    """
    if not len(regions):
      return
    best = iou.max(0)
    size = np.searchsorted([area for _, area in AREAS], regions.areas, 'right') - 1
    right = labels[iou.argmax(0)] == regions.classes
    fate = np.where(best <= FOUND, 2, np.where(right, 0, 1))
    np.add.at(self.counts, (size, fate), 1)
    found = best[:, None] >= np.array(THRESHOLDS)
    np.add.at(self.recall, size, found)

  def state(self) -> State:
    return {'counts': self.counts, 'recall': self.recall}

  def merge(self, state: State) -> None:
    self.counts = self.counts + state['counts']
    self.recall = self.recall + state['recall']

  def shares(self) -> Float[np.ndarray, 'size fate']:
    """Fates per size, in percent; NaN where there is no region of a size."""
    return 100 * ratio(self.counts, self.counts.sum(1, keepdims=True))

  def recalls(self) -> Float[np.ndarray, 'size threshold']:
    """Regions found at each IoU threshold, in percent."""
    return 100 * ratio(self.recall, self.counts.sum(1, keepdims=True))


class Calibration:
  """How often masks of a given score are right: found a region, with its class.

  Attributes:
    count: masks by bin of their score.
    right: those of them that are right.
    score: the sum of their scores, in units of 2^-40.
  """

  def __init__(self):
    self.count, self.right, self.score = np.zeros((3, BINS), np.int64)

  def add(
    self,
    regions: Regions,
    iou: Float32[np.ndarray, 'q n'],
    labels: Int[np.ndarray, ' q'],
    scores: Float32[np.ndarray, ' q'],
  ) -> None:
    """Adds a photo; see `Fates.add`."""
    right = np.zeros(len(scores), bool)
    if len(regions):
      best = iou.argmax(1)
      right = (iou.max(1) > FOUND) & (labels == regions.classes[best])
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    np.add.at(self.count, bins, 1)
    np.add.at(self.right, bins, right)
    np.add.at(self.score, bins, np.round(scores / _UNIT).astype(np.int64))

  def state(self) -> State:
    return {'count': self.count, 'right': self.right, 'score': self.score}

  def merge(self, state: State) -> None:
    self.count = self.count + state['count']
    self.right = self.right + state['right']
    self.score = self.score + state['score']

  def curve(self) -> tuple[Float[np.ndarray, ' bins'], Float[np.ndarray, ' bins']]:
    """Mean score and share of right masks per bin, 0 to 1; NaN in empty bins."""
    return ratio(self.score * _UNIT, self.count), ratio(self.right, self.count)

  def error(self) -> float:
    """Expected calibration error: the mean gap between score and truth, 0 to 1."""
    score, right = self.curve()
    gap = np.nan_to_num(np.abs(score - right))
    return float(ratio((gap * self.count).sum(), self.count.sum()))


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Pixels of one class that are called another.

  Attributes:
    true: class index.
    predicted: class index.
    share: the share of the true class's pixels, in percent.
    cost: by how much the mean IoU would rise without them, in points.
  """

  true: int
  predicted: int
  share: float
  cost: float


def costly_confusions(
  confusion: Int64[np.ndarray, 'k+1 k+1'], *, most: int = 15, tried: int = 300
) -> list[Confusion]:
  """The confusions that cost the mean IoU most.

  Args:
    confusion: pixels by predicted (row) and true (column) class; the last are 'none'.
    most: how many to return.
    tried: how many candidates to look at, those with the largest shares of their
      true class or of the predicted one.

  Returns:
    The costliest first. The mean is over classes that occur in the ground truth.
  """
  counts = confusion[:-1, :-1].astype(np.float64)
  true, predicted = confusion.sum(0)[:-1], counts.sum(1)
  wrong = counts - np.diag(np.diag(counts))
  weight = wrong / np.maximum(true, 1) + wrong / np.maximum(predicted, 1)[:, None]
  order = np.argsort(-weight, axis=None, kind='stable')[:tried]
  present = max(int((true > 0).sum()), 1)
  hits = np.diag(counts)

  def iou(label: int, gained: float = 0, lost: float = 0) -> float:
    """IoU of a class that gains pixels rightly, or loses wrong ones."""
    if not true[label]:
      return 0.0
    union = true[label] + predicted[label] - hits[label] - lost
    return (hits[label] + gained) / union

  found = []
  for index in order.tolist():
    called, label = divmod(index, len(counts))
    pixels = wrong[called, label]
    if not pixels:
      continue
    # The true class gains hits (its union stays), the other loses false pixels.
    gain = iou(label, gained=pixels) - iou(label)
    gain += iou(called, lost=pixels) - iou(called)
    share = 100 * pixels / true[label]
    found.append(Confusion(label, called, float(share), float(100 * gain / present)))
  return sorted(found, key=lambda c: -c.cost)[:most]


class NameConfusion:
  """Regions that are found but named wrong: pairs of classes, counted.

  Attributes:
    counts: found regions by (true, named) class.
  """

  def __init__(self):
    self.counts: dict[tuple[int, int], int] = {}

  def add(
    self,
    regions: Regions,
    iou: Float32[np.ndarray, 'q n'],
    labels: Int[np.ndarray, ' q'],
  ) -> None:
    """Adds a photo; see `Fates.add`."""
    if not len(regions):
      return
    found = iou.max(0) > FOUND
    named = labels[iou.argmax(0)]
    for true, called in zip(regions.classes[found], named[found], strict=True):
      pair = int(true), int(called)
      self.counts[pair] = self.counts.get(pair, 0) + 1

  def state(self) -> State:
    rows = [(true, called, n) for (true, called), n in sorted(self.counts.items())]
    return {'counts': np.array(rows, np.int64).reshape(-1, 3)}

  def merge(self, state: State) -> None:
    for true, called, count in state['counts'].tolist():
      self.counts[true, called] = self.counts.get((true, called), 0) + count

  def wrong(self, most: int = 15) -> list[tuple[int, int, int]]:
    """(true, named, how often), the most frequent first."""
    rows = [(t, c, n) for (t, c), n in self.counts.items() if t != c]
    return sorted(rows, key=lambda row: (-row[2], *row))[:most]


def present_classes(regions: Regions, others: Sequence[np.ndarray]) -> np.ndarray:
  """The classes of a photo's ground truth, over all its tasks."""
  return np.unique(np.concatenate([regions.classes, *others])).astype(int)


def best_labels(
  probabilities: Float32[np.ndarray, 'q k'], classes: Bool[np.ndarray, ' k']
) -> tuple[Int[np.ndarray, ' q'], Float32[np.ndarray, ' q']]:
  """The best class of every mask, and its score."""
  p = np.where(classes, probabilities, -1.0)
  return p.argmax(1), p.max(1)
