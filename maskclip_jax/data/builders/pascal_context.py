"""PASCAL Context: VOC 2010 photos with 459 classes in MATLAB files.

The LabelMap values (1..459, 0 unlabelled) are stored as they are; 59, 60 and 459
classes are views of them. Sources: [masqclip 9.4], [ovseg 7.1], [segclip 4.5].
"""

import functools
import io
import zlib

import numpy as np
import scipy.io
from jaxtyping import Integer

from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import check_size, make_record, match, read_photo
from maskclip_jax.data.builders.raw import RawFile, RawFiles
from maskclip_jax.data.builders.voc2012 import read_list
from maskclip_jax.data.records import write_label_map
from maskclip_jax.text.vocabulary import Vocabulary

# What scipy raises for files that are cut off, garbled, or of another kind.
_UNREADABLE = (
  ValueError,
  TypeError,
  LookupError,
  OSError,
  EOFError,
  NotImplementedError,
  zlib.error,
  scipy.io.matlab.MatReadError,
)


class PascalContext(SegmentationBuilder):
  """PASCAL Context; `semantic` is 16-bit PNG of the original LabelMap values."""

  name = 'pascal_context'

  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    photo_archive, label_archive = (d.file for d in self.card.downloads[:2])
    photos = raw.folder('VOC2010/JPEGImages', suffix='.jpg')
    if not photos:
      place = ('VOC2010/JPEGImages',)
      raise FileNotFoundError(raw.missing('photos', place, photo_archive))
    maps = raw.folder('trainval', suffix='.mat')
    if not maps:
      place = ('trainval/*.mat',)
      raise FileNotFoundError(raw.missing('label files', place, label_archive))
    _check_names(raw)
    lists = _lists(raw, sorted(maps), photo_archive)
    result = {}
    for split, stems in lists.items():
      match(stems, photos, 'photos', photo_archive)
      match(stems, maps, 'label files', label_archive)
      result[split] = [
        Sample(stem, functools.partial(_record, photos[stem], maps[stem]))
        for stem in stems
      ]
    return result


def _lists(raw: RawFiles, stems: list[str], archive: str) -> dict[str, list[str]]:
  own = raw.file('pascalcontext_val.txt')
  if own is None:
    return {
      split: read_list(raw, 'VOC2010', split, archive, 'Main')
      for split in ('train', 'val')
    }
  val = own.read().decode().split()
  return {'train': sorted(set(stems) - set(val)), 'val': val}


def _check_names(raw: RawFiles) -> None:
  """Compares labels.txt ('2: aeroplane'), if given, with the vocabulary."""
  file = raw.file('labels.txt')
  if file is None:
    return
  classes = Vocabulary.named('pascal-context-459').classes
  expected = {category.id: category.name.replace(' ', '') for category in classes}
  for line in file.read().decode().splitlines():
    number, colon, name = line.partition(':')
    name = name.strip().replace(' ', '')
    known = expected.get(int(number)) if colon and number.strip().isdigit() else None
    if known and name != known:
      raise ValueError(
        f'{file.path} calls class {int(number)} {name!r} but PASCAL Context calls it '
        f'{known!r}: use the labels.txt of the 459 classes'
      )


def _record(photo: RawFile, label_file: RawFile):
  data, size = read_photo(photo)
  values = _label_map(label_file)
  check_size(label_file, values.shape, size)
  return make_record(
    photo, photo.stem, data, size, semantic=write_label_map(values.astype(np.uint16))
  )


def _label_map(file: RawFile) -> Integer[np.ndarray, 'h w']:
  data = file.read()
  try:
    return scipy.io.loadmat(io.BytesIO(data), variable_names=['LabelMap'])['LabelMap']
  except _UNREADABLE as e:
    raise ValueError(
      f'{file.path} holds no LabelMap ({type(e).__name__}: {e}): download its archive '
      'again'
    ) from e
