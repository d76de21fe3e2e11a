"""Labels in COCO's JSON: objects with outlines, panoptic maps, or both."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from maskclip_jax.data.builders import coco_json
from maskclip_jax.data.builders.files import check_ids, read_labels
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.captioned import short_key
from maskclip_jax.data.own import classes, files, shapes
from maskclip_jax.data.own.annotated import (
  Annotated,
  LabelledPhoto,
  LabelMap,
  Labels,
  OwnData,
  Row,
)
from maskclip_jax.names import shown
from maskclip_jax.photos import SUFFIXES
from maskclip_jax.text.category import normal
from maskclip_jax.text.vocabulary import Vocabulary

_KEYS = ('images', 'annotations', 'categories')
_REMEDY = 'export it again'
# Objects of a file whose outlines tell how it is written.
_LOOKED_AT = 100


@dataclasses.dataclass(frozen=True)
class _File:
  """One JSON file.

  Attributes:
    file: the file.
    data: what it holds.
    panoptic: it lists segments of PNG files, and not objects.
    split: the one that it is named after, if any.
  """

  file: RawFile
  data: dict[str, Any]
  panoptic: bool
  split: str | None


@dataclasses.dataclass
class _Photo:
  """What the files say of one photo."""

  number: int
  size: tuple[int, int] | None
  objects: list[Row] | None = None
  segments: tuple[RawFile, list[Row]] | None = None


def read(given: OwnData) -> Annotated:
  """Reads JSON files of objects, and panoptic ones with their PNG in a folder beside.

  Files (or their folders) that are named after a split are that split; files of one
  split are joined, by the names of the photos.

  Raises:
    FileNotFoundError: a file is not there, or a photo or PNG that it names.
    ValueError: a file is not of this form, or its rows contradict each other.
  """
  if not given.annotations:
    raise ValueError('--from coco needs --annotations: the JSON files')
  places = [pathlib.Path(path) for path in given.annotations]
  listed = [sorted(p.glob('*.json')) if p.is_dir() else [p] for p in places]
  opened = [_open(path) for path in itertools.chain(*listed)]
  if not opened:
    raise FileNotFoundError(
      f'no JSON file in {places[0]}: give the files of the labels'
    )
  if any(one.split == 'train' for one in opened):
    # What is named after no split is for training, and joined with what says so.
    opened = [dataclasses.replace(one, split=one.split or 'train') for one in opened]
  photos = files.FileIndex(given.images, SUFFIXES, 'photos')
  words, index, notes = _classes(opened, given)
  joiner = _Joiner(words, index, notes)
  splits: dict[str, list[LabelledPhoto]] = {}
  tally = shapes.Tally()
  for split in dict.fromkeys(one.split for one in opened):
    here = [one for one in opened if one.split == split]
    found = joiner.join(here)
    where = ' and '.join(one.file.name for one in here)
    placed = photos.find_all(found, where, split)
    by_folder = {} if split else files.by_folder(found)
    keys = _keys(found)
    for name, photo in found.items():
      if not photo.objects and photo.segments is None:
        tally.add(shapes.NO_OBJECT, name)
      read_one = functools.partial(_labels, photo)
      mine = split or by_folder.get(name, 'train')
      splits.setdefault(mine, []).append(
        LabelledPhoto(keys[name], placed[name], read_one)
      )
  kinds = {one.panoptic for one in opened}
  fields = ('segments',) * (True in kinds) + ('instances',) * (False in kinds)
  if fields == ('instances',):
    joiner.notes.append(shapes.PAINTED)
  maps = [_folder(one) for one in opened if one.panoptic]
  sources = (given.images, *given.annotations, *maps)
  return Annotated(
    words, splits, fields, sources, notes=(*joiner.notes, *tally.notes())
  )


def _open(path: pathlib.Path) -> _File:
  if not path.is_file():
    raise FileNotFoundError(f'no annotation file {path}: give an existing JSON file')
  file = RawFile(str(path), path.name, path.read_bytes)
  data = coco_json.load(file, *_KEYS, remedy=_REMEDY)
  rows = data['annotations']
  if not rows:
    raise ValueError(
      f'{path} has no annotations: export the labels, and not only photos'
    )
  if 'caption' in rows[0]:
    raise ValueError(f'{path} holds captions: --from captions reads those')
  split = files.split_of(path.stem) or files.split_of_folder(path.parent.name)
  return _File(file, data, 'segments_info' in rows[0], split)


def _classes(
  opened: Sequence[_File], given: OwnData
) -> tuple[Vocabulary, dict[int, int], list[str]]:
  """The classes of all files, class index by category id, and notes.

  Raises:
    ValueError: the files contradict each other about a category.
  """
  entries: dict[int, tuple[dict[str, Any], RawFile]] = {}
  # Panoptic files list stuff as well, and say which is which.
  for one in sorted(opened, key=lambda one: not one.panoptic):
    for entry in one.data['categories']:
      number, name = coco_json.category(one.file, entry)
      name = ' '.join(name.split())
      entry = {**entry, 'id': number, 'name': name}
      other, first = entries.setdefault(number, (entry, one.file))
      if other['name'] != name:
        raise ValueError(
          f'{first.path} lists category {number} as {shown(other["name"])}, and '
          f'{one.file.name} as {shown(name)}: give every class one number everywhere'
        )
  where = opened[0].file.path
  if not entries:
    raise ValueError(f'{where} lists no categories: export the classes with the labels')
  kept, notes = _without_doubles(
    {number: entry for number, (entry, _) in entries.items()}, opened
  )
  try:
    found = Vocabulary.from_json({'categories': list(kept.values())}).classes
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
  told = [number for number, entry in kept.items() if 'isthing' in entry]
  words, more = classes.named(found, given.classes, where, told)
  index = {category.id: i for i, category in enumerate(words.classes)}
  words, renumbered = classes.numbered(words)
  return words, index, notes + more + renumbered


def _without_doubles(
  entries: Mapping[int, dict[str, Any]], opened: Sequence[_File]
) -> tuple[dict[int, dict[str, Any]], list[str]]:
  """Leaves out categories that no row is of and whose name another one has, as some
  tools write for a whole project."""
  counts: dict[str, int] = {}
  for entry in entries.values():
    counts[normal(str(entry['name']))] = counts.get(normal(str(entry['name'])), 0) + 1
  doubled = {n for n, e in entries.items() if counts[normal(str(e['name']))] > 1}
  if not doubled:
    return dict(entries), []
  used = {
    str(row.get('category_id'))
    for one in opened
    for annotation in one.data['annotations']
    for row in annotation.get('segments_info') or [annotation]
    if isinstance(row, dict)
  }
  unused = sorted(number for number in doubled if str(number) not in used)
  notes = [
    f'category {number} ({entries[number]["name"]}) is listed twice and never used: '
    'left out'
    for number in unused
  ]
  return {n: entry for n, entry in entries.items() if n not in unused}, notes


class _Joiner:
  """Joins what files say, photo by photo.

  Attributes:
    notes: what people should know; a line each.

  Args:
    words: the classes.
    index: class index by category id of the files.
    notes: of what was read before.
  """

  def __init__(self, words: Vocabulary, index: Mapping[int, int], notes: Sequence[str]):
    self._ids = [category.id for category in words.classes]
    self._index, self.notes = index, list(notes)

  def join(self, here: Sequence[_File]) -> dict[str, _Photo]:
    """What the files of one split say, by name of the photo.

    Raises:
      FileNotFoundError: PNG files of a panoptic file are missing.
      ValueError: a photo that some of the files lack, or rows that cannot be read.
    """
    found: dict[str, _Photo] = {}
    listed: dict[bool, set[str]] = {}
    for one in here:
      names = coco_json.photos(one.file, one.data, folders=True)
      names = {number: files.normal_path(name) for number, name in names.items()}
      listed.setdefault(one.panoptic, set()).update(names.values())
      sizes = coco_json.sizes(one.file, one.data)
      photos = {
        number: found.setdefault(name, _Photo(number, sizes.get(number)))
        for number, name in names.items()
      }
      add = self._add_segments if one.panoptic else self._add_objects
      add(one, photos)
    self.notes.extend(_renumbered(found))
    if len(listed) == 2 and (odd := sorted(listed[True] ^ listed[False])):
      which = 'panoptic' if odd[0] in listed[True] else 'instances'
      raise ValueError(
        f'only the {which} file lists {odd[0]} ({len(odd)} such photos): give files of '
        'the same photos'
      )
    return found

  def _add_objects(self, one: _File, photos: Mapping[int, _Photo]) -> None:
    """Adds the objects of a file to its photos, by the number that it gives them."""
    rows = coco_json.instances(one.file, one.data, photos, self._index)
    lost = [row for some in rows.values() for row in some if not _has_outline(row)]
    total = sum(map(len, rows.values()))
    if len(lost) == total:
      raise ValueError(
        f'{one.file.path}: none of the {total} objects has an outline, only boxes: '
        'label outlines or masks'
      )
    if lost:
      self.notes.append(
        f'{len(lost)} of {total} objects in {one.file.name} have no outline of three '
        f'points or more, such as object {lost[0]["id"]}: left out'
      )
    if _in_shares([row for some in rows.values() for row in some if _has_outline(row)]):
      raise ValueError(
        f'{one.file.path}: no outline leaves the first pixel of its photo: these are '
        'shares, multiply x by the width and y by the height'
      )
    for number, photo in photos.items():
      kept = [row for row in rows.get(number, ()) if _has_outline(row)]
      photo.objects = (photo.objects or []) + self._of_classes(kept)

  def _add_segments(self, one: _File, photos: Mapping[int, _Photo]) -> None:
    """The same for the segments of a panoptic file."""
    listed = coco_json.panoptic(one.file, one.data, photos, self._index)
    maps = files.FileIndex(_folder(one), ('.png',), 'panoptic PNG')
    names = [panoptic.file_name for panoptic in listed.values()]
    placed = maps.find_all(names, one.file.name)
    for number, panoptic in listed.items():
      if photos[number].segments is not None:
        raise ValueError(
          f'{one.file.path} and another file have panoptic maps of one photo '
          f'({panoptic.file_name}): keep one'
        )
      rows = self._of_classes(panoptic.segments)
      photos[number].segments = placed[panoptic.file_name], rows

  def _of_classes(self, rows: Sequence[Row]) -> list[Row]:
    """Rows with the ids of the classes, which may be others than the file's."""
    return [{**row, 'category_id': self._ids[row['class']]} for row in rows]


