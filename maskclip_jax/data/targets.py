"""From an example of any size to arrays of fixed shape, and from those to a batch.

Ground truth is a map of row numbers plus a table of N rows (design: a float mask per
segment is never made); objects that overlap become bit-packed masks. More segments than
rows: the largest stay and the rest are counted in `dropped`, never lost silently.
"""

import dataclasses

import numpy as np
from jaxtyping import Int16, Int64, Shaped, UInt8

from maskclip_jax.data.examples import VOID, Example, RecordError
from maskclip_jax.data.transforms.polygons import has_box, pack_polygons

# Bytes of an image id, UTF-8, zero-padded.
ID_BYTES = 64

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Targets:
  """How segments become a table of fixed length.

  Attributes:
    max_segments: rows N of the table.
    drop_empty: leave out segments that cropping or shrinking emptied. The panoptic
      mappers keep them [masqclip 7.2]; semantic targets are the classes present.
    masks: make `masks`, bit-packed, in place of `segments`: objects may overlap.
  """

  max_segments: int = 100
  drop_empty: bool = False
  masks: bool = False

  def __post_init__(self):
    if not 0 < self.max_segments < np.iinfo(np.int16).max:
      raise ValueError(
        f'max_segments must be 1..{np.iinfo(np.int16).max - 1}, not {self.max_segments}'
      )

  def arrays(self, example: Example) -> Arrays:
    """The ground truth of an example.

    Returns:
      `segments` int16 [H, W] (row, or -1), `class` int32 [N], `valid`, `crowd` bool
      [N], `segment_id` int64 [N], `area` float32 [N] (official, of the whole photo),
      `dropped` int32 (segments beyond N). For objects that overlap `masks` uint8
      [N, H, ceil(W / 8)] takes the place of `segments`. The rows keep their order.
    """
    if self.masks:
      rows, masks, dropped = self._overlapping(example)
      pixels = {'masks': pad_rows(masks, self.max_segments)}
    elif example.regions:
      raise ValueError(
        'objects that overlap need masks: set Targets(masks=True) for an instance view'
      )
    else:
      rows, segments, dropped = self._disjoint(example)
      pixels = {'segments': segments}
    return {
      **pixels,
      'class': pad_rows(example.classes[rows], self.max_segments),
      'crowd': pad_rows(example.crowd[rows], self.max_segments),
      'segment_id': pad_rows(example.ids[rows], self.max_segments),
      'area': pad_rows(example.areas[rows], self.max_segments),
      'valid': np.arange(self.max_segments) < len(rows),
      'dropped': np.int32(dropped),
    }

  def _disjoint(
    self, example: Example
  ) -> tuple[Int64[np.ndarray, ' kept'], Int16[np.ndarray, 'h w'], int]:
    segments, n = example.segments, len(example.classes)
    if segments is None:
      segments = np.full(example.size, VOID, np.int16)
    if not self.drop_empty and n <= self.max_segments:
      return np.arange(n), segments, 0
    areas = count_pixels(segments, n)
    present = np.flatnonzero(areas) if self.drop_empty else np.arange(n)
    rows = self._largest(present, areas[present])
    table = np.full(n + 1, VOID, np.int16)
    table[rows] = np.arange(len(rows))
    return rows, table[segments], len(present) - len(rows)

  def _overlapping(
    self, example: Example
  ) -> tuple[Int64[np.ndarray, ' kept'], UInt8[np.ndarray, 'kept h bytes'], int]:
    present, packed = [], []
    for row, region in enumerate(example.regions):
      if region.bitmap is not None:
        mask = np.packbits(region.bitmap, axis=1)
        if not mask.any():
          continue
      elif has_box(region.polygons):
        mask = pack_polygons(region.polygons, example.size)
      else:
        continue
      present.append(row)
      packed.append(mask)
    height, width = example.size
    present = np.array(present, np.int64)
    masks = np.array(packed, np.uint8).reshape(-1, height, -(-width // 8))
    areas = np.bitwise_count(masks).sum(axis=(1, 2), dtype=np.int64)
    chosen = self._largest(np.arange(len(present)), areas)
    return present[chosen], masks[chosen], len(present) - len(chosen)

  def _largest(
    self, rows: Int64[np.ndarray, ' n'], areas: Int64[np.ndarray, ' n']
  ) -> Int64[np.ndarray, ' kept']:
    """The rows of largest area that fit the table, in their own order."""
    if len(rows) <= self.max_segments:
      return rows
    order = np.argsort(-areas, kind='stable')[: self.max_segments]
    return rows[np.sort(order)]


def count_pixels(
  segments: Int16[np.ndarray, 'h w'], rows: int
) -> Int64[np.ndarray, ' rows']:
  """Pixels of each row of a segment map."""
  return np.bincount(segments.reshape(-1) + 1, minlength=rows + 1)[1:]


def pad_rows(
  values: Shaped[np.ndarray, 'n ...'], length: int
) -> Shaped[np.ndarray, 'length ...']:
  """Appends zeros up to `length` rows."""
  padded = np.zeros((length, *values.shape[1:]), values.dtype)
  padded[: len(values)] = values
  return padded


def encode_id(image_id: str) -> UInt8[np.ndarray, ' bytes']:
  """An image id as a row of bytes, so that it can travel in a batch of arrays.

  Raises:
    RecordError: longer than the row.
  """
  data = image_id.encode()
  if len(data) > ID_BYTES:
    raise RecordError(f'image id {image_id!r} has more than {ID_BYTES} bytes')
  return np.frombuffer(data.ljust(ID_BYTES, b'\0'), np.uint8)


def decode_ids(rows: UInt8[np.ndarray, 'b bytes']) -> list[str]:
  """The image ids of a batch; empty where an example is padding."""
  return [row.tobytes().rstrip(b'\0').decode() for row in np.asarray(rows)]
