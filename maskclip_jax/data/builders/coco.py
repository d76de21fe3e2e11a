"""COCO 2017: panoptic maps, instance masks, COCO-Stuff maps and captions per photo.

Sources: [masqclip 9.1], [ovseg 4.1], [segclip 3.1]. No files of the base/novel
protocol are written: they are views of the instance masks, which are stored whole.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from maskclip_jax.data.builders import coco_json
from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import (
  check_ids,
  check_indices,
  is_turned,
  make_record,
  match,
  measured_objects,
  measured_segments,
  read_labels,
  read_photo,
)
from maskclip_jax.data.builders.raw import PHOTO_SUFFIXES, RawFile, RawFiles
from maskclip_jax.data.records import Record
from maskclip_jax.text.vocabulary import Vocabulary

_SPLITS = {'train': 'train2017', 'val': 'val2017'}
# So many photos tell whether sizes were exchanged.
_LOOKED_AT = 8


@dataclasses.dataclass(frozen=True)
class _Split:
  """All that belongs to the photos of a split; parts not built are empty."""

  photos: Mapping[str, RawFile]
  instances: coco_json.Rows
  panoptic: Mapping[int, coco_json.Panoptic]
  panoptic_maps: Mapping[str, RawFile]
  stuff_maps: Mapping[str, RawFile]
  captions: Mapping[int, list[str]]
  subsets: Mapping[int, str]


class Coco(SegmentationBuilder):
  """COCO 2017; `segments` and `semantic` are the published PNG files.

  `semantic` is the stuffthingmaps file: category id - 1, 255 unlabelled.
  """

  name = 'coco'
  # Inside the panoptic annotation zip, and beside it once that is extracted.
  ARCHIVES = tuple(f'panoptic_{name}.zip' for name in _SPLITS.values())
  PARTS = {  # noqa: RUF012
    'instances': True,
    'panoptic': True,
    'captions': True,
    'stuff': False,
    'karpathy': False,
  }
  _lacking: tuple[str, ...] = ()

  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    # Validation alone is enough to evaluate; what is left out is told.
    here = {
      split: name
      for split, name in _SPLITS.items()
      if _photos(raw, name) or raw.renamed(f'{name}.zip')
    }
    self._lacking = tuple(f'split {split}' for split in _SPLITS if split not in here)
    return {
      split: self._samples(raw, name) for split, name in (here or _SPLITS).items()
    }

  def left_out(self) -> tuple[str, ...]:
    return (*self._lacking, *super().left_out())

  def _download(self, position: int) -> str:
    return self.card.downloads[position].file

  def _samples(self, raw: RawFiles, name: str) -> list[Sample]:
    archive = f'{name}.zip'
    photos = _photos(raw, name)
    if not photos:
      raise FileNotFoundError(raw.missing('photos', (f'{name}/*.jpg',), archive))
    images, instances = self._instances(raw, name, photos)
    panoptic_images, panoptic, panoptic_maps = self._panoptic(raw, name)
    caption_images, captions = self._captions(raw, name)
    lists = {
      'instances': images,
      'panoptic': panoptic_images,
      'captions': caption_images,
    }
    images = _common(name, {kind: found for kind, found in lists.items() if found})
    if not images:
      images = {_stem_number(file): file.name for file in photos.values()}
    stems = {number: file.rpartition('.')[0] for number, file in images.items()}
    match(stems.values(), photos, 'photos', archive)
    stuff_maps = self._stuff(raw, name)
    if stuff_maps:
      match(stems.values(), stuff_maps, 'stuff maps', self._download(4))
    if panoptic:
      needed = [row.file_name.removesuffix('.png') for row in panoptic.values()]
      match(needed, panoptic_maps, 'panoptic PNG', self._download(3))
    split = _Split(
      photos,
      instances,
      panoptic,
      panoptic_maps,
      stuff_maps,
      captions,
      self._karpathy(raw),
    )
    return [
      Sample(str(number), functools.partial(_record, split, number, stem))
      for number, stem in stems.items()
    ]

  def _annotations(
    self, raw: RawFiles, kind: str, name: str, position: int, *keys: str
  ) -> tuple[RawFile, dict[str, Any]] | None:
    pattern = f'{kind}_{name}.json'
    file = raw.file(pattern)
    if not self.wants(kind, file):
      return None
    if file is None:
      raise FileNotFoundError(
        raw.missing(f'{kind} annotations', (pattern,), self._download(position))
        + f' (or leave out the part {kind!r})'
      )
    return file, coco_json.load(file, *keys)

  def _instances(
    self, raw: RawFiles, name: str, pictures: Mapping[str, RawFile]
  ) -> tuple[dict[int, str], coco_json.Rows]:
    keys = ('images', 'annotations', 'categories')
    found = self._annotations(raw, 'instances', name, 2, *keys)
    if found is None:
      return {}, {}
    file, data = found
    vocabulary = Vocabulary.named('coco-instances80')
    photos = coco_json.photos(file, data)
    _note_sizes(file, data['images'], pictures)
    classes = coco_json.official_classes(
      file, data['categories'], vocabulary, flags=False
    )
    return photos, coco_json.instances(file, data, photos, classes)

  def _panoptic(self, raw: RawFiles, name: str):
    keys = ('images', 'annotations', 'categories')
    found = self._annotations(raw, 'panoptic', name, 3, *keys)
    if found is None:
      return {}, {}, {}
    file, data = found
    folder = f'panoptic_{name}'
    maps = raw.folder(folder, f'{folder}.zip/{folder}', f'{folder}.zip', suffix='.png')
    if not maps:
      place = (f'{folder}/*.png', f'{folder}.zip')
      raise FileNotFoundError(raw.missing('panoptic PNG', place, self._download(3)))
    photos = coco_json.photos(file, data)
    vocabulary = Vocabulary.named('coco-panoptic-133')
    classes = coco_json.official_classes(
      file, data['categories'], vocabulary, flags=True
    )
    return photos, coco_json.panoptic(file, data, photos, classes), maps

  def _captions(self, raw: RawFiles, name: str):
    found = self._annotations(raw, 'captions', name, 2, 'images', 'annotations')
    if found is None:
      return {}, {}
    photos = coco_json.photos(*found)
    return photos, coco_json.captions(*found, photos)

  def _stuff(self, raw: RawFiles, name: str) -> dict[str, RawFile]:
    # Not just any folder of this name: converted copies hold other numbers.
    places = (f'stuffthingmaps/{name}', f'stuffthingmaps_trainval2017*/{name}')
    maps = raw.folder(*places, suffix='.png')
    if not self.wants('stuff', maps):
      return {}
    if not maps:
      shown = [f'{place}/*.png' for place in places]
      raise FileNotFoundError(raw.missing('stuff maps', shown, self._download(4)))
    return maps

  def _karpathy(self, raw: RawFiles) -> dict[int, str]:
    pattern = 'dataset_coco.json'
    file = raw.file(pattern)
    if not self.wants('karpathy', file):
      return {}
    if file is None:
      name = self._download(5)
      raise FileNotFoundError(raw.missing("Karpathy's split", (pattern,), name))
    return coco_json.karpathy(file, coco_json.load(file, 'images'))


def _photos(raw: RawFiles, name: str) -> dict[str, RawFile]:
  """The photos of a folder; COCO-Stuff's maps lie in one of the same name."""
  found = raw.folder(name, suffix=PHOTO_SUFFIXES)
  if found:
    return found
  pictures = raw.folder(name, suffix='.png')
  maps = raw.folder(f'stuffthingmaps*/{name}', suffix='.png')
  return {} if pictures == maps else pictures


