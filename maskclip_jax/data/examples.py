"""From a stored record to an example of any size, and from that to a batch's arrays.

A record holds bytes (`records.py`). `decode` makes the photo RGB uint8 and the labels
one map whose values are row numbers of a table of classes; only objects that overlap
stay apart, as polygons or bitmaps. EXIF orientation is applied to the photo, as the
official mappers do [masqclip 7], and to its labels alike, which they do not: labels
belong to the picture as stored.

In a batch ground truth is a map of row numbers plus a table of N rows (a float mask per
segment is never made); objects that overlap become bit-packed masks. More segments than
rows: the largest stay and the rest are counted in `dropped`, never lost silently.
"""

import dataclasses
import io

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int16, Int32, Int64, Shaped, UInt8
from PIL import Image

from maskclip_jax.data.pairs import fill_outside
from maskclip_jax.data.records import Instances, Record, Table, read_label_map
from maskclip_jax.data.transforms.polygons import (
  Region,
  has_box,
  pack_polygons,
  read_region,
)
from maskclip_jax.data.views import View

# Value of `segments` where there is no segment.
VOID = -1
# Bytes of an image id, UTF-8, zero-padded.
ID_BYTES = 64

Arrays = dict[str, np.ndarray]

_ORIENTATION_TAG = 0x0112
# How Pillow, OpenCV, pycocotools and our own readers report a damaged file.
_DAMAGE = (
  OSError,
  SyntaxError,
  ValueError,
  KeyError,
  # Values that are not labels: a map saved as colours, a polygon that is not one.
  IndexError,
  TypeError,
  Image.DecompressionBombError,
  cv2.error,
)
# EXIF orientation -> (transpose, then mirror left-right, then mirror top-bottom).
_ORIENTATIONS = {
  2: (False, True, False),
  3: (False, True, True),
  4: (False, False, True),
  5: (True, False, False),
  6: (True, True, False),
  7: (True, True, True),
  8: (True, False, True),
}


class RecordError(ValueError):
  """A stored example that cannot be used; the message names it and the reason."""


