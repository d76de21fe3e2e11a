"""Labels of labelme: a JSON file for each photo, beside it or in a folder of its own.

Polygons, rectangles, circles and painted masks are objects, and shapes of one label and
`group_id` are one object; lines and points enclose nothing and are left out. Where a
photo is not there, the copy in its JSON file (`imageData`) is taken. labelme shows
photos upright, and so are its outlines.
"""

import base64
import binascii
import dataclasses
import functools
import io
import math
import pathlib
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from maskclip_jax import plain
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.own import files, shapes
from maskclip_jax.data.own.annotated import Annotated, Mask, OwnData
from maskclip_jax.data.own.classes import listed
from maskclip_jax.data.own.photos import upright_size
from maskclip_jax.data.own.shapes import Drawn, Shape, Tally
from maskclip_jax.names import shown
from maskclip_jax.photos import SUFFIXES
from maskclip_jax.text.category import Category

# Kinds of shapes whose points are an outline; labelme's, and those of its successors.
_POLYGONS = ('polygon', 'rotation', 'oriented_rectangle', 'quadrilateral')
# labelme's own names of what is no object.
_NOT_OBJECTS = ('__ignore__', '_background_')
_NO_AREA = 'shapes that enclose nothing, as lines and points, left out'
_EMBEDDED = 'photos that are not there, taken from their JSON files'
_NO_CLASS = f'shapes called {" or ".join(_NOT_OBJECTS)}, left out'


@dataclasses.dataclass(frozen=True)
class _File:
  """What a JSON file holds.

  Attributes:
    raw: the file.
    photo: path of the photo, beside the file.
    size: of the picture that was labelled; None in files of early versions.
    shapes: as they stand there.
    embedded: whether the photo is in it as well.
  """

  raw: RawFile
  photo: str
  size: shapes.Size | None
  shapes: list[Any]
  embedded: bool


def read(given: OwnData) -> Annotated:
  """Reads the JSON files under `annotations`, or else under `images`.

  Raises:
    FileNotFoundError: there are none, or photos are not there.
    ValueError: a file is not labelme's; names it.
  """
  found = _json_files(given.annotations or (given.images,))
  try:
    photos = files.FileIndex(given.images, SUFFIXES, 'photos')
  except FileNotFoundError:
    if not pathlib.Path(given.images).expanduser().exists():
      raise
    photos = None  # They may all be in the JSON files.
  tally, drawn, missing = Tally(), [], []
  labels: set[str] = set()
  for path, raw in found.items():
    file = _open(raw)
    photo = _photo(path, file, photos, tally)
    if photo is None:
      missing.append(file.photo)
      continue
    _, objects = _shapes(file, photo, tally)
    labels |= {shape.label for shape in objects}
    if not objects:
      tally.add(shapes.NO_OBJECT, path)
    drawn.append(Drawn(path, photo, functools.partial(_read, raw, photo)))
  if missing:
    raise FileNotFoundError(
      f'{len(missing)} of {len(found)} photos are neither under {given.images} nor in '
      f'their JSON files ({listed(missing)}): add them'
    )
  if not labels:
    raise ValueError(
      f'none of {len(found)} labelme files has an object with an outline'
      + tally.left_out()
    )
  categories = [Category(name, id=n) for n, name in enumerate(sorted(labels))]
  sources = (given.images, *given.annotations)
  where = f'a labelme file under {(given.annotations or (given.images,))[0]}'
  return shapes.dataset(
    given, drawn, categories, where, sources=sources, notes=tally.notes()
  )


def _json_files(places: Sequence) -> dict[str, RawFile]:
  """The JSON files of files and folders, by their paths there; of several folders the
  path begins with the folder's name.

  Raises:
    FileNotFoundError: a folder has none.
    ValueError: two files of one path.
  """
  found: dict[str, RawFile] = {}
  for place in map(pathlib.Path, places):
    if place.suffix.lower() == '.json' and place.is_file():
      here = {place.name: RawFile(str(place), place.name, place.read_bytes)}
    else:
      here = files.FileIndex(place, ('.json',), 'labelme files').files
      if len(places) > 1:
        here = {f'{place.name}/{path}': file for path, file in here.items()}
    if both := sorted(set(found) & set(here)):
      raise ValueError(
        f'{found[both[0]].path} and {here[both[0]].path} have one name: give the '
        'folder above them'
      )
    found |= here
  return found


def _photo(
  path: str, file: _File, photos: files.FileIndex | None, tally: Tally
) -> RawFile | None:
  """The photo of a JSON file, which lies at some path; None if there is none."""
  beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), file.photo))
  found = photos and photos.find(beside)
  if found or not file.embedded:
    return found
  tally.add(_EMBEDDED, file.photo)
  name = file.photo.rpartition('/')[2]
  return RawFile(
    f'{file.raw.path}:{name}', name, functools.partial(_embedded, file.raw)
  )


def _embedded(file: RawFile) -> bytes:
  """The photo in a JSON file."""
  data = plain.parse_json(file.read(), file.path)['imageData']
  return _base64(data, f'{file.path}: imageData')


def _base64(text: Any, where: str) -> bytes:
  try:
    return base64.b64decode(text, validate=False)
  except (binascii.Error, TypeError, ValueError) as error:
    raise ValueError(f'{where} is not base64 ({error}): save the file again') from None


def _read(raw: RawFile, photo: RawFile) -> tuple[shapes.Size, list[Shape]]:
  return _shapes(_open(raw), photo, Tally())


