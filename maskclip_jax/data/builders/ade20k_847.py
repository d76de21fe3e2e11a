"""ADE20K 2021_17_01 with the 847 classes of open-vocabulary evaluation.

Source: [masqclip 9.3]. Photos are reduced and saved as JPEG again because the published
evaluations start from such files. All object ids are stored; the 847 are a view.
"""

import functools
import io
import pickle
from typing import Any

import cv2
import numpy as np
from jaxtyping import Integer
from PIL import Image, UnidentifiedImageError

from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import check_size, make_record
from maskclip_jax.data.builders.raw import RawFile, RawFiles
from maskclip_jax.data.records import write_label_map

_INDEX = 'index_ade20k.pkl'
_SHORT_SIDE = 512


class Ade20k847(SegmentationBuilder):
  """ADE20K 2021; `semantic` is 16-bit PNG of the original object ids, 0 for none."""

  name = 'ade20k_847'

  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    archive = self.card.downloads[0].file
    index = raw.file(_INDEX)
    if index is None:
      raise FileNotFoundError(raw.missing('index of ADE20K', (_INDEX,), archive))
    # The index names folders from 'ADE20K_2021_17_01' on; keep what lies above it.
    by_place = {
      _below_release(folder): files for folder, files in raw.folders().items()
    }
    result: dict[str, list[Sample]] = {'train': [], 'val': []}
    for folder, name in sorted(_read_index(index), key=lambda row: row[1]):
      files = by_place.get(_below_release(folder), {})
      stem = name.removesuffix('.jpg')
      photo, label_map = files.get(name), files.get(f'{stem}_seg.png')
      if photo is None or label_map is None:
        missing = name if photo is None else f'{stem}_seg.png'
        raise FileNotFoundError(
          f'{folder}/{missing} is in {_INDEX} but not under {raw.root}: extract or '
          f'download {archive} again'
        )
      split = 'val' if name.split('_')[1] == 'val' else 'train'
      result[split].append(Sample(stem, functools.partial(_record, photo, label_map)))
    return result


def _below_release(folder: str) -> str:
  return folder.rpartition('ADE20K_2021_17_01/')[2]


class _PlainUnpickler(pickle.Unpickler):
  """Loads lists, strings and numpy arrays; refuses whatever could run code."""

  _ALLOWED = {  # noqa: RUF012
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    *(
      (f'numpy.{core}.{module}', name)
      for core in ('core', '_core')
      for module, name in (
        ('multiarray', '_reconstruct'),
        ('multiarray', 'scalar'),
        ('numeric', '_frombuffer'),
      )
    ),
  }

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in self._ALLOWED:
      raise pickle.UnpicklingError(f'it refers to {module}.{name}')
    return super().find_class(module, name)


def _read_index(file: RawFile) -> list[tuple[str, str]]:
  """Folder and file name of every photo."""
  try:
    index = _PlainUnpickler(io.BytesIO(file.read())).load()
    return list(zip(index['folder'], index['filename'], strict=True))
  except (
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    IndexError,
  ) as error:
    raise ValueError(
      f'{file.path} is not the index of ADE20K 2021_17_01 ({error}): extract it again'
    ) from error


def _record(photo: RawFile, label_map: RawFile):
  image = _open(photo)
  colours = _open(label_map).astype(np.int32)
  if colours.ndim != 3:
    raise ValueError(
      f'{label_map.path} has one channel, an object map of ADE20K 2021 has three: it '
      'is of another dataset'
    )
  check_size(label_map, colours.shape, image.shape[:2])
  objects = (colours[..., 0] // 10 * 256 + colours[..., 1]).astype(np.uint16)
  height, width = size = _reduced(*image.shape[:2])
  if size != image.shape[:2]:
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    objects = cv2.resize(objects, (width, height), interpolation=cv2.INTER_NEAREST)
  return make_record(
    photo, photo.stem, _jpeg(image), size, semantic=write_label_map(objects)
  )


def _open(file: RawFile) -> Integer[np.ndarray, 'h w *c']:
  """Pixels, EXIF orientation ignored."""
  try:
    with Image.open(io.BytesIO(file.read())) as image:
      return np.asarray(image if image.mode in ('L', 'RGB') else image.convert('RGB'))
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    raise ValueError(
      f'{file.path} is not a readable picture ({error}): extract or download it again'
    ) from error


def _reduced(height: int, width: int) -> tuple[int, int]:
  """Size with a short side of 512, where both sides are larger."""
  if width >= height > _SHORT_SIDE:
    return _SHORT_SIDE, round(_SHORT_SIDE * width / height)
  if height >= width > _SHORT_SIDE:
    return round(_SHORT_SIDE * height / width), _SHORT_SIDE
  return height, width


def _jpeg(image: Integer[np.ndarray, 'h w *c']) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'JPEG')
  return buffer.getvalue()
