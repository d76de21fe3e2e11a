"""Examples of the world as records: scenes with labels, and pairs of picture and text.

An example is a function of the seed, its split and its number, and of nothing else.
"""

import json

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8
from pycocotools import mask as coco_mask

from maskclip_jax.data import records
from maskclip_jax.data.records import write_label_map
from maskclip_jax.miniature import captions
from maskclip_jax.miniature.drawing import SCENE, Drawing, draw
from maskclip_jax.miniature.layout import draw_plan
from maskclip_jax.miniature.plans import Plan
from maskclip_jax.miniature.styles import draw_style
from maskclip_jax.miniature.words import THINGS

# Raised whenever the same seed gives other examples.
REVISION = 5
QUALITY = 92
# Numbers that tell the splits' chance apart. Never change: they are in every example.
_SPLITS = {'train': 1, 'test': 2, 'shifted': 3, 'pairs': 4, 'photos': 5}


def chance(seed: int, split: str, index: int) -> np.random.Generator:
  """The source of all chance in one example.

  Raises:
    KeyError: no such split.
  """
  return np.random.default_rng([seed, _SPLITS[split], index])


def turn(seed: int, split: str, index: int, among: int) -> int:
  """A number below `among`; every run of `among` examples has each number once."""
  lap, place = divmod(index, among)
  rng = np.random.default_rng([seed, _SPLITS[split], lap, among])
  return int(rng.permutation(among)[place])


def jpeg(image: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """Encodes an RGB picture."""
  options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
  ok, data = cv2.imencode('.jpg', image[..., ::-1], options)
  if not ok:
    raise ValueError(f'OpenCV cannot write a JPEG of shape {image.shape}')
  return data.tobytes()


def scene(seed: int, split: str, index: int) -> records.Record:
  """A scene of `train`, `test` or `shifted`, with all labels.

  Returns:
    A record whose segments are things from the bottom to the top, then the stuff that
    is seen.
  """
  rng = chance(seed, split, index)
  plan = draw_plan(rng, turn(seed, split, index, THINGS))
  style = draw_style(rng, 1.0 if split == 'shifted' else 0.0)
  drawing = draw(plan, style, rng)
  segments, rows, instances = _annotate(plan, drawing)
  categories = np.append(0, [row['category_id'] for row in rows])
  stuff = [number - THINGS - 1 for number in categories.tolist() if number > THINGS]
  name = f'{split}-{index:06d}'
  return records.make(
    jpeg(drawing.image),
    name,
    f'{name}.jpg',
    (SCENE, SCENE),
    segments=write_label_map(segments),
    segments_info=rows,
    semantic=write_label_map(categories[segments]),
    instances=instances,
    captions=describe(plan, stuff, rng),
  )


def _annotate(
  plan: Plan, drawing: Drawing
) -> tuple[Integer[np.ndarray, 'h w'], list[dict], list[dict]]:
  """The map of segments 1..N, its table, and the objects."""
  things = len(plan.things)
  owners = np.where(drawing.things >= 0, drawing.things, drawing.regions + things)
  categories = [thing.kind.number + 1 for thing in plan.things]
  categories += [THINGS + 1 + ground.stuff for ground in plan.grounds]
  # Things may have covered a ground.
  present = np.flatnonzero(np.bincount(owners.reshape(-1))).tolist()
  numbers = np.zeros(len(categories), np.int32)
  rows, instances = [], []
  for number, owner in enumerate(present, 1):
    numbers[owner] = number
    mask = owners == owner
    row = {
      'id': number,
      'class': categories[owner] - 1,
      'category_id': categories[owner],
      'crowd': False,
      'area': float(np.count_nonzero(mask)),
      'bbox': _box(mask),
    }
    rows.append(row)
    if owner < things:
      instances.append({**row, 'segmentation': _run_lengths(mask)})
  return numbers[owners], rows, instances


def _box(mask: Bool[np.ndarray, 'h w']) -> list[int]:
  """x, y, width and height of what is set."""
  ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return [int(v) for v in (xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1)]


def _run_lengths(mask: Bool[np.ndarray, 'h w']) -> str:
  code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
  return json.dumps({'size': code['size'], 'counts': code['counts'].decode()})


def describe(plan: Plan, stuff: list[int], rng: np.random.Generator) -> list[str]:
  """Two or three sentences about a scene; the first names all."""
  shown = [(thing.kind, captions.size_word(thing.size, rng)) for thing in plan.things]
  some = [shown[n] for n in rng.permutation(len(shown))[:2].tolist()]
  texts = [
    captions.things(shown, rng, other=0) + captions.place(stuff, rng, 0),
    captions.opening(captions.things(shown, rng), rng),
    captions.opening(captions.things(some, rng), rng),
  ]
  return texts[: 2 + int(rng.random() < 0.5)]
