"""The one schema that every dataset is stored in, and the TFDS features that spell it.

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

`segments` is 16-bit with one channel, or 8-bit RGB with id = R + 256 G + 65536 B as in
COCO; `labels.read_label_map` reads both. Id 0 is void. A row of a `Table` has

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

In a batch (`targets.py`): `segments[H, W]` int16, the row number in `class` (-1 where
no row applies), with `class[N]`, `valid[N]`, `crowd[N]` padded to N rows; overlapping
instances as bit-packed masks [N, H, ceil(W / 8)].
"""

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

# Raised whenever the content of records changes: old builds are then told apart.
VERSION = '1.0.0'

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


COLUMNS = {
  'id': np.int64,
  'class': np.int32,
  'category_id': np.int32,
  'crowd': np.bool_,
  'area': np.float32,
}


def table(rows: list[dict[str, Any]], *, masks: bool = False) -> Table | Instances:
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
    }
  )
