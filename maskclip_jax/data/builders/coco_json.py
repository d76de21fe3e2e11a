"""Reading COCO's annotation files into rows per image, ids and values kept."""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.text.vocabulary import Vocabulary

Rows = dict[int, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Panoptic:
  """What a panoptic JSON says about one image."""

  file_name: str
  segments: list[dict[str, Any]]


def load(file: RawFile, *keys: str) -> dict[str, Any]:
  """Parses a JSON file that must have some keys.

  Raises:
    ValueError: it is not JSON, or of another kind.
  """
  try:
    data = json.loads(file.read())
  except ValueError as error:
    raise ValueError(
      f'{file.path} is not a complete JSON ({error}): download its archive again'
    ) from error
  lacking = [key for key in keys if key not in data]
  if lacking:
    raise ValueError(
      f'{file.path} has no {lacking[0]!r}: it is another kind of annotation file'
    )
  return data


def photos(data: Mapping[str, Any]) -> dict[int, str]:
  """File name of each photo, by image id, ascending."""
  return {row['id']: row['file_name'] for row in sorted(data['images'], key=_id)}


def _id(row: Mapping[str, Any]) -> int:
  return row['id']


def instances(file: RawFile, data: Mapping[str, Any], vocabulary: Vocabulary) -> Rows:
  """Rows of `instances_*.json` by image id; masks stay as the file has them."""
  classes = _classes(file, data['categories'], vocabulary, flags=False)
  rows: Rows = collections.defaultdict(list)
  for annotation in data['annotations']:
    segmentation = json.dumps(annotation['segmentation'], separators=(',', ':'))
    row = _row(file, annotation, classes, annotation['image_id'])
    rows[annotation['image_id']].append({**row, 'segmentation': segmentation})
  return rows


def panoptic(
  file: RawFile, data: Mapping[str, Any], vocabulary: Vocabulary
) -> dict[int, Panoptic]:
  """Rows of `panoptic_*.json` by image id."""
  classes = _classes(file, data['categories'], vocabulary, flags=True)
  return {
    annotation['image_id']: Panoptic(
      annotation['file_name'],
      [
        _row(file, segment, classes, annotation['image_id'])
        for segment in annotation['segments_info']
      ],
    )
    for annotation in data['annotations']
  }


def captions(data: Mapping[str, Any]) -> dict[int, list[str]]:
  """Captions by image id, in the order of their own ids."""
  sentences = collections.defaultdict(list)
  for annotation in sorted(data['annotations'], key=_id):
    sentences[annotation['image_id']].append(annotation['caption'])
  return sentences


def karpathy(data: Mapping[str, Any]) -> dict[int, str]:
  """Name of the Karpathy split by image id: 'karpathy_train', 'karpathy_restval'..."""
  return {row['cocoid']: f'karpathy_{row["split"]}' for row in data['images']}


def _row(
  file: RawFile, row: Mapping[str, Any], classes: Mapping[int, int], image_id: int
) -> dict[str, Any]:
  category = row['category_id']
  if category not in classes:
    raise ValueError(
      f'{file.path}: image {image_id} has category {category}, which is none of the '
      f"{len(classes)} of COCO: the file was changed, use the owners' one"
    )
  return {
    'id': row['id'],
    'class': classes[category],
    'category_id': category,
    'crowd': bool(row['iscrowd']),
    'area': row['area'],
    'bbox': row['bbox'],
  }


def _classes(
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
  for entry in categories:
    ours = known.get(entry['id'])
    if ours is None or entry['name'] != ours.name:
      _refuse(file, entry, f'COCO calls it {ours.name!r}' if ours else 'COCO has none')
    if flags and bool(entry['isthing']) != ours.thing:
      _refuse(file, entry, f'it is {"a thing" if ours.thing else "stuff"} in COCO')
  lacking = set(known) - {entry['id'] for entry in categories}
  if lacking and (flags or any(known[number].thing for number in lacking)):
    raise ValueError(
      f'{file.path} lists no category {min(lacking)} ({known[min(lacking)].name}): it '
      "is of another release or was changed, use the owners' file"
    )
  index: Callable[[int], int] = [c.id for c in vocabulary.classes].index
  return {entry['id']: index(entry['id']) for entry in categories}


def _refuse(file: RawFile, entry: Mapping[str, Any], why: str) -> None:
  kind = {0: ', stuff', 1: ', a thing'}.get(entry.get('isthing'), '')
  raise ValueError(
    f'{file.path} lists category {entry["id"]} as {entry["name"]!r}{kind}, but {why}: '
    "ids were swapped or the file is not COCO 2017's, use the owners' file"
  )
