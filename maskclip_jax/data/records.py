"""The one schema that every dataset is stored in, its bytes, and its label maps.

A record keeps what the owners published: the photo's own bytes, label maps as PNG with
their original values, the tables of the official JSON with their original ids. Nothing
is decoded and encoded again unless the published form is not a picture (a MATLAB file)
or the evaluation protocol itself asks for it (ADE20K-847, [masqclip 9.3]). Which of the
stored values are classes is decided on reading, by a view (`views.py`), so one build
serves every vocabulary of a dataset.

Stored record (what `sources.open_source(...)[i]` returns):

| field           | type                | content                                      |
|-----------------|---------------------|----------------------------------------------|
| `image`         | bytes               | JPEG; labels belong to the picture without   |
|                 |                     | EXIF rotation: rotate both or neither        |
| `image_id`      | str                 | COCO: the number; others: the file stem      |
| `file_name`     | str                 | of the photo, as published; for messages     |
| `height`,`width`| int                 | of the picture as stored, unrotated          |
| `segments`      | bytes               | PNG of segment ids, `b''` where there is none|
| `segments_info` | `Table`, N rows     | one row per id in `segments`                 |
| `semantic`      | bytes               | PNG of original label values, `b''` if none  |
| `instances`     | `Table` + masks     | objects, which may overlap                   |
| `captions`      | list of str         |                                              |
| `subsets`       | list of str         | lists the photo is on: 'karpathy_train', ... |
| `superpixels`   | bytes               | PNG of superpixel numbers; `b''` if not made |

`segments` is 16-bit with one channel, or 8-bit RGB with id = R + 256 G + 65536 B as in
COCO; `read_label_map` reads both. Id 0 is void. A row of a `Table` has

| column        | dtype     | content                                                |
|---------------|-----------|--------------------------------------------------------|
| `id`          | int64     | value in the map; annotation id for instances          |
| `class`       | int32     | index in the dataset's own vocabulary                  |
| `category_id` | int32     | original id of the class                               |
| `crowd`       | bool      | a region of many objects, or one not to be judged      |
| `area`        | float32   | pixels, as the official JSON says (not always what the |
|               |           | map says [masqclip 9.2])                               |
| `bbox`        | float32, 4| x, y, width, height in pixels                          |
| `segmentation`| str       | instances only: JSON of the official value: polygons   |
|               |           | [[x, y, ...], ...] or RLE {'size': [h, w], 'counts'}   |

Columns are numpy arrays of equal length (`segmentation` a list); an image without
segments has length 0.

In a batch (`examples.py`): `segments[H, W]` int16, the row number in `class` (-1 where
no row applies), with `class[N]`, `valid[N]`, `crowd[N]` padded to N rows; overlapping
instances as bit-packed masks [N, H, ceil(W / 8)].
"""

import functools
import io
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import Bool, Float32, Int32, Int64, Integer
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6

Table = TypedDict(
  'Table',
  {
    'id': Int64[np.ndarray, ' n'],
    'class': Int32[np.ndarray, ' n'],
    'category_id': Int32[np.ndarray, ' n'],
    'crowd': Bool[np.ndarray, ' n'],
    'area': Float32[np.ndarray, ' n'],
    'bbox': Float32[np.ndarray, 'n 4'],
  },
)


class Instances(Table):
  segmentation: list[str]


class Record(TypedDict):
  """One stored example; the module's docstring describes the fields."""

  image: bytes
  image_id: str
  file_name: str
  height: int
  width: int
  segments: bytes
  segments_info: Table
  semantic: bytes
  instances: Instances
  captions: list[str]
  subsets: list[str]
  superpixels: bytes


COLUMNS = {
  'id': np.int64,
  'class': np.int32,
  'category_id': np.int32,
  'crowd': np.bool_,
  'area': np.float32,
}


def table(
  rows: Sequence[Mapping[str, Any]], *, masks: bool = False
) -> Table | Instances:
  """Turns rows into the columns of a `Table`, or of `Instances` with `masks`.

  Raises:
    KeyError: a row lacks a column.
  """
  columns = {
    name: np.array([row[name] for row in rows], dtype)
    for name, dtype in COLUMNS.items()
  }
  columns['bbox'] = np.array([row['bbox'] for row in rows], np.float32).reshape(-1, 4)
  if masks:
    columns['segmentation'] = [row['segmentation'] for row in rows]
  return columns


def make(
  image: bytes,
  image_id: str,
  file_name: str,
  size: tuple[int, int],
  *,
  segments: bytes = b'',
  segments_info: Sequence[Mapping[str, Any]] = (),
  semantic: bytes = b'',
  instances: Sequence[Mapping[str, Any]] = (),
  captions: Sequence[str] = (),
  subsets: Sequence[str] = (),
  superpixels: bytes = b'',
) -> Record:
  """Puts a record together; what a dataset lacks stays empty.

  Args:
    image: the photo's file.
    image_id: its name in the dataset.
    file_name: its file as published.
    size: height and width in pixels.
    segments, semantic, superpixels: PNG.
    segments_info, instances: rows of their tables.
    captions, subsets: as in the record.
  """
  return {
    'image': image,
    'image_id': image_id,
    'file_name': file_name,
    'height': size[0],
    'width': size[1],
    'segments': segments,
    'segments_info': table(segments_info),
    'semantic': semantic,
    'instances': table(instances, masks=True),
    'captions': list(captions),
    'subsets': list(subsets),
    'superpixels': superpixels,
  }


