"""Textures of the grounds: square tiles that repeat without a seam, made once.

Their colours are muted, so that no ground is the colour of a thing. Lengths are pixels
of a scene of 256; colours are sRGB.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from maskclip_jax.miniature.words import STUFF

# Side of a tile.
SIDE = 512

Tile = UInt8[np.ndarray, 'side side 3']
_Plane = Float[np.ndarray, 'side side']
_Image = Float[np.ndarray, 'side side 3']


def _noise(rng: np.random.Generator, size: float, stretch: float = 1.0) -> _Plane:
  """Periodic noise of unit deviation with blobs of a size, stretched in x."""
  white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
  y = np.fft.fftfreq(SIDE)[:, None] * size
  x = np.fft.rfftfreq(SIDE)[None] * size * stretch
  smooth = np.fft.irfft2(white * np.exp(-10 * (x**2 + y**2)), (SIDE, SIDE))
  smooth -= smooth.mean()
  return smooth / smooth.std()


def _paint(level: _Plane, low: tuple[int, ...], high: tuple[int, ...]) -> _Image:
  """Colours from `low` at 0 to `high` at 1."""
  level = np.clip(level, -0.4, 1.4)[..., None]
  return np.array(low) + level * (np.array(high, float) - low)


def _grid() -> tuple[_Plane, _Plane]:
  """y and x of each pixel."""
  y, x = np.mgrid[:SIDE, :SIDE].astype(float)
  return y, x


def _joint(y: _Plane, height: float, x: _Plane, width: float) -> _Plane:
  """Distance to the nearest edge in a wall of bricks of a size."""
  y, x = y % height, x % width
  return np.minimum(np.minimum(y, height - y), np.minimum(x, width - x))


def _stroke(
  image: Tile,
  start: tuple[float, float],
  end: tuple[float, float],
  colour: tuple[float, ...],
  width: int,
) -> None:
  """Draws a line that goes on at the other side of the tile."""
  for dx in (-SIDE, 0, SIDE):
    for dy in (-SIDE, 0, SIDE):
      ends = [(int(x) + dx, int(y) + dy) for x, y in (start, end)]
      if any(-40 < x < SIDE + 40 and -40 < y < SIDE + 40 for x, y in ends):
        cv2.line(image, *ends, colour, width, cv2.LINE_AA)


def _grass(rng: np.random.Generator) -> Tile:
  image = _paint(0.5 + 0.25 * _noise(rng, 60), (70, 92, 40), (104, 124, 58))
  image = image.astype(np.uint8)
  for _ in range(5200):
    x, y = rng.uniform(0, SIDE, 2)
    lean, height = rng.normal(0, 3), rng.uniform(6, 13)
    shade = rng.uniform(0, 1)
    colour = tuple(np.array((56, 78, 30)) + shade * np.array((84, 84, 52)))
    _stroke(image, (x, y), (x + lean, y - height), colour, int(rng.integers(1, 3)))
  return image


def _water(rng: np.random.Generator) -> _Image:
  y, _ = _grid()
  bend = 9 * _noise(rng, 70, 2) + 4 * _noise(rng, 24, 2)
  waves = np.sin(2 * np.pi * (y / 32 + bend / 32))
  glint = np.clip((waves - 0.72) / 0.28, 0, 1)
  glint *= np.clip(0.5 + _noise(rng, 40, 2), 0, 1)
  image = _paint(0.5 + 0.35 * waves, (48, 110, 128), (92, 156, 168))
  return image + glint[..., None] * (96, 74, 66)


def _sand(rng: np.random.Generator) -> _Image:
  y, x = _grid()
  bend = 12 * _noise(rng, 110)
  ripples = np.sin(2 * np.pi * ((2 * y + x) / 64 + bend / 28))
  grain = _noise(rng, 1.5)
  level = 0.5 + 0.22 * ripples + 0.16 * grain + 0.1 * _noise(rng, 90)
  return _paint(level, (190, 164, 118), (226, 204, 160))


def _brick_wall(rng: np.random.Generator) -> _Image:
  y, x = _grid()
  rows, columns = 20, 10
  high, wide = SIDE / rows, SIDE / columns
  row = (y // high).astype(int)
  x += wide / 2 * (row % 2)
  column = (x // wide).astype(int) % columns
  edge = _joint(y, high, x, wide)
  brick = np.clip(edge - 1.2, 0, 1)[..., None]
  tone = rng.uniform(0, 1, (rows, columns))[row, column] + 0.14 * _noise(rng, 4)
  colour = _paint(tone, (116, 62, 50), (158, 92, 72))
  colour *= 1 + 0.12 * np.clip(2.5 - edge, 0, 1)[..., None]
  mortar = _paint(0.5 + 0.2 * _noise(rng, 3), (176, 168, 156), (204, 196, 184))
  return brick * colour + (1 - brick) * mortar


def _wooden_floor(rng: np.random.Generator) -> _Image:
  y, x = _grid()
  rows, boards = 14, 2
  high, wide = SIDE / rows, SIDE / boards
  row = (y // high).astype(int)
  x += rng.uniform(0, SIDE, rows)[row]
  board = (x // wide).astype(int) % boards
  edge = _joint(y, high, x, wide)
  grain = 0.2 * _noise(rng, 5, 14) + 0.12 * _noise(rng, 2, 20)
  rings = 0.16 * np.sin(y % high / 2.2 + 3 * _noise(rng, 30, 4))
  tone = rng.uniform(0, 1, (rows, boards))[row, board] + grain + rings
  image = _paint(tone, (112, 76, 46), (156, 114, 74))
  return image * np.clip(0.35 + 0.4 * edge, 0.35, 1)[..., None]


def _cells(
  spots: Float[np.ndarray, 'n 2'],
) -> tuple[Int[np.ndarray, 'side side'], Float32[np.ndarray, 'side side']]:
  """Number of the nearest spot to each pixel, around the edges too, and how far it is.

  Args:
    spots: y and x.
  """
  half, wide = SIDE // 2, 2 * SIDE
  elsewhere = np.full((wide, wide), 255, np.uint8)
  numbers = np.zeros((wide, wide), int)
  for number, (y, x) in enumerate(spots.astype(int).tolist()):
    for i in range(y - half, wide, SIDE):
      for j in range(x - half, wide, SIDE):
        if i >= 0 and j >= 0:
          elsewhere[i, j], numbers[i, j] = 0, number
  distance, labels = cv2.distanceTransformWithLabels(
    elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
  )
  number_of = np.zeros(labels.max() + 1, int)
  number_of[labels[elsewhere == 0]] = numbers[elsewhere == 0]
  middle = slice(half, half + SIDE)
  return number_of[labels[middle, middle]], distance[middle, middle]


def _pebbles(rng: np.random.Generator) -> _Image:
  count = 22
  step = SIDE / count
  spots = (np.mgrid[:count, :count].reshape(2, -1).T + 0.5) * step
  spots = (spots + rng.uniform(-0.42, 0.42, spots.shape) * step) % SIDE
  stone, distance = _cells(spots)
  wrapped = np.pad(stone, 1, mode='wrap')
  change = np.zeros((SIDE, SIDE), np.float32)
  for dy in (0, 1, 2):
    for dx in (0, 1, 2):
      change[wrapped[dy : dy + SIDE, dx : dx + SIDE] != stone] = 1
  gap = cv2.GaussianBlur(change, (0, 0), 1.6)
  tone = rng.uniform(0, 1, len(spots))[stone] + 0.1 * _noise(rng, 2)
  warm = rng.uniform(-1, 1, len(spots))[stone][..., None] * (8, 2, -8)
  image = _paint(tone, (98, 94, 90), (164, 158, 150)) + warm
  dome = 1.12 - 0.022 * distance
  return image * (dome * np.clip(1.15 - 1.5 * gap, 0.3, 1))[..., None]


def _tiles(rng: np.random.Generator) -> _Image:
  y, x = _grid()
  count = 14
  size = SIDE / count
  row, column = (y // size).astype(int), (x // size).astype(int)
  dark = ((row + column) % 2)[..., None]
  image = np.where(dark, (92, 112, 118), (178, 186, 184)).astype(float)
  tone = rng.uniform(-7, 7, (count, count))[row, column] + 2.5 * _noise(rng, 20)
  sheen = 7 - 7 * (x % size + y % size) / size
  image += (tone + sheen)[..., None]
  tile_ = np.clip(_joint(y, size, x, size) - 0.8, 0, 1)[..., None]
  return tile_ * image + (1 - tile_) * (132, 132, 128)


def _night_sky(rng: np.random.Generator) -> _Image:
  cloud = np.clip(0.4 + 0.35 * _noise(rng, 130) + 0.12 * _noise(rng, 36), 0, 1.3)
  image = _paint(cloud, (10, 13, 34), (40, 38, 78)).astype(np.float32)
  stars = np.zeros((SIDE, SIDE), np.float32)
  glow = np.zeros((SIDE, SIDE), np.float32)
  for _ in range(420):
    x, y = rng.integers(0, SIDE, 2)
    size = rng.pareto(2.2) + 0.5
    stars[y, x] = min(1.0, 0.3 + 0.35 * size)
    if size > 1.4:
      for i, j in ((0, 1), (1, 0), (1, 1)):
        stars[(y + i) % SIDE, (x + j) % SIDE] = 0.9
      glow[y, x] = min(size, 4)
  wide = np.pad(glow, 32, mode='wrap')
  glow = cv2.GaussianBlur(wide, (0, 0), 3.0)[32:-32, 32:-32] * 30
  light = np.clip(cv2.GaussianBlur(stars, (0, 0), 0.7) * 2.6 + glow, 0, 1)[..., None]
  return image + light * (np.array((255, 250, 228)) - image)


_MAKERS = {
  'grass': _grass,
  'water': _water,
  'sand': _sand,
  'brick wall': _brick_wall,
  'wooden floor': _wooden_floor,
  'pebbles': _pebbles,
  'tiles': _tiles,
  'night sky': _night_sky,
}


@functools.cache
def tile(stuff: int, *, half: bool = False) -> Tile:
  """The texture of a ground.

  Args:
    stuff: position in `words.STUFF`.
    half: the same tile at half the size, for pictures that show it small.
  """
  if half:
    size = (SIDE // 2, SIDE // 2)
    return cv2.resize(tile(stuff), size, interpolation=cv2.INTER_AREA)
  rng = np.random.default_rng([11, stuff])
  image = _MAKERS[STUFF[stuff].name](rng)
  return np.ascontiguousarray(np.clip(image, 0, 255), np.uint8)


@functools.cache
def grain() -> Float32[np.ndarray, 'side side 3']:
  """White noise of unit deviation, for photographs."""
  rng = np.random.default_rng(12)
  return rng.standard_normal((SIDE, SIDE, 3), np.float32)
