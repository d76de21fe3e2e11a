"""Objects as connected pieces of the semantic map.

For systems whose masks say what is where and not how many: SegCLIP's groups end at the
windows it reads a photo in. Objects of one class that touch are one piece. An extension
of ours: the paper has semantic results only.
"""

from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int, Int32

from maskclip_jax.postprocess.instances import Instances
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.postprocess.tiles import PackedMasks

# Pixels that touch at a corner belong together.
_NEIGHBOURS = np.ones((3, 3), bool)
# Stands where a segment or a detection would name its query.
NO_QUERY = -1


class Pieces(NamedTuple):
  """Pieces of the semantic map, numbered from 1.

  Attributes:
    ids: the piece of every pixel; 0 where none was kept.
    classes: the classes of each piece.
    scores: mean score of its pixels.
    areas: its pixels.
  """

  ids: Int32[np.ndarray, 'height width']
  classes: Int32[np.ndarray, ' n']
  scores: Float[np.ndarray, ' n']
  areas: Int[np.ndarray, ' n']


def find_pieces(
  semantic: Int32[np.ndarray, 'height width'],
  scores: Float[np.ndarray, 'height width'],
  thing: Bool[np.ndarray, ' k'],
  threshold: float,
) -> Pieces:
  """Cuts a semantic map into pieces.

  Args:
    semantic: class of every pixel.
    scores: the scores of that class at every pixel.
    thing: classes whose connected pieces count one by one; all pixels of another class
      are one piece.
    threshold: pieces that score no more are dropped.
  """
  ids, classes = np.zeros(semantic.shape, np.int32), []
  for label in np.unique(semantic).tolist():
    where = semantic == label
    parts, count = (
      scipy.ndimage.label(where, _NEIGHBOURS) if thing[label] else (where, 1)
    )
    ids[where] = parts[where] + len(classes)
    classes += [label] * count
  areas = np.bincount(ids.ravel(), minlength=len(classes) + 1)[1:]
  sums = np.bincount(ids.ravel(), scores.ravel(), len(classes) + 1)[1:]
  means = sums / np.maximum(areas, 1)
  kept = means > threshold
  number = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
  classes = np.array(classes, np.int32)
  return Pieces(number[ids], classes[kept], means[kept], areas[kept])


def piece_segments(
  pieces: Pieces, thing: Bool[np.ndarray, ' k']
) -> tuple[Int32[np.ndarray, 'height width'], tuple[Segment, ...]]:
  """Pieces as a panoptic result."""
  rows = zip(
    pieces.classes.tolist(), pieces.scores.tolist(), pieces.areas.tolist(), strict=True
  )
  segments = (
    Segment(number, label, bool(thing[label]), score, area, NO_QUERY)
    for number, (label, score, area) in enumerate(rows, 1)
  )
  return pieces.ids, tuple(segments)


def piece_instances(
  pieces: Pieces, thing: Bool[np.ndarray, ' k'], top_k: int, things_only: bool
) -> Instances:
  """Pieces as detections, best first; see `InstanceCollector` for the arguments."""
  order = np.argsort(-pieces.scores, kind='stable')[:top_k]
  if things_only:
    order = order[thing[pieces.classes[order]]]
  height, width = pieces.ids.shape
  planes = np.zeros((-(-len(order) // 8), width, height), np.uint8)
  upright = pieces.ids.T
  for row, number in enumerate(order + 1):
    planes[row // 8] |= (upright == number).astype(np.uint8) << (row % 8)
  return Instances(
    pieces.scores[order].astype(np.float32),
    pieces.classes[order],
    np.full(len(order), NO_QUERY, np.int32),
    pieces.areas[order].astype(np.int64),
    PackedMasks(planes, len(order)),
    np.arange(len(order), dtype=np.int32),
  )
