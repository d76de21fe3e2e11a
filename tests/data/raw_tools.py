"""Label files as annotation tools write them, for photos of one size."""

import base64
import json
import pathlib

from raw_files import jpeg, write

from maskclip_jax.data.own import OwnData

SIZE = (40, 60)
# A square of 20 pixels at (10, 5), as points.
SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]


def write_yolo(root: pathlib.Path, lines: str, config: str = '') -> OwnData:
  """Two photos in Ultralytics' layout, of which b has no label."""
  for seed, name in enumerate(('a', 'b')):
    write(root / 'images' / 'train', {f'{name}.jpg': jpeg(seed, SIZE)})
  write(root / 'images' / 'val', {'c.jpg': jpeg(2, SIZE)})
  write(root / 'labels' / 'train', {'a.txt': lines.encode()})
  write(root / 'labels' / 'val', {'c.txt': b''})
  text = config or 'path: ../datasets/mine\ntrain: images/train\nval: images/val\n'
  (root / 'data.yaml').write_text(text + 'names:\n  0: cat\n  1: sky\n')
  return OwnData('yolo', root, (root / 'data.yaml',))


def yolo_line(number: int, points=SQUARE) -> str:
  values = [v / side for x, y in points for v, side in ((x, SIZE[1]), (y, SIZE[0]))]
  return ' '.join(map(str, (number, *values)))


def shape(label, points, kind='polygon', **fields) -> dict:
  return {'label': label, 'points': points, 'shape_type': kind, **fields}


def labelme(shapes, photo='a.jpg', size=SIZE, data=None) -> bytes:
  content = {
    'version': '5.5.0',
    'shapes': shapes,
    'imagePath': photo,
    'imageData': data and base64.b64encode(data).decode(),
    'imageHeight': size[0],
    'imageWidth': size[1],
  }
  return json.dumps(content).encode()


HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>cat</name><color>#ff0010</color><type>any</type></label>
<label><name>dog</name></label>
<label><name>nose</name><type>points</type></label>
</labels></task></meta>
"""


def cvat(*shapes, names=('sub/a.jpg',), head=HEAD, size=SIZE, more='') -> bytes:
  """Photos of a project's subset 'Validation' that all have the shapes."""
  images = [
    f'<image id="{number}" name="{name}" width="{size[1]}" height="{size[0]}" '
    f'subset="Validation">{"".join(shapes)}</image>'
    for number, name in enumerate(names)
  ]
  return f'{head}{"".join(images)}{more}</annotations>'.encode()


def polygon(label='cat', points=SQUARE, **fields) -> str:
  listed = ';'.join(f'{x:.2f},{y:.2f}' for x, y in points)
  extra = ''.join(f' {name}="{value}"' for name, value in fields.items())
  return f'<polygon label="{label}" points="{listed}"{extra}/>'