def _note_sizes(
  file: RawFile, rows: Sequence[Mapping[str, Any]], photos: Mapping[str, RawFile]
) -> None:
  """Warns where the first photos have other sizes than a JSON lists for them.

  A camera's rotation exchanges the sides in some releases, and in others not.
  """
  for row in rows[:_LOOKED_AT]:
    photo = photos.get(str(row['file_name']).rpartition('/')[2].rpartition('.')[0])
    listed = row.get('height'), row.get('width')
    if photo is None or None in listed:
      continue
    try:
      size = read_photo(photo)[1]
    except ValueError:
      # The build stops there, and keeps what was before it.
      continue
    exchanged = listed == size[::-1] and is_turned(photo)
    if listed != size and not exchanged:
      warnings.warn(
        f'{file.path} lists {photo.path} as {listed[1]} x {listed[0]} and it is '
        f'{size[1]} x {size[0]}: sizes are taken from the photos',
        stacklevel=2,
      )
      return


def _common(name: str, lists: Mapping[str, Mapping[int, str]]) -> dict[int, str]:
  """The photos that all annotation files list.

  Raises:
    ValueError: the files list different photos: the labels of some would be lost.
  """
  (kind, images), *others = lists.items() or [('', {})]
  for other, found in others:
    if odd := sorted(set(images).symmetric_difference(found)):
      has, lacks = (kind, other) if odd[0] in images else (other, kind)
      raise ValueError(
        f'{has}_{name}.json lists image {odd[0]} and {lacks}_{name}.json does not '
        f'({len(odd)} differ): take all files of one release, or leave a part out by '
        '--parts'
      )
    for number, file in found.items():
      if images[number] != file:
        raise ValueError(
          f'image {number} is {images[number]} in {kind}_{name}.json and {file} in '
          f'{other}_{name}.json: take all files of one release'
        )
  return dict(images)


def _stem_number(file: RawFile) -> int:
  if not file.stem.isdecimal():
    raise ValueError(
      f'{file.path}: photos of COCO are named by their number, such as '
      '000000000009.jpg; give the annotation files, which name others'
    )
  return int(file.stem)


def _record(split: _Split, number: int, stem: str) -> Record:
  photo = split.photos[stem]
  data, size = read_photo(photo)
  segments, rows = b'', []
  if number in split.panoptic:
    panoptic = split.panoptic[number]
    file = split.panoptic_maps[panoptic.file_name.removesuffix('.png')]
    segments, values = read_labels(file, size)
    check_ids(file, values, [row['id'] for row in panoptic.segments])
    rows = measured_segments(panoptic.segments, values)
  semantic = b''
  if split.stuff_maps:
    stuff_map = split.stuff_maps[stem]
    semantic, values = read_labels(stuff_map, size)
    check_indices(stuff_map, values)
  subset = split.subsets.get(number)
  return make_record(
    photo,
    str(number),
    data,
    size,
    segments=segments,
    segments_info=rows,
    semantic=semantic,
    instances=measured_objects(photo, split.instances.get(number, ()), size),
    captions=split.captions.get(number, ()),
    subsets=(subset,) if subset else (),
  )
