"""Coloured scenes in ADE20K's official layout: every class has a colour of its own.

Stuff fills the photo in bands, things lie on it as boxes that may overlap; some pixels
are unlabelled, and one photo has no thing at all.
"""

import colorsys
import io
import pathlib

import numpy as np
from PIL import Image

CHALLENGE = 'ADEChallengeData2016'
# SceneParse150 class (0-based), its class in the instance challenge (1-based) or None.
WALL, FLOOR, SKY, TREE, BED, WINDOW, PERSON, CAR = 0, 3, 2, 4, 7, 8, 12, 20
OBJECTS = {BED: 1, WINDOW: 2, PERSON: 4, CAR: 9}
STUFF = (WALL, FLOOR, SKY)
CLASSES = (*STUFF, *OBJECTS)
SIZES = ((96, 128), (120, 90), (80, 144))


def colour(label: int) -> tuple[int, int, int]:
  """A bright colour of a class."""
  place = CLASSES.index(label) if label in CLASSES else label
  hue = place / len(CLASSES) % 1
  return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.9))


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Photo, class map as published (class + 1), and object map."""
  rng = np.random.default_rng(seed)
  height, width = SIZES[seed % len(SIZES)]
  classes = np.zeros((height, width), int)
  objects = np.zeros((height, width, 3), np.uint8)
  edges = np.sort(rng.integers(10, height - 10, 2))
  for label, start, stop in zip(
    rng.permutation(STUFF), (0, *edges), (*edges, height), strict=True
  ):
    classes[start:stop] = label
  for number in range(1, 1 + (0 if seed % 5 == 4 else int(rng.integers(1, 4)))):
    label = int(rng.choice(list(OBJECTS)))
    top, left = rng.integers(0, height - 30), rng.integers(0, width - 40)
    box = np.s_[top : top + rng.integers(12, 30), left : left + rng.integers(12, 40)]
    classes[box] = label
    objects[box] = (OBJECTS[label], number, 0)
  photo = np.array([colour(label) for label in range(150)])[classes].astype(float)
  photo += rng.normal(0, 6, photo.shape)
  published = classes + 1
  published[:3, :7] = 0
  objects[:3, :7] = 0
  return photo.clip(0, 255).astype(np.uint8), published.astype(np.uint8), objects


def write(root: pathlib.Path, photos: int, *, things: bool = True) -> pathlib.Path:
  """Writes the raw dataset; returns the folder for `--raw`.

  Args:
    root: where to.
    photos: in the validation split.
    things: whether the object maps hold any object.
  """
  for split, stem, first, count in (
    ('training', 'train', 1000, 1),
    ('validation', 'val', 0, photos),
  ):
    for number in range(count):
      photo, classes, objects = scene(first + number)
      objects = objects * things
      name = f'ADE_{stem}_{number + 1:08d}'
      _save(photo, root / CHALLENGE / 'images' / split / f'{name}.jpg')
      _save(classes, root / CHALLENGE / 'annotations' / split / f'{name}.png')
      _save(objects, root / 'annotations_instance' / split / f'{name}.png')
  (root / CHALLENGE / 'sceneCategories.txt').write_text('ADE_train_00000001 bedroom\n')
  return root


def _save(image: np.ndarray, path: pathlib.Path) -> None:
  buffer = io.BytesIO()
  quality = {'quality': 95, 'subsampling': 0} if path.suffix == '.jpg' else {}
  Image.fromarray(image).save(buffer, path.suffix[1:].replace('jpg', 'jpeg'), **quality)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(buffer.getvalue())