def features() -> 'tfds.features.FeaturesDict':
  """The schema as TFDS features: only the photo is a picture to TFDS.

  Label maps are plain bytes, because TFDS cannot decode 16-bit PNG without TensorFlow
  and would turn palette PNG into colours.
  """
  import tensorflow_datasets as tfds

  text = tfds.features.Text()
  box = tfds.features.Tensor(shape=(4,), dtype=np.float32)
  columns = {**COLUMNS, 'bbox': box}
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
      'image_id': text,
      'file_name': text,
      'height': np.int32,
      'width': np.int32,
      'segments': text,
      'segments_info': tfds.features.Sequence(columns),
      'semantic': text,
      'instances': tfds.features.Sequence({**columns, 'segmentation': text}),
      'captions': tfds.features.Sequence(text),
      'subsets': tfds.features.Sequence(text),
      'superpixels': text,
    }
  )


@functools.cache
def _features() -> 'tfds.features.FeaturesDict':
  return features()


def serialise(record: Record) -> bytes:
  """Encodes a record as a tf.train.Example, as its TFDS features prescribe.

  Raises:
    ValueError: a field is missing or of another type.
  """
  spec = _features()
  data = spec.serialize_example(spec.encode_example(record))
  # The order of a proto's map is free; fix it, so that equal builds are equal files.
  return tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True)


def parse(data: bytes) -> Record:
  """Decodes a record, straight from the proto: TFDS's own parser makes one Python
  object per number and takes twenty times as long.

  Raises:
    ValueError: the bytes are not a record, or are of another schema.
  """
  try:
    feature = tf_example_pb2.Example.FromString(data).features.feature
    return {
      'image': _bytes(feature, 'image'),
      'image_id': _bytes(feature, 'image_id').decode(),
      'file_name': _bytes(feature, 'file_name').decode(),
      'height': feature['height'].int64_list.value[0],
      'width': feature['width'].int64_list.value[0],
      'segments': _bytes(feature, 'segments'),
      'segments_info': _table(feature, 'segments_info'),
      'semantic': _bytes(feature, 'semantic'),
      'instances': {
        **_table(feature, 'instances'),
        'segmentation': _texts(feature, 'instances/segmentation'),
      },
      'captions': _texts(feature, 'captions'),
      'subsets': _texts(feature, 'subsets'),
      # Builds from before there were superpixels have no such field.
      'superpixels': _bytes(feature, 'superpixels')
      if 'superpixels' in feature
      else b'',
    }
  except (DecodeError, IndexError) as error:
    raise ValueError(
      f'a record of {len(data)} bytes cannot be read: the dataset is damaged or was '
      'not built by this program, build it again'
    ) from error


def _bytes(feature: Any, name: str) -> bytes:
  return feature[name].bytes_list.value[0]


def _texts(feature: Any, name: str) -> list[str]:
  return [value.decode() for value in feature[name].bytes_list.value]


def _table(feature: Any, name: str) -> Table:
  table = {}
  for column, dtype in COLUMNS.items():
    value = feature[f'{name}/{column}']
    kind = value.float_list if dtype == np.float32 else value.int64_list
    table[column] = np.array(kind.value, dtype)
  boxes = feature[f'{name}/bbox'].float_list.value
  table['bbox'] = np.array(boxes, np.float32).reshape(-1, 4)
  return table


def read_label_map(png: bytes) -> Int32[np.ndarray, 'h w']:
  """Decodes a label PNG to its values.

  The published files are greyscale (ADE20K), palette (PASCAL VOC), 16-bit (ADE20K-847
  and PASCAL Context as we store them) and RGB-coded ids (COCO panoptic). OpenCV would
  turn a palette into colours and Pillow's modes differ per kind, so the header decides.

  Returns:
    Grey or palette: the stored values; RGB: R + 256 G + 65536 B (COCO's panoptic ids).

  Raises:
    ValueError: no PNG, damaged, or of a kind that no published label file has.
  """
  depth, colour = _header(png)
  if colour == _PALETTE:
    try:
      return np.asarray(Image.open(io.BytesIO(png))).astype(np.int32)
    except OSError as error:
      raise ValueError(f'damaged PNG: {error}') from error
  if (colour, depth) not in ((_GREY, 8), (_GREY, 16), (_RGB, 8), (_RGBA, 8)):
    raise ValueError(
      f'a PNG of colour type {colour} with {depth} bits per value is not a label map: '
      'expected palette, greyscale of 8 or 16 bits, or RGB of 8'
    )
  values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None:
    raise ValueError('damaged PNG: the pixels cannot be decoded')
  if colour == _GREY:
    return values.astype(np.int32)
  # The bytes R, G, B and a fourth are one little-endian integer.
  rgba = cv2.cvtColor(values[..., :3], cv2.COLOR_BGR2RGBA)
  return rgba.view('<i4')[..., 0].astype(np.int32) & 0xFFFFFF


def _header(png: bytes) -> tuple[int, int]:
  if len(png) < 33 or png[:8] != _SIGNATURE:
    raise ValueError('not a PNG file')
  # Some decoders fill the missing rows of a truncated file with zeros, silently.
  if b'IEND' not in png[-64:]:
    raise ValueError('damaged PNG: its end is missing')
  return struct.unpack('>BB', png[24:26])


def write_label_map(values: Integer[np.ndarray, 'h w']) -> bytes:
  """Encodes values 0..65535 as greyscale PNG, 8-bit where they fit, else 16-bit.

  Raises:
    ValueError: a value does not fit in 16 bits.
  """
  low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
  if low < 0 or high > 65535:
    raise ValueError(f'label values {low}..{high} do not fit in a 16-bit PNG')
  dtype = np.uint8 if high < 256 else np.uint16
  ok, png = cv2.imencode('.png', values.astype(dtype))
  if not ok:
    raise ValueError(f'OpenCV cannot write a PNG of shape {values.shape}')
  return png.tobytes()
