"""Generated pictures with segments, for tests and for trying a recipe out.

Every picture is one of a few coloured shapes on two halves of background. The class of
a shape is its kind and colour, so that there is something to learn.
"""

import dataclasses
import functools
import io

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from maskclip_jax.data import pairs, records
from maskclip_jax.data.views import find_view

VIEW, CAPTIONS, REGIONS = 'coco/panoptic', 'coco/captions', 'pairs/nouns'
_COLORS = {
  'red': (220, 40, 40),
  'green': (40, 180, 60),
  'blue': (50, 80, 220),
  'yellow': (230, 200, 40),
}
_GROUNDS = ((110, 110, 120), (170, 150, 130), (90, 120, 90))
_SHAPES = ('square', 'disc')


@functools.cache
def _categories() -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Ids of some things and of some stuff of the view."""
  classes = find_view(VIEW).words().classes
  things = tuple(c.id for c in classes if c.thing)
  stuff = tuple(c.id for c in classes if not c.thing)
  return things[: len(_COLORS) * len(_SHAPES)], stuff[: len(_GROUNDS)]


def _shape(
  rng: np.random.Generator, side: int, kind: str
) -> Bool[np.ndarray, 'side side']:
  radius = side * rng.uniform(0.1, 0.22)
  y, x = rng.uniform(0.2 * side, 0.8 * side, 2)
  rows, columns = np.ogrid[:side, :side]
  if kind == 'disc':
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
  return np.maximum(abs(rows - y), abs(columns - x)) <= radius


def _png(array: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'PNG')
  return file.getvalue()


@dataclasses.dataclass(frozen=True)
class GeneratedPictures:
  """A source of records, as of a built dataset.

  Attributes:
    number: how many there are.
    side: height and width in pixels.
    seed: another seed, other pictures.
  """

  number: int
  side: int
  seed: int = 0

  def __len__(self) -> int:
    return self.number

  def __getitem__(self, index: int) -> records.Record:
    rng = np.random.default_rng([self.seed, index])
    things, stuff = _categories()
    horizon = int(self.side * rng.uniform(0.35, 0.65))
    ids = np.full((self.side, self.side), 1, np.uint16)
    ids[horizon:] = 2
    grounds = rng.permutation(len(_GROUNDS))[:2]
    photo = np.array(_GROUNDS, float)[grounds][ids - 1]
    categories = [stuff[ground] for ground in grounds]
    names = []
    for _ in range(int(rng.integers(1, 4))):
      color, kind = (int(rng.integers(len(x))) for x in (_COLORS, _SHAPES))
      name = list(_COLORS)[color]
      names.append(f'a {name} {_SHAPES[kind]}')
      mask = _shape(rng, self.side, _SHAPES[kind])
      categories.append(things[color * len(_SHAPES) + kind])
      ids[mask], photo[mask] = len(categories), _COLORS[name]
    photo += rng.normal(0, 4, photo.shape)
    return self._record(
      index, photo.clip(0, 255).astype(np.uint8), ids, categories, names
    )

  def _record(
    self, index: int, photo: UInt8[np.ndarray, 'h w 3'], ids, categories, names
  ) -> records.Record:
    rows = [
      {
        'id': number,
        'class': category,
        'category_id': category,
        'crowd': False,
        'area': float((ids == number).sum()),
        'bbox': [0, 0, self.side, self.side],
      }
      for number, category in enumerate(categories, start=1)
    ]
    png = _png(ids)
    return records.make(
      _png(photo),
      f'generated-{index}',
      f'generated/{index}.png',
      (self.side, self.side),
      segments=png,
      segments_info=rows,
      captions=[' and '.join(names)],
      superpixels=png,
    )


@dataclasses.dataclass(frozen=True)
class GeneratedRegions:
  """Pairs of a region and its noun: one segment of each picture.

  Attributes:
    pictures: what the regions are cut from.
  """

  pictures: GeneratedPictures

  def __len__(self) -> int:
    return len(self.pictures)

  def __getitem__(self, index: int) -> records.Record:
    record = self.pictures[index]
    ids = records.read_label_map(record['segments'])
    categories = record['segments_info']['category_id']
    # Shapes hide each other, but never all of the last one.
    mask = ids == len(categories)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    photo = np.asarray(Image.open(io.BytesIO(record['image'])))
    noun = next(
      c.name for c in find_view(VIEW).words().classes if c.id == categories[-1]
    )
    return pairs.as_record(
      pairs.Pair(
        _png(photo[box]),
        records.write_label_map(mask[box].astype(np.uint8)),
        noun,
        1.0,
        record['image_id'],
      )
    )
