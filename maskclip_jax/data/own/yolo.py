"""Labels of Ultralytics' YOLO for segmentation: a data.yaml, and a text for each photo.

A line is an object: the number of its class, then x and y of its outline's points as
shares of the photo's width and height. The text lies in a folder `labels` where the
photo lies in `images`, else beside it. Photos without a text, or with an empty one, are
photos where nothing is to be found. Outlines are of the upright photo.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.described import VALUES
from maskclip_jax.data.own import files, shapes
from maskclip_jax.data.own.annotated import Annotated, OwnData
from maskclip_jax.data.own.classes import listed
from maskclip_jax.data.own.photos import upright_size
from maskclip_jax.data.own.shapes import Drawn, Shape, Tally
from maskclip_jax.names import shown
from maskclip_jax.photos import SUFFIXES
from maskclip_jax.text.category import Category
from maskclip_jax.text.vocabulary_files import decode_text

_SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test'}
_ENDINGS = ('.yaml', '.yml')
# Shares of a photo are below this, also where an outline leaves it.
_LARGEST = 2.0
# An outline that ends this much beyond the photo was drawn to its border.
_ROUNDING = 1e-3
_BOXES = 'boxes without an outline, left out'
_TWICE = 'objects that stand twice in their file, taken once'


@dataclasses.dataclass(frozen=True)
class _Line:
  """An object of a label file: its class, and points as shares of the photo."""

  category: int
  points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class _Config:
  """A data.yaml.

  Attributes:
    path: of the file.
    names: of the classes, by number.
    splits: by split, what it says of where the photos are: folders, or lists of photos.
    root: what these are relative to, in its own words; '' where it says nothing.
  """

  path: pathlib.Path
  names: Mapping[int, str]
  splits: Mapping[str, Sequence[str]]
  root: str


def read(given: OwnData) -> Annotated:
  """Reads a data.yaml and the labels of the photos that it names.

  Raises:
    FileNotFoundError: no data.yaml, photos or labels.
    ValueError: they cannot be read, or hold boxes only.
  """
  images = pathlib.Path(given.images).expanduser()
  if images.is_file():
    raise ValueError(f'{images} is a file: --from yolo needs the unpacked folder')
  config = _config(given, images)
  photos = files.FileIndex(images, SUFFIXES, 'photos')
  splits, tally = _splits(config, photos, images), Tally()
  drawn: list[Drawn] = []
  found = boxes = outlines = 0
  for split, paths in splits.items():
    for path in paths:
      label = _label_file(pathlib.Path(photos.files[path].path))
      lines: list[_Line] = []
      if label.is_file():
        found += 1
        lines, without = _lines(label, config, tally)
        boxes, outlines = boxes + without, outlines + len(lines)
      if not lines:
        tally.add(shapes.NO_OBJECT, path)
      reading = functools.partial(_read, photos.files[path], lines, config.names)
      drawn.append(Drawn(path, photos.files[path], reading, split))
  if not found:
    photo = pathlib.Path(drawn[0].file.path)
    raise FileNotFoundError(
      f'none of {len(drawn)} photos has labels: those of {photo} would be '
      f'{_label_file(photo)}'
    )
  if boxes and not outlines:
    raise ValueError(
      f'{tally.examples[_BOXES]} and the other files hold {boxes} boxes and no '
      'outline: export the labels for segmentation'
    )
  labels = [Category(name, id=number) for number, name in config.names.items()]
  sources = (given.images, config.path, *_label_folders(drawn))
  notes = tally.notes()
  return shapes.dataset(
    given, drawn, labels, str(config.path), sources=sources, notes=notes
  )


def _config(given: OwnData, images: pathlib.Path) -> _Config:
  """Finds and reads the data.yaml.

  Raises:
    FileNotFoundError: there is none, or several.
    ValueError: it names no classes.
  """
  places = [pathlib.Path(path) for path in given.annotations]
  if not places:
    places = [images, images.parent]
  found: list[pathlib.Path] = []
  for place in places:
    if not place.exists():
      raise FileNotFoundError(f'there is no {place}: give the data.yaml')
    inside = sorted(place.glob('*')) if place.is_dir() else [place]
    found = [p for p in inside if p.suffix.lower() in _ENDINGS and p.is_file()]
    if found:
      break
  if len(found) != 1:
    said = listed([path.name for path in found]) or 'none'
    raise FileNotFoundError(
      f'--from yolo needs one data.yaml, and under {places[0]} there is {said}: give '
      'it as --annotations'
    )
  (path,) = found
  try:
    data = yaml.safe_load(decode_text(path.read_bytes()))
  except (yaml.YAMLError, RecursionError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(f'{path} is not valid YAML: {reason}') from None
  if not isinstance(data, dict):
    raise ValueError(f"{path} has no 'names': give the data.yaml of the labels")
  splits: dict[str, list[str]] = {}
  for key, split in _SPLITS.items():
    said = data.get(key)
    for place in said if isinstance(said, list) else [said]:
      if place:
        splits.setdefault(split, []).append(str(place))
  return _Config(
    path, _names(path, data.get('names')), splits, str(data.get('path') or '')
  )


def _names(path: pathlib.Path, names: Any) -> dict[int, str]:
  if isinstance(names, list):
    names = dict(enumerate(names))
  good = isinstance(names, dict) and all(
    isinstance(number, int) and 0 <= number < VALUES and isinstance(name, str | int)
    for number, name in names.items()
  )
  if not good or not names:
    raise ValueError(
      f"{path}: 'names' is {shown(names)}: list the classes, or give each its number "
      f'from 0 to {VALUES - 1}'
    )
  return {number: str(name) for number, name in sorted(names.items())}


def _splits(
  config: _Config, photos: files.FileIndex, images: pathlib.Path
) -> dict[str | None, list[str]]:
  """Paths of the photos by split; None for all of them where no split is named.

  Raises:
    FileNotFoundError: what the file names is not there.
  """
  if not config.splits:
    return {None: list(photos.files)}
  absolute = {
    str(pathlib.Path(file.path).absolute()): path for path, file in photos.files.items()
  }
  found: dict[str | None, list[str]] = {}
  for split, places in config.splits.items():
    paths: dict[str, None] = {}
    for said in places:
      place = _place(config, said, images)
      if place is None and split == 'test':
        continue  # Names a split that was not exported.
      if place is None:
        raise FileNotFoundError(
          f'{config.path} names {said} for {split}, which is not under {images}: give '
          'the folder of the whole dataset as --images'
        )
      inside = _listed_photos(place, photos, split, absolute)
      if not inside:
        raise FileNotFoundError(
          f'{config.path} names {place} for {split}, where no photo is: add photos, or '
          f'remove {split} from it'
        )
      paths |= dict.fromkeys(inside)
    if paths:
      found[split] = list(paths)
  return found


def _place(config: _Config, said: str, images: pathlib.Path) -> pathlib.Path | None:
  """The folder or list that is meant; paths of another computer are found by their
  end."""
  below = pathlib.PurePath(*files.normal_path(said).split('/'))
  end = pathlib.PurePath(*(part for part in below.parts if part != '..'))
  base = config.path.parent
  for place in (
    pathlib.Path(config.root, said),
    base / config.root / said,
    *(root / tail for root in (base, images, images.parent) for tail in (said, end)),
  ):
    if place.exists() and place.name:
      return place.resolve()
  return None


def _listed_photos(
  place: pathlib.Path,
  photos: files.FileIndex,
  split: str,
  absolute: Mapping[str, str],
) -> list[str]:
  """Paths of the photos in a folder, or of those that a text file lists."""
  if place.is_dir():
    root = f'{place}/'
    return [
      path
      for file, path in absolute.items()
      if file.startswith(root) or str(pathlib.Path(file).resolve()).startswith(root)
    ]
  lines = [line.strip() for line in _text(place).splitlines()]
  placed = photos.find_all(filter(None, lines), str(place), split)
  paths = {file.path: path for path, file in photos.files.items()}
  return [paths[file.path] for file in placed.values()]


def _label_file(photo: pathlib.Path) -> pathlib.Path:
  """Where the labels of a photo are: `labels` for the last `images` of its path."""
  parts = list(photo.parts)
  at = [n for n, part in enumerate(parts[:-1]) if part == 'images']
  if at:
    parts[at[-1]] = 'labels'
  return pathlib.Path(*parts).with_suffix('.txt')


def _label_folders(drawn: Sequence[Drawn]) -> list[pathlib.Path]:
  folders = {_label_file(pathlib.Path(one.file.path)).parent for one in drawn}
  return sorted(folder for folder in folders if folder.is_dir())


def _text(path: pathlib.Path) -> str:
  try:
    return decode_text(path.read_bytes())
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _lines(
  path: pathlib.Path, config: _Config, tally: Tally
) -> tuple[list[_Line], int]:
  """The objects of a label file that have an outline, and how many are boxes.

  Raises:
    ValueError: a line that is none; names it.
  """
  found: dict[_Line, None] = {}
  boxes = 0
  for number, text in enumerate(_text(path).splitlines(), 1):
    if not text.strip():
      continue
    line = _line(text, f'{path}, line {number}', config)
    if len(line.points) == 2:
      boxes += 1
      tally.add(_BOXES, str(path))
    elif len(set(line.points)) < 3:
      tally.add(shapes.NO_OUTLINE, f'line {number} of {path}')
    elif line in found:
      tally.add(_TWICE, f'line {number} of {path}')
    else:
      found[line] = None
      if not all(-_ROUNDING <= v <= 1 + _ROUNDING for p in line.points for v in p):
        tally.add(shapes.OUTSIDE, f'line {number} of {path}')
  return list(found), boxes


def _line(text: str, where: str, config: _Config) -> _Line:
  category, *rest = text.split()
  try:
    number, values = float(category), [float(value) for value in rest]
  except ValueError:
    raise ValueError(f'{where} is not numbers: {shown(text)}') from None
  if number not in config.names:
    raise ValueError(
      f'{where} is of class {category}, and {config.path.name} names '
      f'{min(config.names)} to {max(config.names)}: add its name'
    )
  if len(values) % 2 or not values:
    raise ValueError(
      f'{where} has {len(values)} numbers after its class: an outline has an x and a y '
      'for each point'
    )
  # Written so that NaN is none, either.
  if strange := [value for value in values if not abs(value) <= _LARGEST]:
    raise ValueError(
      f'{where} has the coordinate {strange[0]:g}: they are shares of width and '
      'height, from 0 to 1'
    )
  points = tuple(zip(values[::2], values[1::2], strict=True))
  return _Line(int(number), points)


def _read(
  photo: RawFile, lines: Sequence[_Line], names: Mapping[int, str]
) -> tuple[shapes.Size, list[Shape]]:
  """The upright size of a photo, and its shapes."""
  height, width = upright_size(photo)
  drawn = [
    Shape(
      names[line.category],
      [shapes.outline([(x * width, y * height) for x, y in line.points])],
    )
    for line in lines
  ]
  return (height, width), drawn
