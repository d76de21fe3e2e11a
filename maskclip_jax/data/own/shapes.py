"""Shapes that people draw in annotation tools, as rows of objects.

Outlines stay outlines, painted masks become run lengths, and shapes of one group are
one object. What cannot be used is counted for people, and what is left out is left out
everywhere alike.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image
from pycocotools import mask as coco_mask

from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.captioned import short_key
from maskclip_jax.data.masks import decode_mask
from maskclip_jax.data.own import classes, files
from maskclip_jax.data.own.annotated import (
  Annotated,
  LabelledPhoto,
  Labels,
  Mask,
  OwnData,
  Row,
  row,
)
from maskclip_jax.text.category import Category

Point = tuple[float, float]
Size = tuple[int, int]
# Corners of the polygon that stands for a circle: 0.2 % of its area is missed.
_CORNERS = 64
# How far beyond the border, in pixels, an outline counts as drawn to the border.
_BORDER = 1.0


@dataclasses.dataclass(frozen=True)
class Shape:
  """A part of an object, or all of it.

  Attributes:
    label: name of its class.
    mask: polygons in pixels, or run lengths of the whole photo.
    group: shapes of one label and group are one object; None for one of its own.
  """

  label: str
  mask: Mask
  group: str | int | None = None


@dataclasses.dataclass
class Tally:
  """What happened to shapes and photos: how often, and an example."""

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  examples: dict[str, str] = dataclasses.field(default_factory=dict)

  def add(self, what: str, where: str) -> None:
    """Counts one.

    Args:
      what: happened, as 'outlines of fewer than three points, left out'.
      where: it did.
    """
    self.counts[what] = self.counts.get(what, 0) + 1
    self.examples.setdefault(what, where)

  def notes(self) -> list[str]:
    """A line for each."""
    return [
      f'{what}: {count}, such as {self.examples[what]}'
      for what, count in self.counts.items()
    ]

  def left_out(self) -> str:
    """The lines of what was left out, in brackets; '' if nothing was."""
    lines = [line for line in self.notes() if 'left out' in line]
    return f' ({"; ".join(lines)})' if lines else ''


NO_OUTLINE = 'outlines of fewer than three points, left out'
OUTSIDE = 'outlines that leave their photo, cut off at its border'
RECTANGLES = 'rectangles, taken as outlines of their objects'
PAINTED = 'panoptic maps are painted from objects, small over large'
NO_OBJECT = 'photos without an object, kept as such'


def possible(size: Size) -> bool:
  """Whether a photo that can be read has this height and width."""
  return min(size) > 0 and size[0] * size[1] <= 2 * Image.MAX_IMAGE_PIXELS


def outline(points: Sequence[Point]) -> list[float] | None:
  """A polygon's coordinates; None where its points enclose nothing."""
  if len(set(points)) < 3:
    return None
  return [float(value) for point in points for value in point]


def rectangle(
  left: float, top: float, right: float, bottom: float, degrees: float = 0
) -> list[Point]:
  """The corners of a box that is turned clockwise about its centre."""
  x, y = (left + right) / 2, (top + bottom) / 2
  cosine, sine = (f(math.radians(degrees)) for f in (math.cos, math.sin))
  corners = (left, top), (right, top), (right, bottom), (left, bottom)
  return [
    (x + (a - x) * cosine - (b - y) * sine, y + (a - x) * sine + (b - y) * cosine)
    for a, b in corners
  ]


def ellipse(centre: Point, radii: Point, degrees: float = 0) -> list[Point]:
  """Corners of an ellipse that is turned clockwise about its centre."""
  (x, y), (a, b), turn = centre, radii, math.radians(degrees)
  angles = [2 * math.pi * n / _CORNERS for n in range(_CORNERS)]
  return [
    (
      x + a * math.cos(t) * math.cos(turn) - b * math.sin(t) * math.sin(turn),
      y + a * math.cos(t) * math.sin(turn) + b * math.sin(t) * math.cos(turn),
    )
    for t in angles
  ]


