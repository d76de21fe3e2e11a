"""Labels of CVAT: the XML of 'CVAT for images 1.1', its export of whole projects too.

Polygons, painted masks, boxes and ellipses are objects, and shapes of one label and
group are one object; lines, points, skeletons and cuboids are left out. CVAT shows
photos upright, and so are its outlines.
"""

import dataclasses
import functools
import math
import pathlib
import re
import xml.etree.ElementTree as ET

import numpy as np

from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.own import files, shapes
from maskclip_jax.data.own.annotated import Annotated, Mask, OwnData
from maskclip_jax.data.own.shapes import Drawn, Shape, Tally
from maskclip_jax.names import shown
from maskclip_jax.photos import SUFFIXES
from maskclip_jax.text.category import Category

_SHAPES = ('polygon', 'mask', 'box', 'ellipse')
# Labels of these kinds of shapes are of no objects.
_NOT_AREAS = ('points', 'polyline', 'tag', 'skeleton', 'cuboid')
_NO_AREA = 'shapes that enclose nothing, as lines, points and skeletons, left out'
_COLOUR = re.compile('#[0-9a-fA-F]{6}')


@dataclasses.dataclass(frozen=True)
class _Image:
  """A photo of an XML file."""

  name: str
  size: shapes.Size
  split: str | None
  shapes: list[Shape]


def read(given: OwnData) -> Annotated:
  """Reads XML files, or the annotations.xml of folders and zips.

  Raises:
    FileNotFoundError: a file or photo is not there.
    ValueError: a file is of another form; names it.
  """
  tally, labels = Tally(), dict[str, Category]()
  images: dict[str, _Image] = {}
  opened = _xml_files(given)
  for file in opened:
    root = _parse(file)
    _add_labels(root, file, labels)
    for element in root.iterfind('image'):
      image = _image(element, file, labels, tally)
      if image.name in images:
        raise ValueError(
          f'{file.path} lists {image.name}, which was listed before: keep one'
        )
      images[image.name] = image
  where = ' and '.join(file.path for file in opened)
  if not any(image.shapes for image in images.values()):
    raise ValueError(
      f'{where}: none of {len(images)} photos has an object with an area'
      + tally.left_out()
    )
  photos = files.FileIndex(given.images, SUFFIXES, 'photos')
  placed = photos.find_all(images, where)
  drawn = []
  for name, image in images.items():
    if not image.shapes:
      tally.add(shapes.NO_OBJECT, name)
    reading = functools.partial(_read, image)
    drawn.append(Drawn(name, placed[name], reading, image.split))
  return shapes.dataset(
    given,
    drawn,
    list(labels.values()),
    where,
    sources=(given.images, *given.annotations),
    notes=tally.notes(),
  )


def _read(image: _Image) -> tuple[shapes.Size, list[Shape]]:
  return image.size, image.shapes


def _xml_files(given: OwnData) -> list[RawFile]:
  found = []
  for place in map(pathlib.Path, given.annotations or (given.images,)):
    if place.suffix.lower() == '.xml' and place.is_file():
      found.append(RawFile(str(place), place.name, place.read_bytes))
    else:
      found += files.FileIndex(place, ('.xml',), 'XML files of CVAT').files.values()
  return found


def _parse(file: RawFile) -> ET.Element:
  """The root of an XML file.

  Raises:
    ValueError: it is not XML, or another kind of it.
  """
  try:
    root = ET.fromstring(file.read())
  except (ET.ParseError, LookupError, ValueError) as error:
    raise ValueError(
      f'{file.path} is not valid XML ({error}): export it again'
    ) from None
  if root.tag == 'annotations' and root.find('track') is not None:
    raise ValueError(
      f"{file.path} is of the form 'CVAT for video': export 'CVAT for images 1.1'"
    )
  if root.tag != 'annotations' or root.find('image') is None:
    raise ValueError(
      f"{file.path} lists no image of CVAT: export 'CVAT for images 1.1'"
    )
  return root


def _add_labels(root: ET.Element, file: RawFile, labels: dict[str, Category]) -> None:
  """Adds the labels that the head of a file lists, in their order."""
  for element in root.iterfind('meta//labels/label'):
    name = (element.findtext('name') or '').strip()
    skipped = (
      element.findtext('type') in _NOT_AREAS or element.find('parent') is not None
    )
    if not name or skipped or name in labels:
      continue
    colour = element.findtext('color') or ''
    rgb = tuple(bytes.fromhex(colour[1:])) if _COLOUR.fullmatch(colour) else None
    labels[name] = Category(name, id=len(labels), color=rgb)


