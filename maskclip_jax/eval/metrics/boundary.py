"""Boundaries of label maps, for Boundary IoU (Cheng et al., CVPR 2021).

Two rules, because the number that detectron2 prints is not the paper's:

- 'regions': a pixel belongs to its class's boundary when another class, or the edge of
  the image, is at most d pixels away (the paper; its erosion is a Chebyshev ball).
- 'detectron2': erodes the map of class *numbers* as if it were a grey image, so what is
  counted are differences of class numbers, and all inner pixels count as class 0. Only
  for comparison with numbers printed by detectron2 of July 2022 or later.
"""

from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Int, UInt8

Rule = Literal['regions', 'detectron2']
# Width of a boundary as a share of the image's diagonal.
WIDTH = 0.02


def check_rule(rule: str) -> None:
  """Refuses a rule that does not exist.

  Raises:
    ValueError: naming the rules that do.
  """
  if rule not in get_args(Rule):
    raise ValueError(f'boundary must be one of {get_args(Rule)} or None, not {rule!r}')


def boundary_width(height: int, width: int) -> int:
  """How many pixels a boundary is wide: 2 % of the diagonal, at least one."""
  return max(1, round(WIDTH * float(np.hypot(height, width))))


def class_boundaries(
  labels: Int[np.ndarray, 'height width'], interior: int
) -> Int[np.ndarray, 'height width']:
  """The labels near the border of their region, `interior` elsewhere.

  Args:
    labels: class of each pixel.
    interior: value of pixels that are not near a border; no label.
  """
  reach = boundary_width(*labels.shape)
  framed = np.pad(labels, 1, constant_values=interior)
  # A pixel within d of another label is within d - 1 of a pixel that touches one.
  touches = np.zeros(labels.shape, bool)
  for dy, dx in ((0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)):
    neighbour = framed[dy : dy + labels.shape[0], dx : dx + labels.shape[1]]
    touches |= neighbour != labels
  distance = cv2.distanceTransform((~touches).astype(np.uint8), cv2.DIST_C, 3)
  return np.where(distance <= reach - 1, labels, interior)


def number_differences(
  labels: Int[np.ndarray, 'height width'],
) -> UInt8[np.ndarray, 'height width']:
  """Class numbers minus their minimum nearby, modulo 256, as detectron2 has them."""
  labels = labels.astype(np.uint8)
  reach = boundary_width(*labels.shape)
  framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
  eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)
  return labels - eroded[1:-1, 1:-1]
