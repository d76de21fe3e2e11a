"""Textures of the grounds: square tiles that repeat without a seam, made once.

Their colours are muted, so that no ground is the colour of a thing.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from maskclip_jax.data.world.words import STUFF

# Side of a tile, in pixels of a scene of 256.
SIDE = 512

Tile = UInt8[np.ndarray, 'side side 3']


def _noise(
  rng: np.random.Generator, size: float, stretch: float = 1.0
) -> Float[np.ndarray, 'side side']:
  """Smooth periodic noise of unit deviation; blobs of `size` pixels.

  `stretch` makes them longer in x.
  """
  white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
  y = np.fft.fftfreq(SIDE)[:, None] * size
  x = np.fft.rfftfreq(SIDE)[None] * size * stretch
  smooth = np.fft.irfft2(white * np.exp(-10 * (x**2 + y**2)), (SIDE, SIDE))
  smooth -= smooth.mean()
  return smooth / smooth.std()


def _paint(
  level: Float[np.ndarray, 'side side'], low: tuple, high: tuple
) -> Float[np.ndarray, 'side side 3']:
  """Colours from `low` at 0 to `high` at 1."""
  level = np.clip(level, -0.4, 1.4)[..., None]
  return np.array(low) + level * (np.array(high, float) - low)


def _grid() -> tuple[np.ndarray, np.ndarray]:
  return np.mgrid[:SIDE, :SIDE].astype(float)


def _strokes(image: np.ndarray, start, end, colour, width: int) -> None:
  """A line on a tile that goes on at the other side."""
  for dx in (-SIDE, 0, SIDE):
    for dy in (-SIDE, 0, SIDE):
      ends = [(int(x) + dx, int(y) + dy) for x, y in (start, end)]
      if any(-40 < x < SIDE + 40 and -40 < y < SIDE + 40 for x, y in ends):
        cv2.line(image, *ends, colour, width, cv2.LINE_AA)


def _grass(rng: np.random.Generator) -> np.ndarray:
  image = _paint(0.5 + 0.25 * _noise(rng, 60), (70, 92, 40), (104, 124, 58))
  image = image.astype(np.uint8)
  for _ in range(5200):
    x, y = rng.uniform(0, SIDE, 2)
    lean, height = rng.normal(0, 3), rng.uniform(6, 13)
    shade = rng.uniform(0, 1)
    colour = tuple(np.array((56, 78, 30)) + shade * np.array((84, 84, 52)))
    _strokes(image, (x, y), (x + lean, y - height), colour, int(rng.integers(1, 3)))
  return image


def _water(rng: np.random.Generator) -> np.ndarray:
  y, _ = _grid()
  bend = 9 * _noise(rng, 70, 2) + 4 * _noise(rng, 24, 2)
  waves = np.sin(2 * np.pi * (y / 32 + bend / 32))
  crests = np.clip((waves - 0.72) / 0.28, 0, 1) * np.clip(
    0.5 + _noise(rng, 40, 2), 0, 1
  )
  image = _paint(0.5 + 0.35 * waves, (48, 110, 128), (92, 156, 168))
  return image + crests[..., None] * np.array((96, 74, 66.0))


def _sand(rng: np.random.Generator) -> np.ndarray:
  y, x = _grid()
  bend = 12 * _noise(rng, 110)
  ripples = np.sin(2 * np.pi * ((2 * y + x) / 64 + bend / 28))
  grain = _noise(rng, 1.5)
  level = 0.5 + 0.22 * ripples + 0.16 * grain + 0.1 * _noise(rng, 90)
  return _paint(level, (190, 164, 118), (226, 204, 160))


def _brick_wall(rng: np.random.Generator) -> np.ndarray:
  y, x = _grid()
  high, wide = SIDE // 22, SIDE // 10
  high, wide = SIDE / high, SIDE / wide
  high, wide = SIDE / 20, SIDE / 10
  row = np.floor(y / high).astype(int)
  across = x / wide + 0.5 * (row % 2)
  column = np.floor(across).astype(int) % 10
  into_y, into_x = (y / high) % 1 * high, across % 1 * wide
  edge = np.minimum(
    np.minimum(into_y, high - into_y), np.minimum(into_x, wide - into_x)
  )
  brick = np.clip(edge - 1.2, 0, 1)[..., None]
  tone = rng.uniform(0, 1, (20, 10))[row, column] + 0.14 * _noise(rng, 4)
  colour = _paint(tone, (116, 62, 50), (158, 92, 72))
  colour *= 1 + 0.12 * np.clip(2.5 - edge, 0, 1)[..., None]
  mortar = _paint(0.5 + 0.2 * _noise(rng, 3), (176, 168, 156), (204, 196, 184))
  return brick * colour + (1 - brick) * mortar


def _wooden_floor(rng: np.random.Generator) -> np.ndarray:
  y, x = _grid()
  high = SIDE / 14
  row = np.floor(y / high).astype(int)
  across = x + rng.uniform(0, SIDE, 14)[row]
  board = np.floor(across / 256).astype(int) % 2
  into_y, into_x = (y / high) % 1 * high, across % 256
  edge = np.minimum(np.minimum(into_y, high - into_y), np.minimum(into_x, 256 - into_x))
  grain = 0.2 * _noise(rng, 5, 14) + 0.12 * _noise(rng, 2, 20)
  rings = 0.16 * np.sin(into_y / 2.2 + 3 * _noise(rng, 30, 4))
  tone = rng.uniform(0, 1, (14, 2))[row, board] + grain + rings
  image = _paint(tone, (112, 76, 46), (156, 114, 74))
  return image * np.clip(0.35 + 0.4 * edge, 0.35, 1)[..., None]


def _pebbles(rng: np.random.Generator) -> np.ndarray:
  cells = 22
  step = SIDE / cells
  spots = (np.mgrid[:cells, :cells].reshape(2, -1).T + 0.5) * step
  spots = (spots + rng.uniform(-0.42, 0.42, spots.shape) * step) % SIDE
  tiled = np.full((2 * SIDE, 2 * SIDE), 255, np.uint8)
  numbers = np.zeros((2 * SIDE, 2 * SIDE), int)
  for number, (a, b) in enumerate(spots.astype(int)):
    for i in (a - SIDE // 2, a + SIDE // 2, a + 3 * SIDE // 2):
      for j in (b - SIDE // 2, b + SIDE // 2, b + 3 * SIDE // 2):
        if 0 <= i < 2 * SIDE and 0 <= j < 2 * SIDE:
          tiled[i, j], numbers[i, j] = 0, number
  distance, labels = cv2.distanceTransformWithLabels(
    tiled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
  )
  owner_of = np.zeros(labels.max() + 1, int)
  owner_of[labels[tiled == 0]] = numbers[tiled == 0]
  middle = slice(SIDE // 2, SIDE // 2 + SIDE)
  owner, distance = owner_of[labels[middle, middle]], distance[middle, middle]
  # The border between stones is where the nearest spot changes.
  wrapped = np.pad(owner, 1, mode='wrap')
  change = np.zeros((SIDE, SIDE), bool)
  for dy in (0, 1, 2):
    for dx in (0, 1, 2):
      change |= wrapped[dy : dy + SIDE, dx : dx + SIDE] != owner
  gap = cv2.GaussianBlur(change.astype(np.float32), (0, 0), 1.6)
  tone = rng.uniform(0, 1, cells * cells)[owner] + 0.1 * _noise(rng, 2)
  warm = rng.uniform(-1, 1, cells * cells)[owner][..., None] * np.array((8, 2, -8.0))
  image = _paint(tone, (98, 94, 90), (164, 158, 150)) + warm
  dome = 1.12 - 0.022 * distance
  return image * (dome * np.clip(1.15 - 1.5 * gap, 0.3, 1))[..., None]


def _tiles(rng: np.random.Generator) -> np.ndarray:
  y, x = _grid()
  count = 14
  size = SIDE / count
  row, column = np.floor(y / size).astype(int), np.floor(x / size).astype(int)
  into_y, into_x = y % size, x % size
  edge = np.minimum(
    np.minimum(into_y, size - into_y), np.minimum(into_x, size - into_x)
  )
  dark = ((row + column) % 2)[..., None]
  light = np.array((178, 186, 184.0))
  image = np.where(dark, np.array((92, 112, 118.0)), light)
  tone = rng.uniform(-7, 7, (count, count))[row, column] + 2.5 * _noise(rng, 20)
  image = (
    image + tone[..., None] + 14 * ((into_x + into_y) / size - 1)[..., None] * -0.5
  )
  grout = np.clip(edge - 0.8, 0, 1)[..., None]
  return grout * image + (1 - grout) * np.array((132, 132, 128.0))


def _night_sky(rng: np.random.Generator) -> np.ndarray:
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
  return image + light * (np.array((255, 250, 228.0)) - image)


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
    half: of half the size, for pictures that show it small.
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
