"""Checking photos and label files while they are packed: cheap, and by name."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64
from numpy import ndarray
from PIL import ExifTags, Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from maskclip_jax.data import records
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.masks import MASK_ERRORS, check_near, run_lengths
from maskclip_jax.data.records import Record

_END_OF_JPEG = b'\xff\xd9'
# Outlines and pixels differ at the border: this much of the area of objects that are
# larger than so many pixels, and so many pixels of a box, are no mistake.
_FAR, _SMALL, _SLACK = 0.5, 100, 2


def read_photo(file: RawFile) -> tuple[bytes, tuple[int, int]]:
  """Reads a photo and makes sure that it is whole.

  Returns:
    Its bytes, and height and width before any EXIF rotation.

  Raises:
    ValueError: the file is not a picture or is cut off.
  """
  data = file.read()
  try:
    with Image.open(io.BytesIO(data)) as image:
      width, height = image.size
      # A marker at the end is proof enough; without it only decoding tells.
      if image.format != 'JPEG' or _END_OF_JPEG not in data[-64:]:
        image.load()
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    # Its text is an address in memory.
    strange = isinstance(error, UnidentifiedImageError)
    why = 'of no known format' if strange else error
    raise ValueError(
      f'{file.path} is not a readable photo ({len(data)} bytes, {why}): download it '
      'or its archive again'
    ) from error
  return data, (height, width)


def orientation(file: RawFile) -> int:
  """The camera's note how a photo is to be turned: 1 is upright, from 5 on height and
  width are exchanged."""
  with Image.open(io.BytesIO(file.read())) as image:
    note = image.getexif().get(ExifTags.Base.Orientation, 1)
  return note if note in range(2, 9) else 1


def is_turned(file: RawFile) -> bool:
  """Whether a camera's note in the photo exchanges height and width."""
  return orientation(file) >= 5


def read_labels(
  file: RawFile, size: tuple[int, int] | None
) -> tuple[bytes, Int32[ndarray, 'h w']]:
  """Reads a label PNG of a photo of the given height and width, if they are known.

  Returns:
    Its bytes and its values.

  Raises:
    ValueError: the file is damaged, of a wrong kind, or of another size.
  """
  data = file.read()
  try:
    values = records.read_label_map(data)
  except ValueError as error:
    raise ValueError(
      f'{file.path}: {error}; download it or its archive again'
    ) from error
  if size is not None:
    check_size(file, values.shape, size)
  return data, values


def check_size(
  file: RawFile, found: tuple[int, ...], expected: tuple[int, int]
) -> None:
  """Raises ValueError if labels and photo have different sizes."""
  if found[:2] != tuple(expected):
    raise ValueError(
      f'{file.path} is {found[1]} x {found[0]} but its photo is {expected[1]} x '
      f'{expected[0]}: the labels are of another release of the dataset, use the files '
      'named by "data list"'
    )


def check_ids(file: RawFile, values: Int32[ndarray, 'h w'], ids: Sequence[int]) -> None:
  """Makes sure that a panoptic PNG was not converted on its way.

  Raises:
    ValueError: it holds none of the ids that its JSON lists, because its colours were
      exchanged or made grey.
  """
  found = np.unique(values)
  if not ids or np.isin(found, ids).any():
    return
  exchanged = (found & 255) << 16 | found & 0xFF00 | found >> 16
  grey = found.max() < 256 <= max(ids) or not (found % 0x10101).any()
  if grey or np.isin(exchanged, ids).any():
    how = 'as grey' if grey else 'with red and blue exchanged'
    raise ValueError(
      f'{file.path} holds none of the {len(ids)} ids that its JSON lists: it was saved '
      f'{how}, use the file as published'
    )


def check_indices(file: RawFile, values: Int32[ndarray, 'h w']) -> None:
  """Makes sure that a map of at most 255 classes holds their indices.

  Raises:
    ValueError: it holds larger values, as maps do that were saved as colours.
  """
  top = int(values.max(initial=0))
  if top > 255:
    raise ValueError(
      f'{file.path} holds the value {top}: it was saved as colours, and the indices of '
      'the classes are needed, use the file as published'
    )


