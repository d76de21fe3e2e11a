"""Inventing scenes: which things and grounds, how large, and where."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from maskclip_jax.miniature.plans import (
  RASTER,
  Border,
  Ground,
  Plan,
  Thing,
  region_map,
  region_shares,
)
from maskclip_jax.miniature.words import COLOURS, PATTERNS, SHAPES, STUFF, THINGS, Kind

SMALLEST, LARGEST = 0.34, 0.6
# Least share of a thing that is seen, and least area in pixels of 256 x 256. Plans are
# made on a raster and with room for what it cannot see.
SEEN, PIXELS = 0.4, 400
_SEEN, _AREA = 0.47, 460 / 256**2
# Most things are placed where they cover next to nothing.
_APART, _APART_SEEN = 0.55, 0.9
_INSIDE = 0.85
_TRIES = 40
_LEAN = math.radians(22)
COUNTS, _COUNT_CHANCES = (2, 3, 4), (0.34, 0.38, 0.28)
# Chance that the next thing is like one that is there, or so but for one attribute.
_TWIN, _RELATIVE = 0.14, 0.26


def draw_plan(
  rng: np.random.Generator, first: int | None = None, *, most: int = COUNTS[-1]
) -> Plan:
  """Invents a scene.

  Args:
    rng: where chance comes from.
    first: number of a kind to start from.
    most: things at most; 0 for grounds only.
  """
  borders = _draw_borders(rng)
  grounds = _draw_grounds(rng, borders)
  wanted = _draw_kinds(rng, first, most)
  while True:
    plan = _place(rng, wanted, grounds, borders)
    if len(plan.things) >= min(COUNTS[0], len(wanted)):
      return plan


def _draw_borders(rng: np.random.Generator) -> tuple[Border, ...]:
  """One or two borders that leave every ground enough room."""
  count = 1 if rng.random() < 0.55 else 2
  while True:
    borders = tuple(_draw_border(rng) for _ in range(count))
    if region_shares(borders).min() > (0.25 if count == 1 else 0.16):
      return borders


def _draw_border(rng: np.random.Generator) -> Border:
  level = rng.random() < 0.6
  upwards = -math.pi / 2 + rng.normal(0, 0.15)
  return Border(
    angle=upwards if level else rng.uniform(0, 2 * math.pi),
    offset=rng.uniform(-0.28, 0.28),
    wave=rng.uniform(0.012, 0.035) if rng.random() < 0.5 else 0.0,
    count=rng.uniform(1.5, 4.0),
    phase=rng.uniform(0, 2 * math.pi),
  )


def _draw_grounds(
  rng: np.random.Generator, borders: Sequence[Border]
) -> tuple[Ground, ...]:
  """Different stuff for each region; walls and skies take the upper ones."""
  count = len(borders) + 1
  numbers = region_map(borders, (0, 0, 1), 16)
  rows = [np.nonzero(numbers == region)[0] for region in range(count)]
  heights = [row.mean() if len(row) else 0.0 for row in rows]
  chosen = rng.permutation(len(STUFF))[:count].tolist()
  chosen.sort(key=lambda stuff: not STUFF[stuff].upright)
  order = np.argsort(np.argsort(heights))
  return tuple(_draw_ground(rng, chosen[place]) for place in order.tolist())


def _draw_ground(rng: np.random.Generator, stuff: int) -> Ground:
  lean = 0.07 if STUFF[stuff].upright else 0.16
  x, y = rng.random(2).tolist()
  return Ground(stuff, x, y, rng.normal(0, lean), rng.uniform(0.85, 1.2))


def _draw_kinds(rng: np.random.Generator, first: int | None, most: int) -> list[Kind]:
  """What a scene is to hold: often twins, and often things alike in all but one."""
  if not most:
    return []
  count = min(most, int(rng.choice(COUNTS, p=_COUNT_CHANCES)))
  wanted = [Kind.of(int(rng.integers(THINGS)) if first is None else first)]
  while len(wanted) < count:
    chance, model = rng.random(), wanted[rng.integers(len(wanted))]
    if chance < _TWIN:
      wanted.append(model)
    elif chance < _TWIN + _RELATIVE:
      wanted.append(_relative(rng, model))
    else:
      wanted.append(Kind.of(int(rng.integers(THINGS))))
  return [wanted[place] for place in rng.permutation(count).tolist()]


def _relative(rng: np.random.Generator, kind: Kind) -> Kind:
  """A kind that differs in one attribute."""
  choices = (
    ('shape', len(SHAPES)),
    ('colour', len(COLOURS)),
    ('pattern', len(PATTERNS)),
  )
  field, values = choices[rng.integers(len(choices))]
  other = (getattr(kind, field) + int(rng.integers(1, values))) % values
  return dataclasses.replace(kind, **{field: other})


def _draw_sizes(rng: np.random.Generator, count: int) -> list[float]:
  """Sizes of things, the largest first; many things are smaller than few."""
  if not count:
    return []
  spread = rng.uniform(0, 1, count) ** 1.1
  sizes = SMALLEST * (LARGEST / SMALLEST) ** spread
  sizes *= min(1.0, math.sqrt(0.6 / np.sum(sizes**2)))
  return sorted(np.clip(sizes, SMALLEST, LARGEST).tolist(), reverse=True)


def _place(
  rng: np.random.Generator,
  wanted: Sequence[Kind],
  grounds: tuple[Ground, ...],
  borders: tuple[Border, ...],
) -> Plan:
  """Puts things on top of each other as far as all stay visible, or leaves them out."""
  owners = np.full((RASTER, RASTER), -1, np.int8)
  things: list[Thing] = []
  seen = np.zeros(0)
  for kind, size in zip(wanted, _draw_sizes(rng, len(wanted)), strict=True):
    apart = rng.random() < _APART
    for attempt in range(_TRIES):
      thing = _draw_thing(rng, kind, max(SMALLEST, size * 0.97**attempt))
      part, mask = thing.raster()
      under = owners[part][mask].astype(int)
      covered = np.bincount(under + 1, minlength=len(things) + 1)[1:] / RASTER**2
      # A place apart is looked for half of the time only: there may be none.
      share = _APART_SEEN if apart and 2 * attempt < _TRIES else _SEEN
      least = [max(_AREA, share * other.area) for other in things]
      own = under.size / RASTER**2
      if own > _INSIDE * thing.area and np.all(seen - covered >= least):
        owners[part][mask] = len(things)
        things.append(thing)
        seen = np.append(seen - covered, own)
        break
  return Plan(grounds, borders, tuple(things), owners)


def _draw_thing(rng: np.random.Generator, kind: Kind, size: float) -> Thing:
  # Some reach over the edge of the picture.
  room = 0.46 * size
  x, y = rng.uniform(room, 1 - room, 2).tolist()
  return Thing(
    kind,
    x,
    y,
    size,
    angle=rng.uniform(-_LEAN, _LEAN),
    jitter=tuple(rng.uniform(-9, 9, 3).tolist()),
    phase=tuple(rng.random(2).tolist()),
    slant=rng.uniform(0, math.pi),
  )