def _renumbered(found: Mapping[str, _Photo]) -> list[str]:
  """Gives the objects of a photo ids of their own, where several have one; tells it."""
  count = 0
  for photo in found.values():
    rows = photo.objects or []
    if len({row['id'] for row in rows}) < len(rows):
      count += 1
      photo.objects = [{**row, 'id': i} for i, row in enumerate(rows, 1)]
  if not count:
    return []
  return [f'in {count} photos several objects had one id: they were numbered anew']


def _has_outline(row: Row) -> bool:
  text = row['segmentation']
  return text.startswith('{') or any(
    part.count(',') >= 5 for part in text[1:-1].split('],[')
  )


def _in_shares(rows: Sequence[Row]) -> bool:
  """Whether outlines are given as shares of the width and height."""
  outlines = [json.loads(row['segmentation']) for row in rows[:_LOOKED_AT]]
  polygons = [part for one in outlines if isinstance(one, list) for part in one]
  return bool(polygons) and all(0 <= value <= 1 for part in polygons for value in part)


def _folder(one: _File) -> pathlib.Path:
  """Where the PNG files of a panoptic JSON lie: beside it, in a folder of its name.

  Raises:
    FileNotFoundError: there is no such folder or archive.
  """
  path = pathlib.Path(one.file.path)
  for place in (path.parent, path.parent.parent):
    for name in (path.stem, f'{path.stem}.zip', 'panoptic', 'panoptic.zip'):
      if (place / name).exists():
        return place / name
  raise FileNotFoundError(
    f'{path} is a panoptic file, and its PNG files are not beside it: put them into '
    f'{path.parent / path.stem}/'
  )


def _keys(found: Mapping[str, _Photo]) -> dict[str, str]:
  """The key of each photo: its number, or its path where numbers are not their own."""
  numbers = [photo.number for photo in found.values()]
  if len(set(numbers)) == len(numbers):
    return {name: str(photo.number) for name, photo in found.items()}
  return {name: short_key(name.rpartition('.')[0] or name) for name in found}


def _labels(photo: _Photo) -> Labels:
  if photo.segments is None:
    return Labels(photo.size, photo.objects)
  file, rows = photo.segments
  png, values = read_labels(file, photo.size)
  check_ids(file, values, [row['id'] for row in rows])
  return Labels(values.shape, photo.objects, LabelMap(png, values, rows))