@dataclasses.dataclass(frozen=True)
class Example:
  """A decoded record.

  Attributes:
    image: RGB photo.
    image_id: the dataset's own name of the photo.
    segments: row number of the segment at each pixel, or VOID; None without labels, or
      where objects overlap.
    classes: class index of each row.
    crowd: rows that are regions of many objects.
    ids: original id of each row.
    areas: official area of each row, pixels of the picture as published.
    regions: one object per row where objects overlap, else empty.
    captions: sentences about the photo.
    superpixels: number of the superpixel at each pixel; None if they are not read.
  """

  image: UInt8[np.ndarray, 'h w 3']
  image_id: str
  segments: Int16[np.ndarray, 'h w'] | None = None
  classes: Int32[np.ndarray, ' n'] = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.int32)
  )
  crowd: Bool[np.ndarray, ' n'] = dataclasses.field(
    default_factory=lambda: np.zeros(0, bool)
  )
  ids: Int64[np.ndarray, ' n'] = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.int64)
  )
  areas: Float32[np.ndarray, ' n'] = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.float32)
  )
  regions: tuple[Region, ...] = ()
  captions: tuple[str, ...] = ()
  superpixels: Int32[np.ndarray, 'h w'] | None = None

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the photo."""
    return self.image.shape[:2]

  def categories(self) -> Int16[np.ndarray, 'h w']:
    """The class index at each pixel, or VOID."""
    if self.segments is None:
      raise ValueError(f'example {self.image_id} has no map of segments')
    table = np.append(self.classes, VOID).astype(np.int16)
    return table[self.segments]


def row_map(
  values: Int32[np.ndarray, 'h w'], ids: Int64[np.ndarray, ' n']
) -> Int16[np.ndarray, 'h w']:
  """Replaces ids by their position in `ids`, and any other value by VOID.

  Labels are constant over runs of pixels, so only the first pixel of each run is looked
  up: 24-bit ids would need a table of 16 million entries otherwise.
  """
  if not len(ids):
    return np.full(values.shape, VOID, np.int16)
  flat = values.reshape(-1)
  starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
  order = np.argsort(ids, kind='stable')
  heads = flat[starts]
  slot = np.minimum(np.searchsorted(ids[order], heads), len(ids) - 1)
  rows = np.where(ids[order][slot] == heads, order[slot], VOID).astype(np.int16)
  lengths = np.diff(starts, append=flat.size)
  return np.repeat(rows, lengths).reshape(values.shape)


def decode(
  record: Record, view: View, *, crowd: bool, superpixels: bool = False
) -> Example:
  """Decodes a stored record as a view reads it.

  Args:
    record: see `records.py`.
    view: what the labels are and which of their classes count. 'semantic': one row per
      class of the vocabulary, whether or not the photo shows it; 'panoptic': one row
      per segment; 'instance': one row and region per object.
    crowd: keep regions of many objects; training leaves them void [masqclip 7.2].
    superpixels: read them as well.

  Raises:
    RecordError: an unreadable photo or label map, or one of another size, or no
      superpixels; the message names the record.
  """
  try:
    image, orientation = _read_photo(record['image'])
    example = _read_labels(record, view, image, crowd)
    if superpixels:
      found = _read_superpixels(record, example.size)
      example = dataclasses.replace(example, superpixels=found)
  except _DAMAGE as error:
    name = record.get('file_name') or '?'
    raise RecordError(
      f'record {record.get("image_id", "?")} ({name}) cannot be read: '
      f'{str(error) or type(error).__name__}'
    ) from error
  return example if orientation == 1 else _upright(example, orientation)


def _read_photo(data: bytes) -> tuple[UInt8[np.ndarray, 'h w 3'], int]:
  with Image.open(io.BytesIO(data)) as picture:
    # Reading the tag parses the whole EXIF block, which most photos do not have.
    tags = picture.getexif() if 'exif' in picture.info else {}
    image = np.asarray(picture.convert('RGB'))
  orientation = tags.get(_ORIENTATION_TAG, 1)
  return image, orientation if orientation in _ORIENTATIONS else 1


def _read_superpixels(
  record: Record, size: tuple[int, int]
) -> Int32[np.ndarray, 'h w']:
  if not record['superpixels']:
    raise ValueError(
      'it has no superpixels: build the dataset again, with data build --superpixels'
    )
  found = read_label_map(record['superpixels'])
  if found.shape != size:
    raise ValueError(
      f'its superpixels are {found.shape[0]} x {found.shape[1]} pixels and the photo '
      f'is {size[0]} x {size[1]}'
    )
  return found


def _read_labels(
  record: Record, view: View, image: UInt8[np.ndarray, 'h w 3'], crowd: bool
) -> Example:
  example = Example(image, record['image_id'], captions=tuple(record['captions']))
  if view.kind == 'caption':
    return example
  if view.kind == 'pair':
    inside = read_label_map(record['semantic']) != 0
    return dataclasses.replace(
      example,
      image=fill_outside(image, inside),
      segments=np.where(inside, 0, VOID).astype(np.int16),
    )
  if view.field == 'instances':
    rows, classes = _rows(record['instances'], view, crowd)
    return _with_regions(example, record['instances'], rows, classes)
  if not record[view.field]:
    raise ValueError(f"it has no '{view.field}' labels")
  values = read_label_map(record[view.field])
  if values.shape != example.size:
    raise ValueError(
      f'its {view.field} labels are {values.shape[0]} x {values.shape[1]} pixels and '
      f'the photo is {example.size[0]} x {example.size[1]}'
    )
  if view.field == 'semantic':
    return _with_categories(example, view.lookup[values], view)
  table = record['segments_info']
  rows, classes = _rows(table, view, crowd or view.kind == 'semantic')
  segments = row_map(values, table['id'][rows])
  if view.kind == 'semantic':
    return _with_categories(example, np.append(classes, VOID)[segments], view)
  return dataclasses.replace(
    example,
    segments=segments,
    classes=classes,
    crowd=table['crowd'][rows],
    ids=table['id'][rows],
    areas=table['area'][rows],
  )


def _rows(
  table: Table, view: View, crowd: bool
) -> tuple[Int64[np.ndarray, ' kept'], Int32[np.ndarray, ' kept']]:
  """The rows of a table that are classes of the view, and their class indices."""
  classes = view.lookup[table['category_id']]
  rows = np.flatnonzero((classes >= 0) & (crowd | ~table['crowd']))
  return rows, classes[rows]


def _with_categories(
  example: Example, categories: Int32[np.ndarray, 'h w'], view: View
) -> Example:
  count = int(view.lookup.max()) + 1
  return dataclasses.replace(
    example,
    segments=categories.astype(np.int16),
    classes=np.arange(count, dtype=np.int32),
    crowd=np.zeros(count, bool),
    ids=np.arange(count, dtype=np.int64),
    areas=np.zeros(count, np.float32),
  )


def _with_regions(
  example: Example,
  table: Instances,
  rows: Int64[np.ndarray, ' kept'],
  classes: Int32[np.ndarray, ' kept'],
) -> Example:
  regions = [read_region(table['segmentation'][row], example.size) for row in rows]
  # An outline of fewer than three points is none; COCO has some.
  real = [
    i
    for i, region in enumerate(regions)
    if region.polygons or region.bitmap is not None
  ]
  rows = rows[real]
  return dataclasses.replace(
    example,
    regions=tuple(regions[i] for i in real),
    classes=classes[real],
    crowd=table['crowd'][rows],
    ids=table['id'][rows],
    areas=table['area'][rows],
  )


def _upright(example: Example, orientation: int) -> Example:
  """Turns a photo as its EXIF orientation says, and its labels with it."""
  transpose, mirror, flip = _ORIENTATIONS[orientation]

  def turn(array: Shaped[np.ndarray, 'h w ...']) -> Shaped[np.ndarray, 'h2 w2 ...']:
    array = array.swapaxes(0, 1) if transpose else array
    array = array[:, ::-1] if mirror else array
    return np.ascontiguousarray(array[::-1] if flip else array)

  image = turn(example.image)
  height, width = image.shape[:2]

  def turn_points(polygon: np.ndarray) -> np.ndarray:
    x, y = polygon[:, ::-1].T if transpose else polygon.T
    return np.stack([width - x if mirror else x, height - y if flip else y], axis=1)

  return dataclasses.replace(
    example,
    image=image,
    segments=None if example.segments is None else turn(example.segments),
    superpixels=None if example.superpixels is None else turn(example.superpixels),
    regions=tuple(
      Region(
        tuple(turn_points(polygon) for polygon in region.polygons),
        None if region.bitmap is None else turn(region.bitmap),
      )
      for region in example.regions
    ),
  )


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
