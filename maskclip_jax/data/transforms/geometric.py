"""Operations on examples: each acts alike on the photo, label maps and polygons.

A mapper draws a tuple of operations for an example; `apply` carries them out. The tuple
says everything, so recorded draws of other code can be replayed. All geometry acts on
the one segment-id map, never on a mask per segment.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from maskclip_jax.data.examples import VOID, Example, Region
from maskclip_jax.data.transforms.polygons import Polygon, clip_polygon
from maskclip_jax.data.transforms.resample import (
  Interpolation,
  NearestRule,
  Window,
  resize_image,
  resize_labels,
)

Image = UInt8[np.ndarray, 'h w 3']
Labels = Integer[np.ndarray, 'h w']


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
  image, segments = example.image, example.segments
  for operation in operations:
    image = operation.image(image)
    segments = segments if segments is None else operation.labels(segments, VOID)
  regions = tuple(_apply_to_region(region, operations) for region in example.regions)
  return dataclasses.replace(example, image=image, segments=segments, regions=regions)
