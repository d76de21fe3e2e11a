"""Where everything is in a scene: grounds, borders, things.

Lengths are shares of the scene's side, from its upper left corner.
"""

import dataclasses

import numpy as np
from jaxtyping import Int8, UInt8

from maskclip_jax.data.world import shapes
from maskclip_jax.data.world.words import COLOURS, PATTERNS, SHAPES, STUFF, THINGS, Kind

# A plan is checked on a raster of this side.
RASTER = 128
# A thing keeps this share of its area and this many cells of the raster. Scenes promise
# 40 % and 400 pixels of 256 x 256; the rest is for what a raster cannot see.
_SHARE = 0.48
_CELLS = 116
SMALLEST, LARGEST = 0.18, 0.45
_TRIES = 40
_LEAN = np.deg2rad(22)


@dataclasses.dataclass(frozen=True)
class Border:
  """A line between grounds, waving if `wave` is not 0.

  Attributes:
    angle: of its normal, radians.
    offset: of the line from the centre along the normal.
    wave, count, phase: height, number over the scene, and start of the waves.
  """

  angle: float
  offset: float
  wave: float
  count: float
  phase: float

  def side(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the line, positive on the side of the normal."""
    cos, sin = np.cos(self.angle), np.sin(self.angle)
    across = (x - 0.5) * cos + (y - 0.5) * sin
    if not self.wave:
      return across - self.offset
    along = (y - 0.5) * cos - (x - 0.5) * sin
    waves = np.sin(2 * np.pi * self.count * along + self.phase)
    return across - self.offset + self.wave * waves


@dataclasses.dataclass(frozen=True)
class Ground:
  """A ground: which stuff, and how its texture lies.

  Attributes:
    stuff: position in `words.STUFF`.
    x, y: start of the texture, shares of a tile.
    angle: radians.
    scale: factor on its size.
  """

  stuff: int
  x: float
  y: float
  angle: float
  scale: float


@dataclasses.dataclass(frozen=True)
class Thing:
  """One thing.

  Attributes:
    kind: what it is.
    x, y: its centre.
    size: side of its box before it is turned.
    angle: radians.
    jitter: how its colour differs from that of others, grey levels.
    phase: where its pattern starts, 0 to 1 in two directions.
    slant: direction of its pattern, radians.
  """

  kind: Kind
  x: float
  y: float
  size: float
  angle: float
  jitter: tuple[float, float, float]
  phase: tuple[float, float]
  slant: float

  def mask(self) -> UInt8[np.ndarray, 'raster raster']:
    """Where it is on the raster, if nothing covers it."""
    half = self.size * RASTER / 2
    centre = (self.x * RASTER, self.y * RASTER)
    lines = shapes.placed(self.kind.shape, centre, half, self.angle)
    return shapes.fill(lines, RASTER, RASTER)

  @property
  def cells(self) -> float:
    """Its whole area, cells of the raster."""
    return shapes.area(self.kind.shape) * (self.size * RASTER / 2) ** 2


@dataclasses.dataclass(frozen=True)
class Plan:
  """A scene.

  Attributes:
    grounds: one to three.
    borders: one less; the first separates ground 0 from the rest.
    things: from the bottom to the top.
    owners: number of the thing in each cell of the raster, -1 for ground.
  """

  grounds: tuple[Ground, ...]
  borders: tuple[Border, ...]
  things: tuple[Thing, ...]
  owners: Int8[np.ndarray, 'raster raster']

  def visible(self, box: tuple[float, float, float] = (0, 0, 1)) -> np.ndarray:
    """The share of each thing that is seen in a square (x, y, side)."""
    x, y, side = box
    rows = slice(max(0, round(y * RASTER)), max(0, round((y + side) * RASTER)))
    columns = slice(max(0, round(x * RASTER)), max(0, round((x + side) * RASTER)))
    part = self.owners[rows, columns].reshape(-1).astype(int)
    counts = np.bincount(part + 1, minlength=len(self.things) + 1)[1:]
    return (
      counts / np.array([thing.cells for thing in self.things] or [1.0])[: len(counts)]
    )

  def regions(self, box: tuple[float, float, float] = (0, 0, 1)) -> np.ndarray:
    """The share of a square that each ground has, things aside."""
    x, y, side = box
    steps = (np.arange(32) + 0.5) / 32 * side
    map_ = region_map(self.borders, x + steps[None, :], y + steps[:, None])
    return np.bincount(map_.reshape(-1), minlength=len(self.grounds)) / map_.size


def region_map(borders, x, y) -> np.ndarray:
  """Number of the ground at points."""
  shape = np.broadcast_shapes(x.shape, y.shape)
  numbers = np.zeros(shape, np.int8)
  for border in borders:
    numbers += (border.side(x, y) > 0) & (
      numbers == len(borders[: borders.index(border)])
    )
  return numbers


def draw_plan(
  rng: np.random.Generator, first: int | None = None, *, most: int = 7
) -> Plan:
  """Invents a scene.

  Args:
    rng: where chance comes from.
    first: number of a kind that must be there.
    most: things at most; 0 for grounds only.
  """
  borders = draw_borders(rng)
  grounds = draw_grounds(rng, borders)
  wanted = _kinds(rng, first, most)
  while True:
    things, owners = _place(rng, wanted)
    if len(things) >= min(3, len(wanted)):
      return Plan(grounds, borders, things, owners)


def draw_borders(rng: np.random.Generator) -> tuple[Border, ...]:
  """One or two borders that leave every ground enough room."""
  count = 1 if rng.random() < 0.55 else 2
  steps = (np.arange(32) + 0.5) / 32
  while True:
    borders = tuple(_border(rng) for _ in range(count))
    numbers = region_map(borders, steps[None, :], steps[:, None])
    shares = np.bincount(numbers.reshape(-1), minlength=count + 1) / numbers.size
    if shares.min() > (0.25 if count == 1 else 0.16):
      return borders


def _border(rng: np.random.Generator) -> Border:
  level = rng.random() < 0.6
  angle = np.pi / 2 + rng.normal(0, 0.15) if level else rng.uniform(0, 2 * np.pi)
  wave = rng.uniform(0.012, 0.035) if rng.random() < 0.5 else 0.0
  return Border(
    angle,
    rng.uniform(-0.28, 0.28),
    wave,
    rng.uniform(1.5, 4.0),
    rng.uniform(0, 2 * np.pi),
  )


def draw_grounds(
  rng: np.random.Generator, borders: tuple[Border, ...]
) -> tuple[Ground, ...]:
  """Different stuff for each region; walls and skies take the upper ones."""
  count = len(borders) + 1
  chosen = rng.permutation(len(STUFF))[:count]
  steps = (np.arange(16) + 0.5) / 16
  numbers = region_map(borders, steps[None, :], steps[:, None])
  heights = [
    np.nonzero(numbers == n)[0].mean() if (numbers == n).any() else 8.0
    for n in range(count)
  ]
  chosen = sorted(chosen.tolist(), key=lambda stuff: not STUFF[stuff].upright)
  stuffs = [0] * count
  for stuff, region in zip(chosen, np.argsort(heights), strict=True):
    stuffs[region] = stuff
  return tuple(
    Ground(
      stuff,
      rng.random(),
      rng.random(),
      rng.normal(0, 0.07) if STUFF[stuff].upright else rng.normal(0, 0.16),
      rng.uniform(0.85, 1.2),
    )
    for stuff in stuffs
  )


def _kinds(rng: np.random.Generator, first: int | None, most: int) -> list[Kind]:
  """What a scene is to hold: often twins, and often things alike in all but one."""
  if not most:
    return []
  count = min(most, int(rng.choice((3, 4, 5, 6, 7), p=(0.2, 0.27, 0.25, 0.17, 0.11))))
  wanted = [Kind.of(int(rng.integers(THINGS)) if first is None else first)]
  while len(wanted) < count:
    chance = rng.random()
    model = wanted[rng.integers(len(wanted))]
    if chance < 0.14:
      wanted.append(model)
    elif chance < 0.4:
      wanted.append(_relative(rng, model))
    else:
      wanted.append(Kind.of(int(rng.integers(THINGS))))
  return [wanted[n] for n in rng.permutation(count)]


def _relative(rng: np.random.Generator, kind: Kind) -> Kind:
  """A kind that differs in one attribute."""
  field, values = (
    ('shape', len(SHAPES)),
    ('colour', len(COLOURS)),
    ('pattern', len(PATTERNS)),
  )[rng.integers(3)]
  other = (getattr(kind, field) + int(rng.integers(1, values))) % values
  return dataclasses.replace(kind, **{field: other})


def _place(rng: np.random.Generator, wanted: list[Kind]):
  owners = np.full((RASTER, RASTER), -1, np.int8)
  things: list[Thing] = []
  seen = np.zeros(0)
  sizes = SMALLEST * (LARGEST / SMALLEST) ** rng.uniform(0, 1, len(wanted)) ** 1.15
  # Many things are smaller than few.
  sizes = np.clip(
    sizes * min(1.0, np.sqrt(0.6 / max(np.sum(sizes**2), 1e-9))), SMALLEST, LARGEST
  )
  for kind, size in zip(wanted, sorted(sizes, reverse=True), strict=True):
    for attempt in range(_TRIES):
      thing = _thing(rng, kind, max(SMALLEST, size * 0.97**attempt))
      mask = thing.mask() > 0
      own = np.count_nonzero(mask)
      covered = np.bincount(owners[mask].astype(int) + 1, minlength=len(things) + 1)[1:]
      floor = [max(_SHARE * other.cells, _CELLS) for other in things]
      if own > 0.85 * thing.cells and (seen - covered >= floor).all():
        owners[mask] = len(things)
        things.append(thing)
        seen = np.append(seen - covered, own)
        break
  return tuple(things), owners


def _thing(rng: np.random.Generator, kind: Kind, size: float) -> Thing:
  room = 0.46 * size
  return Thing(
    kind,
    rng.uniform(room, 1 - room),
    rng.uniform(room, 1 - room),
    size,
    rng.uniform(-_LEAN, _LEAN),
    tuple(rng.uniform(-9, 9, 3)),
    tuple(rng.random(2)),
    rng.uniform(0, np.pi),
  )
