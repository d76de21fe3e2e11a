"""Small labels of one's own in the forms that are read, to build and to spoil."""

import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from raw_files import jpeg, png, write

from maskclip_jax.data.own import OwnData

SIZE = (24, 32)
NAMES = ('a.jpg', 'b.jpg', 'c.jpg')
SKY, CAR, VOID = 1, 7, 255
COLOURS = np.zeros((256, 3), np.uint8)
COLOURS[SKY], COLOURS[CAR], COLOURS[VOID] = (10, 20, 30), (200, 0, 0), 255
TABLE = 'id,name\n1,sky\n7,car\n'
COLOUR_TABLE = 'name,r,g,b\nsky,10,20,30\ncar,200,0,0\n'


def coco() -> dict:
  """Three photos with a car (1) at the left and a dog (2) at the right each."""
  images = [
    {'id': i, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]}
    for i, name in enumerate(NAMES)
  ]
  objects = [
    {
      'id': 10 * image['id'] + kind,
      'image_id': image['id'],
      'category_id': kind,
      'segmentation': [[9 * kind, 2, 9 * kind + 7, 2, 9 * kind + 7, 20, 9 * kind, 20]],
    }
    for image in images
    for kind in (1, 2)
  ]
  categories = [{'id': 1, 'name': 'car'}, {'id': 2, 'name': 'dog'}]
  return {'images': images, 'annotations': objects, 'categories': categories}


def write_coco(
  root: pathlib.Path,
  change: Callable[[dict], object] = lambda data: None,
  *,
  photos: Sequence[str] = NAMES,
  files: Sequence[str] = ('labels.json',),
) -> OwnData:
  """Writes photos and the same labels into each of some files."""
  for seed, name in enumerate(photos):
    write(root / 'photos', {name: jpeg(seed, SIZE)})
  data = coco()
  change(data)
  write(root, dict.fromkeys(files, json.dumps(data).encode()))
  return OwnData('coco', root / 'photos', tuple(root / file for file in files))


def mask() -> np.ndarray:
  """The upper half is sky and the lower half a car, and nothing is at the left."""
  values = np.full(SIZE, SKY, np.uint8)
  values[12:], values[:, :2] = CAR, VOID
  return values


def coloured(values: np.ndarray, alpha: int | None = None) -> bytes:
  """A mask in the colours of `COLOUR_TABLE`."""
  pixels = COLOURS[values]
  if alpha is not None:
    pixels = np.dstack([pixels, np.full(values.shape, alpha, np.uint8)])
  return png(pixels)


def write_masks(
  root: pathlib.Path,
  encode: Callable[[np.ndarray], bytes] = png,
  *,
  names: Sequence[str] = ('a', 'b', 'sub/c'),
  ending: str = '.png',
  values: np.ndarray | None = None,
  classes: str = TABLE,
  size: tuple[int, int] = SIZE,
  **changes,
) -> OwnData:
  """Writes photos, a mask for each, and the table of the classes."""
  values = mask() if values is None else values
  for seed, name in enumerate(names):
    write(root / 'photos', {f'{name}.JPG': jpeg(seed, size)})
    write(root / 'masks', {f'{name}{ending}': encode(values)})
  write(root, {'classes.csv': classes.encode()})
  places = {'masks': root / 'masks', 'classes': root / 'classes.csv'}
  return OwnData('masks', root / 'photos', **{**places, **changes})
