"""PASCAL VOC 2012 segmentation, with the SBD labels (train_aug) where they are given.

Sources: [ovseg 7.1] (20 classes, background ignored) and [segclip 4.5] (21).
"""

import functools

from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import (
  check_indices,
  make_record,
  match,
  read_labels,
  read_photo,
)
from maskclip_jax.data.builders.raw import RawFile, RawFiles


class Voc2012(SegmentationBuilder):
  """VOC 2012; `semantic` holds 0 background, 1..20 classes, 255 void."""

  name = 'voc2012'
  PARTS = {'aug': False}  # noqa: RUF012

  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    archive = self.card.downloads[0].file
    photos = raw.folder('VOC2012/JPEGImages', suffix='.jpg')
    maps = raw.folder('VOC2012/SegmentationClass', suffix='.png')
    if not photos or not maps:
      what = ('VOC2012/JPEGImages', 'VOC2012/SegmentationClass')
      raise FileNotFoundError(raw.missing('photos and label maps', what, archive))
    stems = {split: read_list(raw, 'VOC2012', split, archive) for split in _LISTS}
    result = {
      split: _samples(stems[split], photos, maps, archive) for split in ('train', 'val')
    }
    extra = raw.folder('SegmentationClassAug*', suffix='.png')
    if self.wants('aug', extra):
      if not extra:
        place = ('SegmentationClassAug/*.png',)
        name = self.card.downloads[1].file
        raise FileNotFoundError(raw.missing('SBD label maps', place, name))
      # The published lists of 10,582 photos are all maps but those of the val list.
      chosen = sorted(set(extra) - set(stems['val']))
      result['train_aug'] = _samples(chosen, photos, extra, archive)
    return result


_LISTS = ('train', 'val')


def read_list(
  raw: RawFiles, devkit: str, split: str, archive: str, task: str = 'Segmentation'
) -> list[str]:
  """Photo names of a VOC list, blanks and empty lines stripped.

  Raises:
    FileNotFoundError: there is no such list.
  """
  pattern = f'{devkit}/ImageSets/{task}/{split}.txt'
  file = raw.file(pattern)
  if file is None:
    raise FileNotFoundError(raw.missing(f'list of {split} photos', (pattern,), archive))
  return file.read().decode().split()


def _samples(
  stems: list[str],
  photos: dict[str, RawFile],
  maps: dict[str, RawFile],
  archive: str,
) -> list[Sample]:
  match(stems, photos, 'photos', archive)
  match(stems, maps, 'label maps', archive)
  return [
    Sample(stem, functools.partial(_record, photos[stem], maps[stem])) for stem in stems
  ]


def _record(photo: RawFile, label_map: RawFile):
  data, size = read_photo(photo)
  semantic, values = read_labels(label_map, size)
  check_indices(label_map, values)
  return make_record(photo, photo.stem, data, size, semantic=semantic)
