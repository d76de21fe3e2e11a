"""Records made on the fly, in memory, for the tests of the input pipeline."""

import dataclasses
import io
import json

import cv2
import numpy as np
from PIL import Image

from maskclip_jax.data import records
from maskclip_jax.data.views import View

VIEW = View('toy/panoptic', 'panoptic', 'segments')


def jpeg(image, *, orientation=1, quality=92):
  file, exif = io.BytesIO(), Image.Exif()
  exif[0x0112] = orientation
  options = {'exif': exif} if orientation != 1 else {}
  Image.fromarray(image).save(file, 'JPEG', quality=quality, **options)
  return file.getvalue()


def png(values):
  """8 or 16 bits for a map of small values, RGB-coded ids for COCO's."""
  if values.dtype in (np.uint8, np.uint16):
    return cv2.imencode('.png', values)[1].tobytes()
  rgb = np.stack([values % 256, values // 256 % 256, values // 65536], axis=-1)
  return cv2.imencode('.png', rgb[..., ::-1].astype(np.uint8))[1].tobytes()


def photo(rng, height, width):
  small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def tiles(rng, height, width, ids):
  """A map in which each id has a few blocks."""
  rows, columns = height // 8 + 1, width // 8 + 1
  blocks = rng.permutation(np.resize(ids, rows * columns)).reshape(rows, columns)
  return np.kron(blocks, np.ones((8, 8), blocks.dtype))[:height, :width]


def row(id, category_id, *, crowd=False, **columns):
  defaults = {'class': category_id, 'area': 1.0, 'bbox': [0, 0, 1, 1]}
  return {
    'id': id,
    'category_id': category_id,
    'crowd': crowd,
    **defaults,
    **columns,
  }


def record(image, image_id='1', **fields):
  """A record with the given fields and nothing else."""
  height, width = fields.pop('size', None) or image.shape[:2]
  data = image if isinstance(image, bytes) else jpeg(image)
  return {
    'image': data,
    'image_id': image_id,
    'file_name': f'photos/{image_id}.jpg',
    'height': height,
    'width': width,
    'segments': b'',
    'segments_info': records.table([]),
    'semantic': b'',
    'instances': records.table([], masks=True),
    'captions': [],
    'subsets': [],
    'superpixels': b'',
    **fields,
  }


def panoptic_record(number, height=60, width=80, segments=6):
  """A COCO-like record: 24-bit ids, the last segment a crowd, some void."""
  rng = np.random.default_rng(number)
  ids = np.sort(rng.choice(16_000_000, segments, replace=False)) + 1
  categories = rng.choice([1, 2, 3, 17, 92, 184], segments)
  return record(
    photo(rng, height, width),
    f'{number:012d}',
    segments=png(tiles(rng, height, width, np.append(ids, 0))),
    segments_info=records.table(
      [
        row(int(i), int(c), crowd=k == segments - 1)
        for k, (i, c) in enumerate(zip(ids, categories, strict=True))
      ]
    ),
    captions=[f'photo {number}', f'number {number} again'],
  )


def instances(*values, category_ids=None, crowd=()):
  """A table of objects from official segmentation values."""
  category_ids = category_ids or [1] * len(values)
  rows = [
    row(100 + k, c, crowd=k in crowd, segmentation=json.dumps(v))
    for k, (v, c) in enumerate(zip(values, category_ids, strict=True))
  ]
  return records.table(rows, masks=True)


@dataclasses.dataclass
class Records:
  """A source; `damaged` positions hold a truncated photo."""

  number: int
  damaged: tuple[int, ...] = ()
  shapes: tuple[tuple[int, int], ...] = ((60, 80), (80, 60), (48, 48))

  def __len__(self):
    return self.number

  def __getitem__(self, index):
    value = panoptic_record(index, *self.shapes[index % len(self.shapes)])
    if index in self.damaged:
      value['image'] = value['image'][: len(value['image']) // 2]
    return value
