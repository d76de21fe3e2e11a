"""Pairs of a small picture and sentences, as CLIP is trained on.

A picture is a window of a scene that was drawn for it alone: around one thing, of the
ground, or most of the scene. About a quarter is drawn in the styles of the shifted
scenes or between, since the CLIP that this stands for has seen pictures of all sorts.
"""

import cv2
import numpy as np

from maskclip_jax.data import schema
from maskclip_jax.data.world import captions
from maskclip_jax.data.world.drawing import SCENE, Square, draw
from maskclip_jax.data.world.plans import Plan, draw_plan
from maskclip_jax.data.world.scenes import chance, jpeg, turn
from maskclip_jax.data.world.styles import draw_style
from maskclip_jax.data.world.words import STUFF, THINGS

SIDE = 112
# Of 20 pairs: around a thing, of the ground; the others are of scenes.
_THING, _STUFF, _ALL = 11, 3, 20
# Things of which less is seen are not named.
_SEEN = 0.5


def pair(seed: int, index: int) -> schema.Record:
  """A pair; its first caption says the most."""
  rng = chance(seed, 'pairs', index)
  sort = turn(seed, 'pairs', index, _ALL)
  if sort < _THING:
    subset, make = 'thing', _around_thing
  elif sort < _THING + _STUFF:
    subset, make = 'stuff', _of_stuff
  else:
    subset, make = 'scene', _of_scene
  plan, square, texts = make(seed, index, rng)
  strength = rng.uniform(0.2, 1.0) if rng.random() < 0.27 else 0.0
  style = draw_style(rng, strength)
  name = f'pairs-{index:06d}'
  return {
    'image': jpeg(_picture(plan, style, rng, square)),
    'image_id': name,
    'file_name': f'{name}.jpg',
    'height': SIDE,
    'width': SIDE,
    'segments': b'',
    'segments_info': schema.table([]),
    'semantic': b'',
    'instances': schema.table([], masks=True),
    'captions': texts,
    'subsets': [subset, 'shifted'] if strength else [subset],
  }


def _picture(plan: Plan, style, rng: np.random.Generator, square: Square):
  """Half of the windows are cut from a photo, half are drawn large and made smaller."""
  cut = round(SCENE * square[2])
  side = cut if rng.random() < 0.5 else 2 * SIDE
  image = draw(plan, style, rng, square, side).image
  shrink = side >= SIDE
  how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
  return cv2.resize(image, (SIDE, SIDE), interpolation=how)


def _around_thing(seed: int, index: int, rng: np.random.Generator):
  """A window around one thing, close or far."""
  # As `turn` by kind, whatever the sort of the neighbours.
  number = turn(seed + 1, 'pairs', index, THINGS)
  while True:
    plan = draw_plan(rng, number, most=int(rng.integers(1, 7)))
    sides = [t.size for t in plan.things if t.kind.number == number]
    if not sides:
      continue
    at = next(n for n, t in enumerate(plan.things) if t.kind.number == number)
    thing = plan.things[at]
    framing = 3.2 ** rng.uniform(0, 1)
    side = min(1.0, thing.size * framing)
    # Off the centre as far as the thing stays whole, and a little further.
    slack = max(0.0, (side - thing.size) / 2) + 0.08 * thing.size
    x = thing.x - side / 2 + rng.uniform(-slack, slack)
    y = thing.y - side / 2 + rng.uniform(-slack, slack)
    square = (*np.clip((x, y), 0, 1 - side).tolist(), side)
    if plan.visible(square)[at] >= _SEEN:
      break
  stuff = _stuff(plan, square)
  size = captions.size_word(thing.size / side, rng)
  own = [(thing.kind, size if rng.random() < 0.5 else '')]
  below = captions.on(stuff, rng, 0) if stuff and rng.random() < 0.5 else ''
  texts = [
    captions.things(own, rng, other=0) + below,
    captions.noun(thing.kind, rng, other=0),
    captions.opening(captions.things(own, rng, other=0.4), rng),
    captions.part(thing.kind, rng)
    if rng.random() < 0.8
    else captions.opening(captions.things(own, rng), rng),
  ]
  return plan, square, texts


def _of_stuff(seed: int, index: int, rng: np.random.Generator):
  """A window of the ground, mostly of one stuff."""
  number = turn(seed + 1, 'pairs', index, len(STUFF))
  while True:
    plan = draw_plan(rng, most=0)
    at = [n for n, g in enumerate(plan.grounds) if g.stuff == number]
    if not at:
      continue
    side = rng.uniform(0.25, 0.8)
    square = (*rng.uniform(0, 1 - side, 2).tolist(), side)
    if plan.regions(square)[at[0]] > 0.7:
      break
  name = captions.ground(number, rng, 0)
  texts = [
    captions.listing([STUFF[n].name for n in _stuff(plan, square)]),
    name,
    captions.opening(captions.ground(number, rng, 0.4), rng),
    captions.opening(name, rng),
  ]
  return plan, square, texts


def _of_scene(seed: int, index: int, rng: np.random.Generator):
  """A whole scene, or more than half of one."""
  number = turn(seed + 1, 'pairs', index, THINGS)
  while True:
    plan = draw_plan(rng, number)
    side = 1.0 if rng.random() < 0.4 else rng.uniform(0.6, 1.0)
    square = (*rng.uniform(0, 1 - side, 2).tolist(), side)
    seen = np.flatnonzero(plan.visible(square) >= _SEEN)
    if len(seen):
      break
  shown = [plan.things[n] for n in seen.tolist()]
  kinds = [(t.kind, captions.size_word(t.size / side, rng)) for t in shown]
  stuff = _stuff(plan, square)
  some = [kinds[n] for n in rng.permutation(len(kinds))[:2]]
  texts = [
    captions.things(kinds, rng, other=0, most=6) + captions.on(stuff, rng, 0),
    captions.things(kinds, rng, other=0),
    captions.opening(captions.things(kinds, rng), rng),
    captions.things(some, rng, other=0.1) + captions.on(stuff, rng, 0.1),
  ]
  return plan, square, texts


def _stuff(plan: Plan, square: Square) -> list[int]:
  """Stuff that covers a tenth of a window or more."""
  shares = plan.regions(square)
  return [plan.grounds[n].stuff for n in np.flatnonzero(shares > 0.1)]
