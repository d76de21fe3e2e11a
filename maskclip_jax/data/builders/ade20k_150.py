"""ADE20K SceneParse150: semantic, instance and panoptic labels in one example.

Source: [masqclip 9.2]. The panoptic labels are not published; every project makes them
from the class maps and the object maps, and so is done here, with the same areas.
"""

import functools

import numpy as np
from jaxtyping import Bool

from maskclip_jax.data import ade20k
from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import (
  make_record,
  match,
  read_labels,
  read_photo,
)
from maskclip_jax.data.builders.raw import RawFile, RawFiles
from maskclip_jax.data.records import write_label_map
from maskclip_jax.text.vocabulary import Vocabulary

_FOLDERS = {'train': 'training', 'val': 'validation'}


class Ade20k150(SegmentationBuilder):
  """ADE20K-150; `semantic` is the published map: 0 other, 1..150 = class + 1."""

  name = 'ade20k_150'

  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    challenge, objects = (download.file for download in self.card.downloads)
    things = Vocabulary.named('ade20k-150').things
    result = {}
    for split, folder in _FOLDERS.items():
      photos = raw.folder(f'images/{folder}', suffix='.jpg')
      maps = raw.folder(f'annotations/{folder}', suffix='.png')
      object_maps = raw.folder(f'annotations_instance/{folder}', suffix='.png')
      if not photos or not maps:
        places = (f'images/{folder}/*.jpg', f'annotations/{folder}/*.png')
        raise FileNotFoundError(raw.missing('photos and class maps', places, challenge))
      if not object_maps:
        places = (f'annotations_instance/{folder}/*.png',)
        raise FileNotFoundError(raw.missing('object maps', places, objects))
      match(photos, maps, 'class maps', challenge)
      match(photos, object_maps, 'object maps', objects)
      result[split] = [
        Sample(
          stem,
          functools.partial(_record, photo, maps[stem], object_maps[stem], things),
        )
        for stem, photo in photos.items()
      ]
    return result


def _record(
  photo: RawFile, class_map: RawFile, object_map: RawFile, things: Bool[np.ndarray, 'k']
):
  data, size = read_photo(photo)
  semantic, classes = read_labels(class_map, size)
  _, colours = read_labels(object_map, size)
  top = int(classes.max(initial=0))
  if top > len(things):
    why = 'was converted already (0 became 255)' if top == 255 else 'is another dataset'
    raise ValueError(
      f'{class_map.path} holds the value {top} but SceneParse150 ends at 150: it '
      f'{why}, use the maps of ADEChallengeData2016.zip'
    )
  kinds, ids = ade20k.split_channels(colours)
  try:
    rows, instances = ade20k.objects(kinds, ids, things)
  except ValueError as error:
    raise ValueError(f'{object_map.path}: {error}') from error
  segments, table = ade20k.panoptic(classes - 1, ids, rows, things)
  return make_record(
    photo,
    photo.stem,
    data,
    size,
    segments=write_label_map(segments),
    segments_info=table,
    semantic=semantic,
    instances=instances,
  )
