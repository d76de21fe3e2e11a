"""Decoding a record for checks: what fails becomes a finding, the rest goes on."""

import dataclasses
import functools
import io

import numpy as np
from jaxtyping import Bool, Int16, Int32, UInt8
from PIL import Image, UnidentifiedImageError

from maskclip_jax.data.doctor.findings import Finding
from maskclip_jax.data.examples import row_map
from maskclip_jax.data.masks import MASK_ERRORS, decode_mask
from maskclip_jax.data.records import Record, read_label_map

_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class Decoded:
  """A record with its pictures.

  Attributes:
    record: as stored.
    photo: RGB, not rotated; None if it cannot be decoded.
    rotated: it carries an EXIF rotation.
    segments, semantic: label values; None if missing or not decodable.
    masks: one per object; None where it cannot be decoded.
  """

  record: Record
  photo: UInt8[np.ndarray, 'h w 3'] | None
  rotated: bool
  segments: Int32[np.ndarray, 'h w'] | None
  semantic: Int32[np.ndarray, 'h w'] | None
  masks: tuple[Bool[np.ndarray, 'h w'] | None, ...]

  @functools.cached_property
  def rows(self) -> Int16[np.ndarray, 'h w'] | None:
    """Row of the panoptic table at each pixel, or VOID."""
    if self.segments is None:
      return None
    return row_map(self.segments, self.record['segments_info']['id'])

  @property
  def size(self) -> tuple[int, int]:
    return self.record['height'], self.record['width']


def decode(record: Record) -> tuple[Decoded, list[Finding]]:
  """Decodes a record and reports what cannot be."""
  findings: list[Finding] = []
  photo, rotated = _photo(record, findings)
  segments = _labels(record, 'segments', findings)
  semantic = _labels(record, 'semantic', findings)
  masks = tuple(
    _mask(record, row, findings) for row in range(len(record['instances']['id']))
  )
  return Decoded(record, photo, rotated, segments, semantic, masks), findings


def _photo(
  record: Record, findings: list[Finding]
) -> tuple[UInt8[np.ndarray, 'h w 3'] | None, bool]:
  image_id = record['image_id']
  try:
    # Pillow, as OpenCV silently fills what is missing of a cut-off JPEG with grey.
    with Image.open(io.BytesIO(record['image'])) as image:
      rotated = image.getexif().get(_ORIENTATION, 1) != 1
      photo = np.asarray(image.convert('RGB'))
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    findings.append(Finding('photo', f'{record["file_name"]}: {error}', image_id))
    return None, False
  expected = (record['height'], record['width'])
  if photo.shape[:2] != expected:
    detail = f'{_size(photo)}, not {expected[1]} x {expected[0]}'
    findings.append(Finding('photo-size', detail, image_id))
  return photo, rotated


def _labels(
  record: Record, field: str, findings: list[Finding]
) -> Int32[np.ndarray, 'h w'] | None:
  if not record[field]:
    return None
  image_id = record['image_id']
  try:
    values = read_label_map(record[field])
  except ValueError as error:
    findings.append(Finding('labels', f'{field}: {error}', image_id))
    return None
  if values.shape != (record['height'], record['width']):
    detail = f'{field}: {_size(values)}, not {record["width"]} x {record["height"]}'
    findings.append(Finding('label-size', detail, image_id))
    return None
  return values


def _mask(
  record: Record, row: int, findings: list[Finding]
) -> Bool[np.ndarray, 'h w'] | None:
  table, size = record['instances'], (record['height'], record['width'])
  try:
    return decode_mask(table['segmentation'][row], size)
  except MASK_ERRORS as error:
    detail = f'object {table["id"][row]}: {error}'
    findings.append(Finding('mask', detail, record['image_id']))
    return None


def _size(array: np.ndarray) -> str:
  return f'{array.shape[1]} x {array.shape[0]}'
