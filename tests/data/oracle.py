"""Truth as its own prediction, as it is or rolled, and the numbers to expect of it."""

import math
import pathlib

import numpy as np

from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.judge import Judge, Predicted
from maskclip_jax.eval.metrics.instance import Detections
from maskclip_jax.eval.metrics.panoptic import Segments
from maskclip_jax.eval.protocols import find_protocols


def numbers(
  name: str, data_dir: pathlib.Path, shift: int = 0
) -> tuple[dict[str, float], tuple[str, ...]]:
  """What a dataset's own labels score as a prediction.

  Args:
    name: a dataset that was built.
    data_dir: where.
    shift: the prediction is this many pixels further to the right, and what leaves the
      photo comes in at the left.

  Returns:
    The numbers, and the names of those that are quoted first.
  """
  (protocol,) = find_protocols(name, data_dir)
  run = protocol.for_system('maskclip')
  judge = Judge(run, run.vocabulary().things)
  for example in ProtocolSource(run, data_dir):
    truth = example.truth
    panoptic, objects = truth.panoptic, truth.instance
    found = Detections(
      np.roll(objects.masks, shift, -1),
      objects.classes,
      np.ones(len(objects.classes), np.float32),
    )
    segments = Segments(np.roll(panoptic.map, shift, 1), panoptic.classes)
    semantic = np.roll(np.maximum(truth.semantic, 0), shift, 1)
    judge.add(example, Predicted(semantic, segments, found))
  return judge.result().values, protocol.headline


def rolled_pq(name: str, data_dir: pathlib.Path, shift: int) -> float:
  """PQ of the rolled labels, in percent, by panopticapi's rule in its plainest form.

  A true and a predicted segment of one class match if their intersection is more than
  half of their union, void left out of it; a prediction that matches nothing is wrong
  unless more than half of it is void. PQ of a class is the sum of the IoU of its
  matches over TP + FP / 2 + FN / 2, and the mean is over the classes that occur.
  """
  (protocol,) = find_protocols(name, data_dir)
  found: dict[int, list[float]] = {}
  for example in ProtocolSource(protocol.for_system('maskclip'), data_dir):
    truth = example.truth.panoptic
    rolled = np.roll(truth.map, shift, 1)
    void, matched = truth.map < 0, set()
    for row, kind in enumerate(truth.classes.tolist()):
      hit = _match(truth, rolled, row, void)
      ious, half = found.setdefault(kind, [0.0, 0.0])
      if hit is None:
        half += 0.5
      else:
        matched.add(hit[0])
        ious, half = ious + hit[1], half + 1
      found[kind] = [ious, half]
    for row, kind in enumerate(truth.classes.tolist()):
      if row not in matched and void[rolled == row].mean() <= 0.5:
        found[kind][1] += 0.5
  return 100 * math.fsum(ious / half for ious, half in found.values()) / len(found)


def _match(truth, rolled, row, void) -> tuple[int, float] | None:
  """The predicted segment that matches a true one, and their IoU."""
  true = truth.map == row
  for other in np.flatnonzero(truth.classes == truth.classes[row]).tolist():
    predicted = rolled == other
    union = (true | predicted) & ~(predicted & void)
    iou = (true & predicted).sum() / union.sum()
    if iou > 0.5:
      return other, float(iou)
  return None