def _image(
  element: ET.Element, file: RawFile, labels: dict[str, Category], tally: Tally
) -> _Image:
  """A photo and its shapes.

  Raises:
    ValueError: an attribute is missing or is no number.
  """
  name = files.normal_path(element.get('name') or '')
  where = f'{file.path}, image {name or element.get("id")}'
  if not name:
    raise ValueError(f"{where} has no 'name': export the file again")
  size = tuple(int(_number(element, side, where)) for side in ('height', 'width'))
  if not shapes.possible(size):
    raise ValueError(f'{where} is {size[1]} x {size[0]} pixels: export the file again')
  found = []
  for number, child in enumerate(element, 1):
    shape = _shape(child, size, f'{where}, shape {number}', tally)
    if shape is None:
      continue
    # The head of a file may have been removed.
    labels.setdefault(shape.label, Category(shape.label, id=len(labels)))
    found.append(shape)
  split = files.split_of(element.get('subset') or '')
  return _Image(name, size, split, found)


def _shape(
  element: ET.Element, size: shapes.Size, where: str, tally: Tally
) -> Shape | None:
  """A shape that is an object, or a part of one; None for any other.

  Raises:
    ValueError: it cannot be read.
  """
  if element.tag not in _SHAPES:
    if element.tag != 'tag':
      tally.add(_NO_AREA, where)
    return None
  label, group = (element.get('label') or '').strip(), element.get('group_id')
  if not label:
    raise ValueError(f"{where} has no 'label': export the file again")
  # 0 is for shapes without a group.
  group = None if group in (None, '', '0') else group
  if element.tag == 'mask':
    return Shape(label, _painted(element, size, where), group)
  corners = _corners(element, where)
  if element.tag == 'box':
    tally.add(shapes.RECTANGLES, where)
  mask = shapes.polygon(corners, size, where, tally)
  return None if mask is None else Shape(label, mask, group)


def _corners(element: ET.Element, where: str) -> list[shapes.Point]:
  turn = _number(element, 'rotation', where, '0')
  if element.tag == 'polygon':
    return _points(element.get('points') or '', where)
  if element.tag == 'box':
    names = ('xtl', 'ytl', 'xbr', 'ybr')
    return shapes.rectangle(*(_number(element, n, where) for n in names), turn)
  x, y, a, b = (_number(element, name, where) for name in ('cx', 'cy', 'rx', 'ry'))
  return shapes.ellipse((x, y), (a, b), turn)


def _number(
  element: ET.Element, name: str, where: str, default: str | None = None
) -> float:
  text = element.get(name, default)
  try:
    value = float(text)
  except (TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(f'{where}: {name!r} is {shown(text)} and not a number')
  return value


def _points(text: str, where: str) -> list[shapes.Point]:
  try:
    points = [tuple(map(float, pair.split(','))) for pair in text.split(';') if pair]
  except ValueError:
    points = [(math.nan,)]
  if not all(len(p) == 2 and all(map(math.isfinite, p)) for p in points):
    raise ValueError(f"{where}: 'points' is not x,y;x,y;...: {shown(text)}")
  return points


def _painted(element: ET.Element, size: shapes.Size, where: str) -> Mask:
  """A mask in its box: run lengths row by row, the first of them outside; what follows
  a last one inside may be left out.

  Raises:
    ValueError: they do not fill the box, or the box does not meet the photo.
  """
  names = ('left', 'top', 'width', 'height')
  left, top, width, height = (int(_number(element, n, where)) for n in names)
  text = element.get('rle') or ''
  try:
    runs = np.array([int(run) for run in text.split(',')], np.int64)
  except (ValueError, OverflowError):
    raise ValueError(f"{where}: 'rle' is not run lengths: {shown(text)}") from None
  inside = 0 < width <= size[1] and 0 < height <= size[0]
  # Python's sum, as large runs wrap around in 64 bits.
  covered = sum(runs.tolist())
  rest = width * height - covered
  if not inside or runs.min() < 0 or rest < 0 or (rest and len(runs) % 2):
    raise ValueError(
      f'{where}: the runs of its mask cover {covered} pixels, and its box is '
      f'{width} x {height} in a photo of {size[1]} x {size[0]}: export the file again'
    )
  values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
  return shapes.pasted(
    np.pad(values, (0, rest)).reshape(height, width), left, top, size
  )
