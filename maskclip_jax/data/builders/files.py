"""Checking photos and label files while they are packed: cheap, and by name."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Int32
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from maskclip_jax.data import labels
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.schema import Record, table

_END_OF_JPEG = b'\xff\xd9'


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
    raise ValueError(
      f'{file.path} is not a readable photo ({len(data)} bytes, {error}): download it '
      'or its archive again'
    ) from error
  return data, (height, width)


def read_labels(
  file: RawFile, size: tuple[int, int]
) -> tuple[bytes, Int32[ndarray, 'h w']]:
  """Reads a label PNG of a photo of the given height and width.

  Returns:
    Its bytes and its values.

  Raises:
    ValueError: the file is damaged, of a wrong kind, or of another size.
  """
  data = file.read()
  try:
    values = labels.read_label_map(data)
  except ValueError as error:
    raise ValueError(
      f'{file.path}: {error}; download it or its archive again'
    ) from error
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
  file: RawFile,
  image_id: str,
  photo: bytes,
  size: tuple[int, int],
  *,
  segments: bytes = b'',
  segments_info: Sequence[Mapping[str, Any]] = (),
  semantic: bytes = b'',
  instances: Sequence[Mapping[str, Any]] = (),
  captions: Sequence[str] = (),
  subsets: Sequence[str] = (),
) -> Record:
  """Puts a record together; what a dataset lacks stays empty."""
  return {
    'image': photo,
    'image_id': image_id,
    'file_name': file.path.rpartition(':')[2].rpartition('/')[2],
    'height': size[0],
    'width': size[1],
    'segments': segments,
    'segments_info': table(segments_info),
    'semantic': semantic,
    'instances': table(instances, masks=True),
    'captions': list(captions),
    'subsets': list(subsets),
  }
