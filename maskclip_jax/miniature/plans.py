"""What is where in a scene: grounds, the borders between them, things.

Lengths are shares of the scene's side, from its upper left corner.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int8

from maskclip_jax.miniature import shapes
from maskclip_jax.miniature.words import Kind

# Side of the raster on which a plan knows which thing is on top.
RASTER = 128

# x, y and side of a part of a scene.
Square = tuple[float, float, float]
WHOLE: Square = (0.0, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Border:
  """A line between grounds, straight where `wave` is 0.

  Attributes:
    angle: the angle of its normal, radians.
    offset: the offset of the line from the centre along the normal.
    wave, count, phase: height, number over the scene, and start of the waves.
  """

  angle: float
  offset: float
  wave: float
  count: float
  phase: float

  def side(
    self, x: Float[np.ndarray, '*n'], y: Float[np.ndarray, '*n']
  ) -> Float[np.ndarray, '*n']:
    """Distance from the line, positive on the side of the normal."""
    cos, sin = math.cos(self.angle), math.sin(self.angle)
    across = (x - 0.5) * cos + (y - 0.5) * sin
    if not self.wave:
      return across - self.offset
    along = (y - 0.5) * cos - (x - 0.5) * sin
    waves = np.sin(2 * math.pi * self.count * along + self.phase)
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

  @property
  def area(self) -> float:
    """The area of the whole thing; the scene has 1."""
    return shapes.area(self.kind.shape) * (self.size / 2) ** 2

  def raster(self) -> tuple[tuple[slice, slice], Bool[np.ndarray, 'h w']]:
    """Rows and columns of the raster, and which of their cells it would cover."""
    centre = (self.x * RASTER, self.y * RASTER)
    line = shapes.placed(self.kind.shape, centre, self.size * RASTER / 2, self.angle)
    part = shapes.window(line, RASTER)
    return part, shapes.fill(line, part, fine=4) >= 128


@dataclasses.dataclass(frozen=True)
class Plan:
  """A scene.

  Attributes:
    grounds: one to three.
    borders: one less; see `reach`.
    things: from the bottom to the top.
    owners: number of the thing in each cell of the raster, -1 for ground.
  """

  grounds: tuple[Ground, ...]
  borders: tuple[Border, ...]
  things: tuple[Thing, ...]
  owners: Int8[np.ndarray, 'raster raster']

  def visible(self, square: Square = WHOLE) -> Float[np.ndarray, ' things']:
    """The share of each thing that is seen in a part of the scene."""
    if not self.things:
      return np.zeros(0)
    x, y, side = square
    rows, columns = (
      slice(max(0, round(start * RASTER)), max(0, round((start + side) * RASTER)))
      for start in (y, x)
    )
    part = self.owners[rows, columns].reshape(-1).astype(int)
    cells = np.bincount(part + 1, minlength=len(self.things) + 1)[1:]
    return cells / RASTER**2 / [thing.area for thing in self.things]

  def regions(self, square: Square = WHOLE) -> Float[np.ndarray, ' grounds']:
    """The share of a part of the scene that each ground has, things aside."""
    return region_shares(self.borders, square)


def reach(
  borders: Sequence[Border], x: Float[np.ndarray, '*n'], y: Float[np.ndarray, '*n']
) -> list[Float[np.ndarray, '*n']]:
  """How far inside ground 1, 2, ... points lie.

  A later ground is cut from the one before, so a point belongs to the last ground that
  it is inside of, else to ground 0.
  """
  distances = []
  for border in borders:
    side = border.side(x, y)
    distances.append(np.minimum(distances[-1], side) if distances else side)
  return distances


def region_map(
  borders: Sequence[Border], square: Square, steps: int
) -> Int8[np.ndarray, 'steps steps']:
  """Number of the ground at the middle of each cell of a grid."""
  x, y, side = square
  centres = (np.arange(steps) + 0.5) / steps * side
  numbers = np.zeros((steps, steps), np.int8)
  for distance in reach(borders, x + centres[None, :], y + centres[:, None]):
    numbers += distance > 0
  return numbers


def region_shares(
  borders: Sequence[Border], square: Square = WHOLE
) -> Float[np.ndarray, ' grounds']:
  """The share of a part of a scene that each ground has."""
  numbers = region_map(borders, square, 32)
  return np.bincount(numbers.reshape(-1), minlength=len(borders) + 1) / numbers.size
