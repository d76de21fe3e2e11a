"""COCO 2017: panoptic maps, instance masks, COCO-Stuff maps and captions per photo.

Sources: [masqclip 9.1], [ovseg 4.1], [segclip 3.1]. No files of the base/novel
protocol are written: they are views of the instance masks, which are stored whole.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from maskclip_jax.data.builders import coco_json
from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import (
  make_record,
  match,
  read_labels,
  read_photo,
)
from maskclip_jax.data.builders.raw import RawFile, RawFiles
from maskclip_jax.data.schema import Record
from maskclip_jax.text.vocabulary import Vocabulary

_SPLITS = {'train': 'train2017', 'val': 'val2017'}


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

  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    return {split: self._samples(raw, name) for split, name in _SPLITS.items()}

  def _download(self, position: int) -> str:
    return self.card.downloads[position].file

  def _samples(self, raw: RawFiles, name: str) -> list[Sample]:
    archive = f'{name}.zip'
    photos = raw.folder(name, suffix='.jpg')
    if not photos:
      raise FileNotFoundError(raw.missing('photos', (f'{name}/*.jpg',), archive))
    images, instances = self._instances(raw, name)
    panoptic_images, panoptic, panoptic_maps = self._panoptic(raw, name)
    caption_images, captions = self._captions(raw, name)
    images = images or panoptic_images or caption_images
    if not images:
      images = {int(stem): file.name for stem, file in photos.items()}
    stems = {number: file.removesuffix('.jpg') for number, file in images.items()}
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
    self, raw: RawFiles, name: str
  ) -> tuple[dict[int, str], coco_json.Rows]:
    keys = ('images', 'annotations', 'categories')
    found = self._annotations(raw, 'instances', name, 2, *keys)
    if found is None:
      return {}, {}
    file, data = found
    vocabulary = Vocabulary.named('coco-instances80')
    return coco_json.photos(data), coco_json.instances(file, data, vocabulary)

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
    rows = coco_json.panoptic(file, data, Vocabulary.named('coco-panoptic-133'))
    return coco_json.photos(data), rows, maps

  def _captions(self, raw: RawFiles, name: str):
    found = self._annotations(raw, 'captions', name, 2, 'images', 'annotations')
    if found is None:
      return {}, {}
    return coco_json.photos(found[1]), coco_json.captions(found[1])

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
    return coco_json.karpathy(coco_json.load(file, 'images'))


def _record(split: _Split, number: int, stem: str) -> Record:
  photo = split.photos[stem]
  data, size = read_photo(photo)
  segments, rows = b'', []
  if number in split.panoptic:
    panoptic = split.panoptic[number]
    file = split.panoptic_maps[panoptic.file_name.removesuffix('.png')]
    segments, _ = read_labels(file, size)
    rows = panoptic.segments
  semantic = b''
  if split.stuff_maps:
    semantic, _ = read_labels(split.stuff_maps[stem], size)
  subset = split.subsets.get(number)
  return make_record(
    photo,
    str(number),
    data,
    size,
    segments=segments,
    segments_info=rows,
    semantic=semantic,
    instances=split.instances.get(number, ()),
    captions=split.captions.get(number, ()),
    subsets=(subset,) if subset else (),
  )
