"""COCO 2017 in its official layout: photos, JSON, panoptic PNG, stuff maps, words."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from raw_files import ROTATED, jpeg, png, write, zipped

from maskclip_jax.text.vocabulary import Vocabulary

SIZE = (24, 32)
PERSON, CAT, TRAFFIC_LIGHT, TIE = 1, 17, 10, 32
GRASS_MERGED, SKY_OTHER_MERGED = 193, 187
# In COCO-Stuff's numbers.
STUFF_GRASS, STUFF_SKY = 124, 157


@dataclasses.dataclass(frozen=True)
class Thing:
  """A rectangle: top, left, height, width."""

  category: int
  box: tuple[int, int, int, int]
  crowd: bool = False


@dataclasses.dataclass(frozen=True)
class Photo:
  number: int
  things: tuple[Thing, ...] = ()
  labelled: bool = True
  kind: tuple[tuple[str, Any], ...] = ()

  @property
  def stem(self) -> str:
    return f'{self.number:012d}'


PHOTOS = {
  'train2017': (
    # A tie on a person: masks that overlap. A crowd of persons.
    Photo(
      9,
      (
        Thing(PERSON, (4, 4, 16, 8)),
        Thing(TIE, (8, 6, 8, 2)),
        Thing(PERSON, (12, 18, 8, 12), crowd=True),
      ),
    ),
    Photo(
      25,
      (Thing(PERSON, (2, 2, 10, 10)), Thing(PERSON, (2, 20, 10, 8))),
      kind=(('grey', True),),
    ),
    # Only a novel class; and only a class outside the 65.
    Photo(30, (Thing(CAT, (6, 6, 12, 12)),), kind=(('orientation', ROTATED),)),
    Photo(34, (Thing(TRAFFIC_LIGHT, (6, 6, 12, 12)),)),
    # Nothing but a crowd, and nothing at all.
    Photo(36, (Thing(PERSON, (6, 6, 12, 12), crowd=True),)),
    Photo(42, labelled=False),
  ),
  'val2017': (
    Photo(139, (Thing(PERSON, (4, 4, 12, 8)), Thing(CAT, (4, 20, 8, 8)))),
    Photo(285, (Thing(CAT, (4, 4, 16, 20)),)),
  ),
}


def _mask(thing: Thing) -> np.ndarray:
  top, left, height, width = thing.box
  mask = np.zeros(SIZE, bool)
  mask[top : top + height, left : left + width] = True
  return mask


def _polygon(thing: Thing) -> list[list[float]]:
  top, left, height, width = thing.box
  bottom, right = top + height, left + width
  corners = (left, top, right, top, right, bottom, left, bottom)
  return [[float(value) for value in corners]]


def _run_lengths(mask: np.ndarray) -> dict:
  flat = mask.T.reshape(-1)
  changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
  counts = np.diff([0, *changes, flat.size]).tolist()
  return {'size': list(SIZE), 'counts': [0, *counts] if flat[0] else counts}


def _instances(photo: Photo) -> list[dict]:
  rows = []
  for position, thing in enumerate(photo.things):
    mask = _mask(thing)
    top, left, height, width = thing.box
    rows.append(
      {
        'id': photo.number * 100 + position,
        'image_id': photo.number,
        'category_id': thing.category,
        'iscrowd': int(thing.crowd),
        'area': float(mask.sum()),
        'bbox': [float(left), float(top), float(width), float(height)],
        'segmentation': _run_lengths(mask) if thing.crowd else _polygon(thing),
      }
    )
  return rows


def _base(photo: Photo) -> tuple[np.ndarray, np.ndarray]:
  """Sky and grass, with an unlabelled corner: category ids, and in COCO-Stuff."""
  if not photo.labelled:
    return np.zeros(SIZE, int), np.full(SIZE, 255, np.uint8)
  categories, stuff = np.full(SIZE, SKY_OTHER_MERGED), np.full(SIZE, STUFF_SKY - 1)
  categories[14:], stuff[14:] = GRASS_MERGED, STUFF_GRASS - 1
  categories[:2, :2], stuff[:2, :2] = 0, 255
  return categories, stuff.astype(np.uint8)


def _panoptic(photo: Photo) -> tuple[bytes, list[dict]]:
  """Map and rows; ids are large, so that all three channels are used."""
  categories, _ = _base(photo)
  ids, rows = np.zeros(SIZE, int), []
  for category in sorted(set(categories.ravel().tolist()) - {0}):
    number = photo.number * 20_000 + category
    ids[categories == category] = number
    rows.append({'id': number, 'category_id': category, 'iscrowd': 0})
  for position, thing in enumerate(photo.things):
    number = 5_000_000 + photo.number * 1000 + position
    ids[_mask(thing)] = number
    crowd = int(thing.crowd)
    rows.append({'id': number, 'category_id': thing.category, 'iscrowd': crowd})
  for row in rows:
    y, x = np.nonzero(ids == row['id'])
    size = [int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
    row.update(area=len(x), bbox=[int(x.min()), int(y.min()), *size])
  colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
  return png(colours.astype(np.uint8)), rows


def _stuff(photo: Photo) -> bytes:
  _, stuff = _base(photo)
  for thing in photo.things:
    stuff[_mask(thing)] = thing.category - 1
  return png(stuff)


def _categories(name: str, *, flags: bool) -> list[dict]:
  rows = []
  for category in Vocabulary.named(name).classes:
    row = {'id': category.id, 'name': category.name, 'supercategory': 'x'}
    rows.append({**row, 'isthing': int(category.thing)} if flags else row)
  return rows


def annotations(split: str) -> dict[str, dict]:
  """The three JSON files of a split by kind, as parsed."""
  photos = PHOTOS[split]
  images = [
    {
      'id': photo.number,
      'file_name': f'{photo.stem}.jpg',
      'height': SIZE[0],
      'width': SIZE[1],
    }
    for photo in reversed(photos)
  ]
  things = [row for photo in photos for row in _instances(photo)]
  segments = [
    {
      'image_id': photo.number,
      'file_name': f'{photo.stem}.png',
      'segments_info': _panoptic(photo)[1],
    }
    for photo in photos
  ]
  captions = [
    {'id': 10 * i + j, 'image_id': photo.number, 'caption': f'photo {photo.stem} {j}'}
    for i, photo in enumerate(photos)
    for j in (1, 0)
  ]
  return {
    'instances': {
      'images': images,
      'annotations': things,
      'categories': _categories('coco-instances80', flags=False),
    },
    'panoptic': {
      'images': images,
      'annotations': segments,
      'categories': _categories('coco-panoptic-133', flags=True),
    },
    'captions': {'images': images, 'annotations': captions},
  }


def karpathy() -> dict:
  """dataset_coco.json: photo 9 and 25 are in Karpathy's training split."""
  rows = [{'cocoid': 9, 'split': 'train'}, {'cocoid': 25, 'split': 'train'}]
  return {'images': [*rows, {'cocoid': 139, 'split': 'val'}], 'dataset': 'coco'}


