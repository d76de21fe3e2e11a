"""Polygons of instances: clipping to a window, boxes, packed bit masks.

Instances of COCO overlap, so they cannot share a segment-id map. They stay polygons
through all geometry and are drawn once, at the end, as COCO's tools draw them
[masqclip 7.1], each inside its own bounding box only.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from pycocotools import mask as coco_mask

from maskclip_jax import plain
from maskclip_jax.data.masks import check_outlines

if TYPE_CHECKING:
  from maskclip_jax.data.transforms.geometric import Window

Polygon = Float[np.ndarray, 'points 2']

# An instance whose box is thinner than this after cropping is dropped.
MIN_BOX_SIDE = 1e-5


@dataclasses.dataclass(frozen=True)
class Region:
  """One object of an image whose objects may overlap.

  Attributes:
    polygons: outlines as (x, y) points in pixels; their union is the object.
    bitmap: 0/1 pixels, where the dataset has no outline; None where it has.
  """

  polygons: tuple[np.ndarray, ...] = ()
  bitmap: UInt8[np.ndarray, 'h w'] | None = None


def read_region(text: str, size: tuple[int, int]) -> Region:
  """Parses the official value: a list of polygons, or run lengths.

  Polygons of whole numbers stay integers: the official mappers then round every point
  down after resizing, since they write the results into the array they came from.
  """
  value = plain.parse_json(text, 'the mask')
  if isinstance(value, list):
    check_outlines(value, size)
    return Region(
      tuple(
        np.array(polygon).reshape(-1, 2)
        for polygon in value
        if len(polygon) >= 6 and len(polygon) % 2 == 0
      )
    )
  if isinstance(value['counts'], list):
    value = coco_mask.frPyObjects(value, *value['size'])
  if tuple(value['size']) != size:
    raise ValueError(f'a mask of {value["size"]} does not fit a photo of {list(size)}')
  return Region(bitmap=np.ascontiguousarray(coco_mask.decode(value)))


def _clip_half_plane(polygon: Polygon, axis: int, bound: float, sign: int) -> Polygon:
  """The part of a polygon with `sign * coordinate <= sign * bound` on one axis."""
  if not len(polygon):
    return polygon
  following = np.roll(polygon, -1, axis=0)
  here = sign * (bound - polygon[:, axis])
  there = np.roll(here, -1)
  # Where an edge crosses the line; the division is meant only for edges that do.
  crosses = (here >= 0) != (there >= 0)
  step = np.where(crosses, here - there, 1.0)
  crossing = polygon + (here / step)[:, None] * (following - polygon)
  crossing[:, axis] = bound
  points = np.stack([polygon, crossing], axis=1).reshape(-1, 2)
  return points[np.stack([here >= 0, crosses], axis=1).reshape(-1)]


def clip_polygon(polygon: Polygon, window: 'Window') -> Polygon:
  """Clips a polygon to a window and moves it to the window's corner.

  A concave polygon that the border cuts in several pieces stays one polygon whose
  pieces hang together by lines of no area along the border. One that crosses itself
  keeps all its loops, where the official code loses the smaller ones.

  Args:
    polygon: (x, y) points, pixels.
    window: the rectangle to keep.

  Returns:
    The points of what remains, relative to the window; none when nothing does.
  """
  corner = np.array([window.left, window.top], np.float64)
  polygon = polygon - corner
  for axis, length in ((0, window.width), (1, window.height)):
    polygon = _clip_half_plane(polygon, axis, 0.0, -1)
    polygon = _clip_half_plane(polygon, axis, float(length), 1)
  return polygon if len(polygon) > 2 and _area(polygon) > 0 else polygon[:0]


def _area(polygon: Polygon) -> float:
  # Relative to one corner, so that areas of distant slivers keep their digits.
  x, y = (polygon - polygon[0]).T
  return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def has_box(polygons: Sequence[Polygon]) -> bool:
  """Whether the polygons' common box has two sides worth keeping."""
  if not polygons:
    return False
  points = np.concatenate(polygons)
  return bool((np.ptp(points, axis=0) > MIN_BOX_SIDE).all())


def pack_polygons(
  polygons: Sequence[Polygon], size: tuple[int, int]
) -> UInt8[np.ndarray, 'h bytes']:
  """Draws the union of polygons and packs it eight pixels to a byte.

  Drawn by pycocotools in the polygons' own bounding box: its rounding does not change
  under a shift by whole pixels, and a box is small where an image is large.

  Args:
    polygons: inside the image, pixels.
    size: height and width of the image.

  Returns:
    `numpy.packbits` of the mask along its rows.
  """
  height, width = size
  packed = np.zeros((height, -(-width // 8)), np.uint8)
  if not polygons:
    return packed
  points = np.concatenate(polygons)
  low = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
  low[0] -= low[0] % 8
  high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, (width, height))
  box_width, box_height = (high - low).tolist()
  if box_width <= 0 or box_height <= 0:
    return packed
  flat = [(polygon - low).reshape(-1) for polygon in polygons]
  runs = coco_mask.frPyObjects(flat, box_height, box_width)
  mask = coco_mask.decode(coco_mask.merge(runs))
  bits = np.packbits(mask, axis=1)
  packed[low[1] : high[1], low[0] // 8 : low[0] // 8 + bits.shape[1]] = bits
  return packed