def measured_segments(
  rows: Sequence[Mapping[str, Any]], values: Int32[ndarray, 'h w']
) -> list[Mapping[str, Any]]:
  """Rows of a panoptic table; areas and boxes that it lacks are those of the map."""
  complete = []
  for row in rows:
    if row['area'] is None or row['bbox'] is None:
      ys, xs = np.nonzero(values == row['id'])
      row = _completed(row, float(ys.size), _box(xs, ys))
    complete.append(row)
  return complete


def measured_objects(
  file: RawFile,
  rows: Sequence[Mapping[str, Any]],
  size: tuple[int, int],
  *,
  correct: bool = False,
) -> list[Mapping[str, Any]]:
  """Rows of objects; areas and boxes that they lack are those of their masks.

  Args:
    file: their photo, for messages.
    rows: of objects.
    size: height and width of the photo.
    correct: measure also areas and boxes that are far off. Some tools write the area of
      the box, or two corners in place of a corner and a size.

  Raises:
    ValueError: a mask that cannot be decoded; names its object.
  """
  complete = []
  for row in rows:
    try:
      if correct or row['area'] is None or row['bbox'] is None:
        mask = run_lengths(row['segmentation'], size)
        area, box = float(coco_mask.area(mask)), coco_mask.toBbox(mask).tolist()
        row = _completed(row, area, box)
        row = _corrected(row, area, box) if correct else row
      else:
        check_near(row['segmentation'], size)
    except MASK_ERRORS as error:
      raise ValueError(
        f'{file.path}: the mask of object {row["id"]} cannot be decoded ({error}): '
        'correct it, or export the labels again'
      ) from error
    complete.append(row)
  return complete


def _completed(
  row: Mapping[str, Any], area: float, bbox: list[float]
) -> Mapping[str, Any]:
  measured = {'area': area, 'bbox': bbox}
  return {**row, **{n: v for n, v in measured.items() if row[n] is None}}


def _corrected(
  row: Mapping[str, Any], area: float, bbox: list[float]
) -> Mapping[str, Any]:
  """A row with the area and the box of its mask in place of its own, if far off."""
  larger = max(area, row['area'])
  far = larger > _SMALL and abs(area - row['area']) > _FAR * larger
  (x, y, width, height), (left, top, w, h) = row['bbox'], bbox
  outside = (
    left < x - _SLACK
    or top < y - _SLACK
    or left + w > x + width + _SLACK
    or top + h > y + height + _SLACK
  )
  changed = {'area': area} if far else {}
  return {**row, **changed, **({'bbox': bbox} if outside and area else {})}


def _box(xs: Int64[ndarray, ' n'], ys: Int64[ndarray, ' n']) -> list[float]:
  """[x, y, width, height] of pixels; of none, zeros."""
  if not xs.size:
    return [0.0] * 4
  left, top = float(xs.min()), float(ys.min())
  return [left, top, float(xs.max()) + 1 - left, float(ys.max()) + 1 - top]


def match(
  stems: Iterable[str], files: Mapping[str, RawFile], what: str, download: str
) -> None:
  """Makes sure that every photo has its file.

  Raises:
    FileNotFoundError: some are missing; says how many and which.
  """
  missing = [stem for stem in stems if stem not in files]
  if missing:
    place = next(iter(files.values())).path.rpartition('/')[0] if files else 'the files'
    shown = ', '.join(missing[:3]) + (', ...' if len(missing) > 3 else '')
    raise FileNotFoundError(
      f'{place} lacks {len(missing)} {what} ({shown}): extract or download {download} '
      'again'
    )


def make_record(
  file: RawFile, image_id: str, photo: bytes, size: tuple[int, int], **fields: Any
) -> Record:
  """The record of a photo's file; `fields` as for `records.make`."""
  name = file.path.rpartition(':')[2].rpartition('/')[2]
  return records.make(photo, image_id, name, size, **fields)