def files() -> dict[str, bytes]:
  """All files by path, extracted."""
  result = {'dataset_coco.json': json.dumps(karpathy()).encode()}
  for split, photos in PHOTOS.items():
    for kind, data in annotations(split).items():
      result[f'annotations/{kind}_{split}.json'] = json.dumps(data).encode()
    for photo in photos:
      stem = photo.stem
      result[f'{split}/{stem}.jpg'] = jpeg(photo.number, SIZE, **dict(photo.kind))
      result[f'panoptic_{split}/{stem}.png'] = _panoptic(photo)[0]
      result[f'stuffthingmaps/{split}/{stem}.png'] = _stuff(photo)
  return result


def write_coco(
  root: pathlib.Path, *, archived=False, stuff=True, karpathy_split=True
) -> pathlib.Path:
  """Writes COCO 2017; returns the folder for `--raw`."""
  everything = files()
  if not stuff:
    _drop(everything, 'stuffthingmaps/')
  if not karpathy_split:
    _drop(everything, 'dataset_coco.json')
  write(root, _archived(everything) if archived else everything)
  return root


def _drop(files: dict[str, bytes], start: str) -> None:
  for name in [name for name in files if name.startswith(start)]:
    del files[name]


def _archived(files: dict[str, bytes]) -> dict[str, bytes]:
  def below(*starts: str, strip: str = '') -> dict[str, bytes]:
    chosen = {name: files[name] for name in files if name.startswith(starts)}
    return {name.removeprefix(strip): data for name, data in chosen.items()}

  panoptic = below('annotations/panoptic_')
  for split in PHOTOS:
    inner = zipped(below(f'panoptic_{split}/'))
    panoptic[f'annotations/panoptic_{split}.zip'] = inner
  other = below('annotations/instances_', 'annotations/captions_')
  archives = {f'{split}.zip': zipped(below(f'{split}/')) for split in PHOTOS}
  archives['annotations_trainval2017.zip'] = zipped(other)
  archives['panoptic_annotations_trainval2017.zip'] = zipped(panoptic)
  stuff = below('stuffthingmaps/', strip='stuffthingmaps/')
  if stuff:
    archives['stuffthingmaps_trainval2017.zip'] = zipped(stuff)
  if 'dataset_coco.json' in files:
    karpathy_files = below('dataset_coco.json')
    archives['caption_datasets.zip'] = zipped(karpathy_files)
  return archives