def polygon(
  points: Sequence[Point], size: Size, where: str, tally: Tally
) -> Mask | None:
  """The mask of an outline; None, and counted, where it encloses nothing."""
  drawn = outline(points)
  if drawn is None:
    tally.add(NO_OUTLINE, where)
    return None
  height, width = size
  if not all(
    -_BORDER <= x <= width + _BORDER and -_BORDER <= y <= height + _BORDER
    for x, y in points
  ):
    tally.add(OUTSIDE, where)
  return [drawn]


def pasted(pixels: Bool[np.ndarray, 'h w'], left: int, top: int, size: Size) -> Mask:
  """Run lengths of a photo with a painted mask at some place of it."""
  whole = np.zeros(size, bool)
  ys, xs = np.nonzero(pixels)
  ys, xs = ys + top, xs + left
  seen = (ys >= 0) & (ys < size[0]) & (xs >= 0) & (xs < size[1])
  whole[ys[seen], xs[seen]] = True
  return _run_lengths(whole)


def rows(shapes: Sequence[Shape], ids: Mapping[str, int], size: Size) -> list[Row]:
  """Objects of the shapes of a photo, numbered from 1 in their order."""
  objects: dict[object, list[Shape]] = {}
  for position, shape in enumerate(shapes):
    alone = shape.group is None
    key = position if alone else (shape.label, shape.group)
    objects.setdefault(key, []).append(shape)
  return [
    row(number, ids[parts[0].label], _union([part.mask for part in parts], size))
    for number, parts in enumerate(objects.values(), 1)
  ]


def _union(masks: Sequence[Mask], size: Size) -> Mask:
  """One mask of several; of polygons the polygons."""
  if len(masks) == 1:
    return masks[0]
  if all(isinstance(mask, list) for mask in masks):
    return [polygon for mask in masks for polygon in mask]
  whole = np.zeros(size, bool)
  for mask in masks:
    whole |= decode_mask(row(1, 0, mask)['segmentation'], size)
  return _run_lengths(whole)


def _run_lengths(pixels: np.ndarray) -> Mask:
  found = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
  return {'size': list(pixels.shape), 'counts': found['counts'].decode()}


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A photo with shapes.

  Attributes:
    path: its path in the data, which names it, and its split if there is one.
    file: the photo.
    read: its size, upright, and its shapes; from any thread.
    split: the split that the tool's file says, if it does.
  """

  path: str
  file: RawFile
  read: Callable[[], tuple[Size, Sequence[Shape]]]
  split: str | None = None


def dataset(
  given: OwnData,
  drawn: Sequence[Drawn],
  labels: Sequence[Category],
  where: str,
  *,
  sources: Sequence,
  notes: Sequence[str],
) -> Annotated:
  """The dataset of photos with shapes.

  Args:
    given: what the person gave.
    drawn: the photos; at least one.
    labels: the classes by their names in shapes, each with an id.
    where: what names the classes, for messages.
    sources: files and folders that all of this was read from.
    notes: what was counted.

  Raises:
    ValueError: no class, or one that `given.classes` lacks.
  """
  words, guessed = classes.named(labels, given.classes, where)
  ids = {category.name: category.id for category in labels}
  by_folder = files.by_folder(one.path for one in drawn)
  splits: dict[str, list[LabelledPhoto]] = {}
  for one in drawn:
    split = one.split or by_folder.get(one.path, 'train')
    key = short_key(one.path.rpartition('.')[0] or one.path)
    splits.setdefault(split, []).append(
      LabelledPhoto(key, one.file, functools.partial(_labels, one.read, ids))
    )
  told = (*notes, *guessed, PAINTED)
  return Annotated(words, splits, ('instances',), tuple(sources), notes=told)


def _labels(
  read: Callable[[], tuple[Size, Sequence[Shape]]], ids: Mapping[str, int]
) -> Labels:
  size, shapes = read()
  return Labels(size, rows(shapes, ids, size), upright=True)
