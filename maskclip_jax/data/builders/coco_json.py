"""Reading COCO's annotation files into rows per image, ids and values kept."""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskclip_jax import plain
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.names import shown
from maskclip_jax.text.vocabulary import Vocabulary

Rows = dict[int, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Panoptic:
  """What a panoptic JSON says about one image."""

  file_name: str
  segments: list[dict[str, Any]]


def load(
  file: RawFile, *keys: str, remedy: str = 'download its archive again'
) -> dict[str, Any]:
  """Parses a JSON file that must have some lists of rows.

  Args:
    file: the file.
    *keys: names of the lists.
    remedy: what to do where it is not JSON, or has something else in a list.

  Raises:
    ValueError: it is not JSON, or of another kind; or one of the rows is not an object.
  """
  try:
    data = plain.parse_json(file.read(), file.path)
  except ValueError as error:
    raise ValueError(f'{error}: {remedy}') from error
  for key in keys:
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
      raise ValueError(
        f'{file.path} has no {key!r}: it is another kind of annotation file'
      )
    for position, row in enumerate(data[key]):
      if not isinstance(row, dict):
        raise ValueError(
          f"{file.path}: row {position} of '{key}' is {shown(row)} and not an object: "
          f'{remedy}'
        )
  return data


def _field(file: RawFile, row: Mapping[str, Any], name: str) -> Any:
  if name not in row:
    raise ValueError(f'{file.path}: a row lacks {name!r}: {shown(row)}')
  return row[name]


def _number(file: RawFile, row: Mapping[str, Any], name: str) -> int:
  """A whole number that fits 64 bits; '9' and 9.0, as other tools write 9, are 9.

  Raises:
    ValueError: it is anything else.
  """
  value = _field(file, row, name)
  number = value if isinstance(value, int) and not isinstance(value, bool) else None
  if (isinstance(value, str) and re.fullmatch(r'\s*\d{1,19}\s*', value)) or (
    isinstance(value, float) and value.is_integer()
  ):
    number = int(value)
  if number is None or not 0 <= number < 2**63:
    raise ValueError(
      f'{file.path}: {name!r} is {shown(value)} in a row, and not a whole number from '
      '0 to 2^63 - 1: number the rows'
    )
  return number


def photos(
  file: RawFile, data: Mapping[str, Any], *, folders: bool = False
) -> dict[int, str]:
  """File name of each photo, by image id, ascending.

  Args:
    file: where the data comes from, for messages.
    data: what `load` returned.
    folders: keep the folder in a name.

  Raises:
    ValueError: an id or a file is listed twice: whose labels are whose is not known.
  """
  names: dict[int, str] = {}
  owners: dict[str, int] = {}
  for row in data['images']:
    number, name = _number(file, row, 'id'), _field(file, row, 'file_name')
    if not isinstance(name, str):
      raise ValueError(f"{file.path}: 'file_name' of image {number} is {shown(name)}")
    name = name.replace('\\', '/')
    name = name if folders else name.rpartition('/')[2]
    if number in names:
      raise ValueError(
        f'{file.path} lists the image id {number} twice, for {names[number]} and '
        f'{name}: give every photo an id of its own'
      )
    if name in owners:
      raise ValueError(
        f'{file.path} lists {name} twice, as image {owners[name]} and {number}: list '
        'every photo once'
      )
    names[number], owners[name] = name, number
  return dict(sorted(names.items()))


def sizes(file: RawFile, data: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
  """Height and width of the photos, by image id, as far as they are listed."""
  found = {}
  for row in data['images']:
    size = row.get('height'), row.get('width')
    if all(isinstance(side, int) and side > 0 for side in size):
      found[_number(file, row, 'id')] = size
  return found


def category(file: RawFile, row: Mapping[str, Any]) -> tuple[int, str]:
  """Id and name of a category.

  Raises:
    ValueError: it lacks one, or they are of another type.
  """
  number, name = _number(file, row, 'id'), _field(file, row, 'name')
  if not isinstance(name, str):
    raise ValueError(
      f"{file.path}: 'name' of category {number} is {shown(name)}, and not a text: "
      'write the name of the class'
    )
  return number, name


def _image_id(file: RawFile, row: Mapping[str, Any], known: Mapping[int, Any]) -> int:
  number = _number(file, row, 'image_id')
  if number not in known:
    raise ValueError(
      f"{file.path} has labels of image {number}, which its 'images' do not list: its "
      'labels would be lost, list the photo'
    )
  return number


def instances(
  file: RawFile,
  data: Mapping[str, Any],
  known: Mapping[int, Any],
  classes: Mapping[int, int],
) -> Rows:
  """Rows of `instances_*.json` by image id; masks stay as the file has them.

  Args:
    file: where the data comes from, for messages.
    data: what `load` returned.
    known: the photos of the file, by image id.
    classes: class index by category id.

  Raises:
    ValueError: a row that cannot be read, or that belongs to no photo.
  """
  rows: Rows = collections.defaultdict(list)
  for position, annotation in enumerate(data['annotations']):
    image_id = _image_id(file, annotation, known)
    row = _row(file, annotation, classes, image_id, position)
    outline = _segmentation(file, annotation, row['id'])
    row['segmentation'] = json.dumps(outline, separators=(',', ':'))
    rows[image_id].append(row)
  return rows


def _segmentation(file: RawFile, row: Mapping[str, Any], number: int) -> Any:
  """A mask as the file has it: run lengths, or a list of polygons (perhaps of none).

  Raises:
    ValueError: it is neither.
  """
  value = row.get('segmentation')
  if value is None:
    return []
  if isinstance(value, list):
    # Some tools write the only polygon without the list around it.
    polygons = [value] if value and not isinstance(value[0], list) else value
    if all(_is_numbers(polygon) for polygon in polygons):
      if odd := [len(p) for p in polygons if len(p) > 6 and len(p) % 2]:
        raise ValueError(
          f'{file.path}: an outline of object {number} has {odd[0]} coordinates, and '
          'every point two: correct it, or export the labels again'
        )
      return polygons
  elif isinstance(value, dict) and {'counts', 'size'} <= set(value):
    return value
  raise ValueError(
    f'{file.path}: the segmentation of object {number} is neither polygons nor run '
    f'lengths: {json.dumps(value)[:60]}'
  )


def _is_numbers(values: Any) -> bool:
  return isinstance(values, list) and all(
    isinstance(value, int | float) and abs(value) < 2**53 for value in values
  )


def panoptic(
  file: RawFile,
  data: Mapping[str, Any],
  known: Mapping[int, Any],
  classes: Mapping[int, int],
) -> dict[int, Panoptic]:
  """Rows of `panoptic_*.json` by image id; arguments and errors as for `instances`."""
  found: dict[int, Panoptic] = {}
  for annotation in data['annotations']:
    image_id = _image_id(file, annotation, known)
    if image_id in found:
      raise ValueError(
        f'{file.path} has two panoptic maps of image {image_id}: keep one'
      )
    name = str(_field(file, annotation, 'file_name')).replace('\\', '/')
    name = name.rpartition('/')[2]
    segments = _field(file, annotation, 'segments_info')
    if not isinstance(segments, list) or not all(isinstance(s, dict) for s in segments):
      raise ValueError(
        f"{file.path}: 'segments_info' of image {image_id} is not a list of objects"
      )
    rows = [
      _row(file, segment, classes, image_id, position)
      for position, segment in enumerate(segments)
    ]
    found[image_id] = Panoptic(name, rows)
  return found


def captions(
  file: RawFile, data: Mapping[str, Any], known: Mapping[int, Any]
) -> dict[int, list[str]]:
  """Captions by image id, in the order of their own ids."""
  sentences = collections.defaultdict(list)
  rows = [(_number(file, row, 'id'), row) for row in data['annotations']]
  for _, row in sorted(rows, key=lambda pair: pair[0]):
    sentence = _field(file, row, 'caption')
    if not isinstance(sentence, str):
      raise ValueError(f'{file.path}: caption {row["id"]} is not text')
    sentences[_image_id(file, row, known)].append(sentence)
  return sentences


def karpathy(file: RawFile, data: Mapping[str, Any]) -> dict[int, str]:
  """Name of the Karpathy split by image id: 'karpathy_train', 'karpathy_restval'..."""
  return {
    _number(file, row, 'cocoid'): f'karpathy_{_field(file, row, "split")}'
    for row in data['images']
  }


def _row(
  file: RawFile,
  row: Mapping[str, Any],
  classes: Mapping[int, int],
  image_id: int,
  position: int,
) -> dict[str, Any]:
  """The columns of an object or a segment; what a file may lack is None.

  Ids count objects, so one that is absent is the position in the file.
  """
  category = _number(file, row, 'category_id')
  if category not in classes:
    raise ValueError(
      f'{file.path}: image {image_id} has category {category}, which is none of the '
      f"{len(classes)} in its 'categories': list it there, or use the file as it was "
      'published'
    )
  bbox, area = row.get('bbox'), row.get('area')
  if bbox is not None and not (_is_numbers(bbox) and len(bbox) == 4):
    raise ValueError(
      f'{file.path}: a bbox of image {image_id} is {shown(bbox)}, and not [x, y, '
      'width, height]'
    )
  if area is not None and not _is_numbers([area]):
    raise ValueError(f'{file.path}: an area of image {image_id} is {shown(area)}')
  return {
    'id': position if row.get('id') is None else _number(file, row, 'id'),
    'class': classes[category],
    'category_id': category,
    'crowd': _flag(file, row, 'iscrowd', image_id),
    'area': area,
    'bbox': bbox,
  }


def _flag(file: RawFile, row: Mapping[str, Any], name: str, image_id: int) -> bool:
  """A 0 or 1, perhaps as text; absent and null are 0.

  Raises:
    ValueError: it is anything else.
  """
  value = row.get(name)
  if value is None or value in (0, 1):
    return bool(value)
  if value in ('0', '1'):
    return value == '1'
  raise ValueError(
    f'{file.path}: {name!r} of an object of image {image_id} is {shown(value)}, and '
    'neither 0 nor 1'
  )


def official_classes(
  file: RawFile,
  categories: Sequence[Mapping[str, Any]],
  vocabulary: Vocabulary,
  *,
  flags: bool,
) -> dict[int, int]:
  """Class index by category id, after comparing the file's list with ours.

  Raises:
    ValueError: a category of the file has another name, or thing flag, than COCO's.
  """
  known = {category.id: category for category in vocabulary.classes}
  listed = {_number(file, entry, 'id'): entry for entry in categories}
  for number, entry in listed.items():
    ours, name = known.get(number), _field(file, entry, 'name')
    if ours is None or name != ours.name:
      _refuse(file, entry, f'COCO calls it {ours.name!r}' if ours else 'COCO has none')
    if flags and bool(_field(file, entry, 'isthing')) != ours.thing:
      _refuse(file, entry, f'it is {"a thing" if ours.thing else "stuff"} in COCO')
  lacking = set(known) - set(listed)
  if lacking and (flags or any(known[number].thing for number in lacking)):
    raise ValueError(
      f'{file.path} lists no category {min(lacking)} ({known[min(lacking)].name}): it '
      "is of another release or was changed, use the owners' file"
    )
  index: Callable[[int], int] = [c.id for c in vocabulary.classes].index
  return {number: index(number) for number in listed}


def _refuse(file: RawFile, entry: Mapping[str, Any], why: str) -> None:
  kind = {0: ', stuff', 1: ', a thing'}.get(entry.get('isthing'), '')
  raise ValueError(
    f'{file.path} lists category {entry["id"]} as {shown(entry["name"])}{kind}, but '
    f"{why}: ids were swapped or the file is not COCO 2017's; use the owners' file, or "
    'build classes of your own by `data build NAME --from coco`'
  )