def _open(raw: RawFile) -> _File:
  """Reads a JSON file.

  Raises:
    ValueError: it is not labelme's.
  """
  data = plain.parse_json(raw.read(), raw.path)
  listed_shapes = data.get('shapes') if isinstance(data, dict) else None
  if not isinstance(listed_shapes, list):
    raise ValueError(
      f"{raw.path} has no 'shapes': it is not a labelme file, give a folder of those "
      'alone'
    )
  size = data.get('imageHeight'), data.get('imageWidth')
  if size == (None, None):
    size = None
  elif not (all(isinstance(side, int) for side in size) and shapes.possible(size)):
    raise ValueError(
      f"{raw.path}: 'imageHeight' and 'imageWidth' are {shown(size[0])} and "
      f'{shown(size[1])}: save it again in labelme'
    )
  path = data.get('imagePath')
  if not isinstance(path, str) or not files.normal_path(path):
    path = f'{raw.stem}.jpg'
  embedded = isinstance(data.get('imageData'), str)
  return _File(raw, path.replace('\\', '/'), size, listed_shapes, embedded)


def _shapes(
  file: _File, photo: RawFile, tally: Tally
) -> tuple[shapes.Size, list[Shape]]:
  """The size of the upright photo, and the shapes that are objects.

  Raises:
    ValueError: a shape, or the photo, cannot be read.
  """
  size = file.size or upright_size(photo)
  found = [
    _shape(entry, size, f'{file.raw.path}, shape {number}', tally)
    for number, entry in enumerate(file.shapes, 1)
  ]
  return size, [shape for shape in found if shape is not None]


def _shape(entry: Any, size: shapes.Size, where: str, tally: Tally) -> Shape | None:
  """A shape that is an object, or a part of one; None for any other.

  Raises:
    ValueError: it cannot be read.
  """
  if not isinstance(entry, dict) or not isinstance(entry.get('label'), str):
    raise ValueError(f"{where} has no 'label': save the file again in labelme")
  label, kind = entry['label'].strip(), entry.get('shape_type') or 'polygon'
  if not label:
    raise ValueError(f'{where} has an empty label: name its class in labelme')
  if label in _NOT_OBJECTS:
    tally.add(_NO_CLASS, where)
    return None
  group = entry.get('group_id')
  if not (group is None or isinstance(group, int | str)):
    raise ValueError(f"{where}: 'group_id' is {shown(group)} and not a number")
  points = _points(entry.get('points'), where)
  if kind == 'mask':
    return Shape(label, _painted(entry.get('mask'), points, size, where), group)
  corners = _corners(kind, points, where)
  if corners is None:
    tally.add(_NO_AREA, where)
    return None
  if kind == 'rectangle':
    tally.add(shapes.RECTANGLES, where)
  mask = shapes.polygon(corners, size, where, tally)
  return None if mask is None else Shape(label, mask, group)


def _points(values: Any, where: str) -> list[shapes.Point]:
  good = isinstance(values, list) and all(
    isinstance(point, list)
    and len(point) == 2
    and all(isinstance(v, int | float) and math.isfinite(v) for v in point)
    for point in values
  )
  if not good:
    raise ValueError(f"{where}: 'points' is not a list of [x, y]: {shown(values)}")
  return [(float(x), float(y)) for x, y in values]


def _corners(
  kind: str, points: list[shapes.Point], where: str
) -> list[shapes.Point] | None:
  """The outline of a shape; None for kinds that enclose nothing.

  Raises:
    ValueError: a rectangle or circle of another number of points.
  """
  if kind in _POLYGONS or (kind == 'rectangle' and len(points) == 4):
    return points
  if kind not in ('rectangle', 'circle'):
    return None
  if len(points) != 2:
    raise ValueError(f'{where} is a {kind} of {len(points)} points, and not of two')
  (x0, y0), (x1, y1) = points
  if kind == 'rectangle':
    return shapes.rectangle(x0, y0, x1, y1)
  radius = math.hypot(x1 - x0, y1 - y0)
  return shapes.ellipse((x0, y0), (radius, radius))


def _painted(
  text: Any, points: Sequence[shapes.Point], size: shapes.Size, where: str
) -> Mask:
  """A mask that lies in a box, as run lengths of the photo.

  Raises:
    ValueError: it is no picture, or of another size than its box.
  """
  if len(points) != 2:
    raise ValueError(f'{where} is a mask without the two corners of its box')
  try:
    with Image.open(io.BytesIO(_base64(text, f'{where}: mask'))) as image:
      pixels = np.asarray(image.convert('L')) > 0
  except UnidentifiedImageError:
    raise ValueError(
      f'{where}: its mask is not a picture: save the file again in labelme'
    ) from None
  except (OSError, SyntaxError) as error:
    raise ValueError(f'{where}: its mask is damaged ({error})') from None
  (left, top), (right, bottom) = ((round(x), round(y)) for x, y in points)
  box = bottom - top + 1, right - left + 1
  # Other programs round the corners as they like.
  if max(abs(a - b) for a, b in zip(pixels.shape, box, strict=True)) > 1:
    raise ValueError(
      f'{where}: its mask is {pixels.shape[1]} x {pixels.shape[0]} and its box '
      f'{box[1]} x {box[0]}: save the file again in labelme'
    )
  return shapes.pasted(pixels, left, top, size)
