"""Resampling of photos and label maps, bit for bit as Pillow and PyTorch do it.

Photos are resized by Pillow on uint8 (antialiased on reduction, [masqclip 7]): no
other library rounds as it does. Label maps follow one of two nearest-neighbour rules:
Pillow's (half-pixel centres), which the panoptic and instance mappers use, or PyTorch's
(`floor(i * in / out)`), which the semantic mappers use.

Every function takes a `window` of the resized picture and computes only that: a
large-scale jitter of 2 makes a 2048-pixel picture of which a quarter is kept.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, Shaped, UInt8
from PIL import Image

Interpolation = Literal['bilinear', 'bicubic', 'opencv_bilinear']
NearestRule = Literal['pillow', 'torch']

_PILLOW = {
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}


class Window(NamedTuple):
  """A rectangle of a picture, in pixels."""

  top: int
  left: int
  height: int
  width: int

  @property
  def rows(self) -> slice:
    return slice(self.top, self.top + self.height)

  @property
  def columns(self) -> slice:
    return slice(self.left, self.left + self.width)


def resize_image(
  image: UInt8[np.ndarray, 'h w 3'],
  size: tuple[int, int],
  window: Window | None = None,
  method: Interpolation = 'bilinear',
) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Resizes a photo to `size` and returns the given window of the result.

  Equals resizing the whole photo and cropping, bit for bit.

  Args:
    image: RGB.
    size: height and width of the whole resized photo.
    window: the part to return; the whole by default.
    method: 'bilinear' and 'bicubic' are Pillow's (antialiased on reduction),
      'opencv_bilinear' is OpenCV's (no antialiasing).
  """
  height, width = size
  window = window or Window(0, 0, height, width)
  if method == 'opencv_bilinear':
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized[window.rows, window.columns]
  filter_ = _PILLOW[method]
  picture = Image.fromarray(image)
  # Pillow resamples along one axis, rounds to uint8, then along the other. On
  # enlargement the rows come first, so columns can be left out in between; on reduction
  # the order depends on the sizes, and little would be won.
  if window.width < width and height >= image.shape[0]:
    picture = picture.resize((width, image.shape[0]), filter_)
    picture = picture.crop((window.left, 0, window.left + window.width, image.shape[0]))
    resized = picture.resize((window.width, height), filter_)
    return np.asarray(resized)[window.rows]
  resized = picture.resize((width, height), filter_)
  return np.asarray(resized)[window.rows, window.columns]


def nearest_index(
  length: int, resized: int, rule: NearestRule
) -> Int[np.ndarray, ' resized']:
  """Which source pixel each pixel of a resized line copies.

  Args:
    length: pixels of the source line.
    resized: pixels of the resized line.
    rule: 'pillow' or 'torch'; both in the library's own floating-point arithmetic.
      Pillow accumulates doubles; PyTorch, given labels in float64 as the semantic
      mappers do, multiplies doubles and rounds the product to float32.
  """
  if rule == 'torch':
    index = np.floor((np.arange(resized) * (length / resized)).astype(np.float32))
  else:
    step = length / resized
    steps = np.full(resized, step)
    steps[0] = step * 0.5
    index = np.floor(np.add.accumulate(steps))
  return np.minimum(index.astype(np.int64), length - 1)


def resize_labels(
  labels: Shaped[np.ndarray, 'h w'],
  size: tuple[int, int],
  window: Window | None = None,
  rule: NearestRule = 'pillow',
) -> Shaped[np.ndarray, 'h2 w2']:
  """Resizes a label map to `size` by nearest neighbour and returns a window of it."""
  height, width = size
  window = window or Window(0, 0, height, width)
  rows = nearest_index(labels.shape[0], height, rule)[window.rows]
  columns = nearest_index(labels.shape[1], width, rule)[window.columns]
  # Columns first: on enlargement that gathers the fewest pixels one by one, and whole
  # rows are then copied.
  first, last = rows[0], rows[-1] + 1
  return np.take(np.take(labels[first:last], columns, axis=1), rows - first, axis=0)
