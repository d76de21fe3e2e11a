"""Pairs of a small picture and sentences, as CLIP is trained on.

A picture shows part of a scene that was invented for it alone. `pairs` are windows
around one thing, of the ground, or most of the scene; `photos` show whole scenes or the
ground, and nothing from near. About a quarter is drawn in the styles of the shifted
scenes or between, since the CLIP that this stands for has seen pictures of all sorts.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

from maskclip_jax.data import records
from maskclip_jax.miniature import captions
from maskclip_jax.miniature.drawing import SCENE, draw
from maskclip_jax.miniature.examples import chance, jpeg, turn
from maskclip_jax.miniature.layout import COUNTS, draw_plan
from maskclip_jax.miniature.plans import WHOLE, Plan, Square
from maskclip_jax.miniature.styles import Style, draw_style
from maskclip_jax.miniature.words import STUFF, THINGS

SIDE = 112
# Of every 20 pairs, so many are around a thing and of the ground; the rest is scenes.
_THING, _STUFF, _ALL = 14, 2, 20
_SHIFTED = 0.27
# Side of a window around a thing, in sides of its box: of close ones, at least half of
# them, and of the others.
CLOSE, _WIDEST, _NEAR = 1.6, 3.2, 0.5
# What is named: things of which half is seen, stuff that has a tenth of the picture.
_SEEN, _SHARE = 0.5, 0.1
# Of so many photos one is of the ground alone; least side of the others, as a share of
# the scene's; and what of a thing they have to show.
_GROUND, _PHOTO, _SEEN_FAR = 10, 0.8, 0.4

_Window = tuple[Plan, Square, list[str]]


def pair(seed: int, index: int) -> records.Record:
  """A window: a record with four captions and no labels; the first says the most.

  Its `subsets` are 'thing', 'stuff' or 'scene', 'close' where a thing fills the window,
  and 'shifted' where the style is.
  """
  rng = chance(seed, 'pairs', index)
  sort = turn(seed, 'pairs', index, _ALL)
  if sort < _THING:
    window, close = _around_thing(seed, index, rng)
    subsets = ['thing', 'close'] if close else ['thing']
  elif sort < _THING + _STUFF:
    number = turn(seed, 'pairs', index, len(STUFF))
    window, subsets = _of_stuff(number, rng), ['stuff']
  else:
    window, subsets = _of_scene(seed, index, rng), ['scene']
  return _record(f'pairs-{index:06d}', window, subsets, rng)


def photo(seed: int, index: int) -> records.Record:
  """A photo: a record with four captions and no labels; the first says the most.

  Its `subsets` are 'stuff' or 'scene', and 'shifted' where the style is.
  """
  rng = chance(seed, 'photos', index)
  if turn(seed, 'photos', index, _GROUND):
    number = turn(seed, 'photos', index, THINGS)
    window, subsets = _of_photo(number, rng), ['scene']
  else:
    number = turn(seed, 'photos', index // _GROUND, len(STUFF))
    window, subsets = _of_stuff(number, rng), ['stuff']
  return _record(f'photos-{index:06d}', window, subsets, rng)


def _record(
  name: str, window: _Window, subsets: list[str], rng: np.random.Generator
) -> records.Record:
  """The record of a window, drawn in a style of its own."""
  plan, square, texts = window
  strength = rng.uniform(0.2, 1.0) if rng.random() < _SHIFTED else 0.0
  style = draw_style(rng, strength)
  return records.make(
    jpeg(_picture(plan, style, rng, square)),
    name,
    f'{name}.jpg',
    (SIDE, SIDE),
    captions=texts,
    subsets=[*subsets, 'shifted'] if strength else subsets,
  )


def _picture(
  plan: Plan, style: Style, rng: np.random.Generator, square: Square
) -> UInt8[np.ndarray, 'side side 3']:
  """Half of the windows are cut from a photo, half are drawn large and made smaller."""
  cut = round(SCENE * square[2])
  side = cut if rng.random() < 0.5 else 2 * SIDE
  image = draw(plan, style, rng, square, side).image
  how = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
  return cv2.resize(image, (SIDE, SIDE), interpolation=how)


def _around_thing(
  seed: int, index: int, rng: np.random.Generator
) -> tuple[_Window, bool]:
  """A window around one thing, near or far; and whether it is close."""
  number = turn(seed, 'pairs', index, THINGS)
  while True:
    near = rng.random() < _NEAR
    # From afar, things are as often alone as among others, where they are hard to tell.
    alone = not near and rng.random() < 0.5
    most = 1 if alone else int(rng.integers(1, COUNTS[-1] + 1))
    plan = draw_plan(rng, number, most=most)
    at = [n for n, thing in enumerate(plan.things) if thing.kind.number == number]
    if not at:
      continue
    thing = plan.things[at[0]]
    widest = CLOSE if near else _WIDEST
    side = min(1.0, thing.size * widest ** rng.uniform(0, 1))
    # Off the centre until it nearly touches the border, or is cut a little.
    slack = 0.75 * max(0.0, side - thing.size) / 2 + 0.08 * thing.size
    corner = np.array((thing.x, thing.y)) - side / 2 + rng.uniform(-slack, slack, 2)
    square = (*np.clip(corner, 0, 1 - side).tolist(), side)
    seen = plan.visible(square)
    if seen[at[0]] >= _SEEN:
      break
  size = captions.size_word(thing.size / side, rng)
  own = [(thing.kind, size if rng.random() < 0.6 else '')]
  shown = [other.kind for n, other in enumerate(plan.things) if seen[n] >= _SEEN]
  # Where there are others, naming one thing only would be wrong of many pictures.
  all_ = own if len(shown) == 1 else [(kind, '') for kind in shown]
  stuff = _stuff(plan, square)
  where = captions.place(stuff, rng, 0) if rng.random() < 0.5 else ''
  less = rng.random() < 0.8
  texts = [
    captions.things(all_, rng, other=0) + where,
    captions.noun(thing.kind, rng, other=0),
    captions.opening(captions.things(own, rng, other=0.4), rng),
    captions.part(thing.kind, rng)
    if less
    else captions.opening(captions.things(own, rng), rng),
  ]
  return (plan, square, texts), side <= CLOSE * thing.size


def _of_stuff(number: int, rng: np.random.Generator) -> _Window:
  """A window of the ground, mostly of one stuff."""
  while True:
    plan = draw_plan(rng, most=0)
    stuff = [ground.stuff for ground in plan.grounds]
    side = rng.uniform(0.25, 0.8)
    square = (*rng.uniform(0, 1 - side, 2).tolist(), side)
    if number in stuff and plan.regions(square)[stuff.index(number)] > 0.7:
      break
  texts = [
    captions.grounds(_stuff(plan, square), rng, 0),
    STUFF[number].name,
    captions.opening(captions.ground(number, rng, 0.4), rng),
    captions.opening(captions.ground(number, rng, 0), rng),
  ]
  return plan, square, texts


def _of_scene(seed: int, index: int, rng: np.random.Generator) -> _Window:
  """A whole scene, or more than half of one."""
  number = turn(seed, 'pairs', index, THINGS)
  plan, square, seen = _part(number, rng, least=0.6, whole=0.4, share=_SEEN)
  shown = [
    (thing.kind, captions.size_word(thing.size / square[2], rng))
    for thing in (plan.things[n] for n in seen)
  ]
  some = [shown[n] for n in rng.permutation(len(shown))[:2].tolist()]
  stuff = _stuff(plan, square)
  texts = [
    captions.things(shown, rng, other=0) + captions.place(stuff, rng, 0),
    captions.things(shown, rng, other=0),
    captions.opening(captions.things(shown, rng), rng),
    captions.things(some, rng, other=0.1) + captions.place(stuff, rng, 0.1),
  ]
  return plan, square, texts


def _part(
  number: int,
  rng: np.random.Generator,
  *,
  least: float,
  share: float,
  whole: float = 0.0,
) -> tuple[Plan, Square, list[int]]:
  """A scene, a large part of it, and which things that part shows enough of.

  Args:
    number: the kind, by number, that the scene starts from.
    rng: where chance comes from.
    least: smallest side of the part.
    share: how much of a thing has to be seen, 0 to 1.
    whole: chance that the part is all of the scene.
  """
  while True:
    plan = draw_plan(rng, number)
    side = rng.uniform(least, 1.0)
    square = (*rng.uniform(0, 1 - side, 2).tolist(), side)
    if whole and rng.random() < whole:
      square = WHOLE
    seen = np.flatnonzero(plan.visible(square) >= share).tolist()
    if seen:
      return plan, square, seen


def _of_photo(number: int, rng: np.random.Generator) -> _Window:
  """Most of a scene. Captions say all, or less: few photos' do say all."""
  plan, square, seen = _part(number, rng, least=_PHOTO, share=_SEEN_FAR)
  shown = [(plan.things[n].kind, '') for n in seen]
  some = [shown[n] for n in rng.permutation(len(shown))[:2].tolist()]
  stuff = _stuff(plan, square)
  texts = [
    captions.things(shown, rng, other=0) + captions.place(stuff, rng, 0),
    captions.things(shown, rng, other=0.1),
    captions.noun(some[0][0], rng, other=0.1),
    captions.things(some, rng, other=0.1) + captions.place(stuff, rng, 0.1),
  ]
  return plan, square, texts


def _stuff(plan: Plan, square: Square) -> list[int]:
  """Stuff that has its share of a window."""
  shares = plan.regions(square)
  return [plan.grounds[n].stuff for n in np.flatnonzero(shares >= _SHARE).tolist()]
