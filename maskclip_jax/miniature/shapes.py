"""Outlines of the shapes of things, in a box from -1 to 1."""

import functools

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maskclip_jax.miniature.words import SHAPES

Outline = Float[np.ndarray, 'points 2']

# Points are given to OpenCV in 1/256 pixel.
_BITS = 8


def _round(radius: float) -> Outline:
  turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
  return radius * np.stack([np.cos(turns), np.sin(turns)], 1)


def _star() -> Outline:
  turns = np.arange(10) * np.pi / 5 - np.pi / 2
  radii = np.where(np.arange(10) % 2, 0.46, 1.12)
  return radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)


_OUTLINES = {
  'disk': _round(1.0),
  'bar': np.array([[-1.05, -0.4], [1.05, -0.4], [1.05, 0.4], [-1.05, 0.4]]),
  'star': _star(),
}


def outline(shape: int) -> Outline:
  """The closed line around a shape, y downwards."""
  return _OUTLINES[SHAPES[shape].name]


@functools.cache
def area(shape: int) -> float:
  """Area in units of the square of half the box."""
  x, y = outline(shape).T
  return abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2


def placed(
  shape: int, centre: tuple[float, float], half: float, angle: float
) -> Outline:
  """The outline of a thing, in pixels (x, y) from the corner of the first pixel.

  Args:
    shape: which one.
    centre: x and y, pixels.
    half: half the side of its box, pixels.
    angle: radians, clockwise as seen.
  """
  cos, sin = np.cos(angle), np.sin(angle)
  turn = half * np.array([[cos, sin], [-sin, cos]])
  return outline(shape) @ turn + centre


def window(line: Outline, side: int, margin: float = 1.0) -> tuple[slice, slice]:
  """Rows and columns of a square picture that an outline may touch; empty if outside.

  Args:
    line: the outline in pixels.
    side: the side of the picture, pixels.
    margin: pixels around it.
  """
  low = np.floor(line.min(0) - margin).astype(int)
  high = np.ceil(line.max(0) + margin).astype(int)
  left, top, right, bottom = np.clip((*low, *high), 0, side).tolist()
  return slice(top, bottom), slice(left, right)


def fill(
  line: Outline, part: tuple[slice, slice], fine: int
) -> UInt8[np.ndarray, 'h w']:
  """Draws what an outline encloses: 255 inside, 0 outside, between them at borders.

  Args:
    line: the outline in pixels.
    part: rows and columns of the picture to draw; not empty.
    fine: samples per pixel and direction. OpenCV fills half a sample too much.
  """
  rows, columns = part
  height, width = rows.stop - rows.start, columns.stop - columns.start
  mask = np.zeros((height * fine, width * fine), np.uint8)
  corner = np.array((columns.start, rows.start))
  # OpenCV's whole numbers are the middles of pixels.
  points = np.rint(((line - corner) * fine - 0.5) * (1 << _BITS)).astype(np.int32)
  cv2.fillPoly(mask, [points], 255, shift=_BITS)
  if fine == 1:
    return mask
  return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
