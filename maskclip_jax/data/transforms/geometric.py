"""Operations on examples: each acts alike on the photo, label maps and polygons.

A mapper draws a tuple of operations for an example; `apply` carries them out. The tuple
says everything, so recorded draws of other code can be replayed. All geometry acts on
the one segment-id map, never on a mask per segment.

Resampling is bit for bit that of Pillow and PyTorch. Photos are resized by Pillow on
uint8 (antialiased on reduction, [masqclip 7]): no other library rounds as it does.
Label maps follow one of two nearest-neighbour rules: Pillow's (half-pixel centres),
which the panoptic and instance mappers use, or PyTorch's (`floor(i * in / out)`), which
the semantic mappers use. Whatever resamples takes a `window` of the resized picture and
computes only that: a large-scale jitter of 2 makes a 2048-pixel picture of which a
quarter is kept.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Int, Integer, Shaped, UInt8

from maskclip_jax.data.examples import VOID, Example
from maskclip_jax.data.transforms.polygons import Polygon, Region, clip_polygon

Image = UInt8[np.ndarray, 'h w 3']
Labels = Integer[np.ndarray, 'h w']
Interpolation = Literal['bilinear', 'bicubic', 'opencv_bilinear']
NearestRule = Literal['pillow', 'torch']

_PILLOW = {
  'bilinear': PIL.Image.Resampling.BILINEAR,
  'bicubic': PIL.Image.Resampling.BICUBIC,
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
  picture = PIL.Image.fromarray(image)
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


class Operation:
  """One step of an augmentation; by default it leaves everything as it is."""

  def image(self, image: Image) -> Image:
    return image

  def labels(self, labels: Labels, void: int) -> Labels:
    return labels

  def polygons(self, polygons: Sequence[Polygon]) -> list[Polygon]:
    return list(polygons)


@dataclasses.dataclass(frozen=True)
class Flip(Operation):
  """Mirrors left and right a picture of the given width."""

  width: int

  def image(self, image):
    return cv2.flip(image, 1)

  def labels(self, labels, void):
    return np.ascontiguousarray(labels[:, ::-1])

  def polygons(self, polygons):
    return [np.array([self.width, 0]) + polygon * (-1, 1) for polygon in polygons]


@dataclasses.dataclass(frozen=True)
class Crop(Operation):
  """Keeps a window; polygons are clipped as polygons, not as bitmaps."""

  window: Window

  def image(self, image):
    return image[self.window.rows, self.window.columns]

  def labels(self, labels, void):
    return labels[self.window.rows, self.window.columns]

  def polygons(self, polygons):
    clipped = (clip_polygon(polygon, self.window) for polygon in polygons)
    return [polygon for polygon in clipped if len(polygon)]


@dataclasses.dataclass(frozen=True)
class Resize(Operation):
  """Resizes, and keeps a window of the result.

  Attributes:
    source: height and width before.
    size: height and width of the whole resized picture.
    window: the part that is kept; None for all of it.
    method: interpolation of the photo.
    rule: nearest-neighbour rule of label maps.
  """

  source: tuple[int, int]
  size: tuple[int, int]
  window: Window | None = None
  method: Interpolation = 'bilinear'
  rule: NearestRule = 'pillow'

  def image(self, image):
    return resize_image(image, self.size, self.window, self.method)

  def labels(self, labels, void):
    return resize_labels(labels, self.size, self.window, self.rule)

  def polygons(self, polygons):
    height, width = self.source
    scale = np.array([self.size[1] / width, self.size[0] / height])
    # Points of whole pixels stay whole, rounded down (`examples.decode` says why).
    scaled = [(polygon * scale).astype(polygon.dtype) for polygon in polygons]
    return scaled if self.window is None else Crop(self.window).polygons(scaled)


@dataclasses.dataclass(frozen=True)
class Pad(Operation):
  """Pads at the bottom and the right: photos with `value`, label maps with void."""

  size: tuple[int, int]
  value: int = 128

  def image(self, image):
    padded = np.full((*self.size, 3), self.value, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded

  def labels(self, labels, void):
    padded = np.full(self.size, void, labels.dtype)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    return padded


def _apply_to_region(region: Region, operations: Sequence[Operation]) -> Region:
  polygons, bitmap = region.polygons, region.bitmap
  for operation in operations:
    polygons = tuple(operation.polygons(polygons))
    bitmap = bitmap if bitmap is None else operation.labels(bitmap, 0)
  return Region(polygons, bitmap)


def apply(example: Example, operations: Sequence[Operation]) -> Example:
  """Carries out operations, in order, on everything an example holds."""
  image, segments, superpixels = example.image, example.segments, example.superpixels
  for operation in operations:
    image = operation.image(image)
    if segments is not None:
      segments = operation.labels(segments, VOID)
    if superpixels is not None:
      superpixels = operation.labels(superpixels, VOID)
  regions = tuple(_apply_to_region(region, operations) for region in example.regions)
  return dataclasses.replace(
    example, image=image, segments=segments, regions=regions, superpixels=superpixels
  )
