"""Drawing a plan: any square of it, at any number of pixels."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32, Int8, UInt8

from maskclip_jax.data.world import shapes, textures
from maskclip_jax.data.world.plans import Plan, Thing
from maskclip_jax.data.world.styles import Style
from maskclip_jax.data.world.words import COLOURS, PATTERNS

# Side of a scene, to which the widths of a style refer.
SCENE = 256
_FINE = 3
_LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)

Square = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A picture and what is where in it.

  Attributes:
    image: RGB.
    things: number of the thing at each pixel, -1 for ground.
    regions: number of the ground at each pixel, under things as well.
  """

  image: UInt8[np.ndarray, 'side side 3']
  things: Int8[np.ndarray, 'side side']
  regions: Int8[np.ndarray, 'side side']


def draw(
  plan: Plan,
  style: Style,
  rng: np.random.Generator,
  square: Square = (0.0, 0.0, 1.0),
  side: int = SCENE,
) -> Drawing:
  """Draws a square of a scene.

  Args:
    plan: the scene.
    style: how it looks.
    rng: for the noise.
    square: x, y and side of what is drawn, as shares of the scene.
    side: pixels.
  """
  canvas, regions = _draw_grounds(plan, style, square, side)
  owners = np.full((side, side), -1, np.int8)
  for number, thing in enumerate(plan.things):
    _draw_thing(thing, number, style, square, canvas, owners)
  return Drawing(_develop(canvas, style, rng, square), owners, regions)


def _draw_grounds(plan: Plan, style: Style, square: Square, side: int):
  x, y, extent = square
  steps = (np.arange(side, dtype=np.float32) + 0.5) / side * extent
  columns, rows = (x + steps)[None, :], (y + steps)[:, None]
  canvas = _texture(plan.grounds[0], style, square, side)
  regions = np.zeros((side, side), np.int8)
  for number, border in enumerate(plan.borders, 1):
    distance = border.side(columns, rows) * (side / extent)
    inside = distance > 0
    if number == 2:
      inside &= regions == 1
      distance = np.where(regions >= 1, distance, -1.0)
    # One pixel of transition.
    weight = np.clip(distance + 0.5, 0, 1).astype(np.float32)[..., None]
    if weight.any():
      canvas += (_texture(plan.grounds[number], style, square, side) - canvas) * weight
      regions[inside] = number
  return canvas, regions


def _texture(ground, style: Style, square: Square, side: int):
  """The part of a ground's texture that a square shows."""
  x, y, extent = square
  # Pixels of the tile per pixel of the picture.
  step = SCENE * extent / side / (ground.scale * style.texture)
  cos, sin = step * np.cos(ground.angle), step * np.sin(ground.angle)
  start = np.array((ground.x, ground.y)) * textures.SIDE
  corner = np.array((x, y)) * side / extent
  turn = np.array([[cos, -sin], [sin, cos]])
  matrix = np.concatenate([turn, (start + turn @ corner)[:, None]], 1)
  tile = textures.tile(ground.stuff)
  if step > 1.3:
    tile, matrix = textures.reduced_tile(ground.stuff), matrix / 2
  return cv2.warpAffine(
    tile,
    matrix,
    (side, side),
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_WRAP,
  )


def _draw_thing(
  thing: Thing, number: int, style: Style, square: Square, canvas, owners
) -> None:
  side = len(canvas)
  scale = side / square[2]
  centre = ((thing.x - square[0]) * scale, (thing.y - square[1]) * scale)
  half = thing.size * scale / 2
  unit = scale / SCENE
  away = np.array((np.cos(style.light), np.sin(style.light))) * -1
  drop = away * (3.0 * unit + 0.07 * half)
  reach = 1.5 * half + np.abs(drop).max() + 8 * unit
  left, top = (max(0, int(c - reach)) for c in centre)
  right, bottom = (min(side, int(c + reach) + 2) for c in centre)
  if right - left < 2 or bottom - top < 2:
    return
  height, width = bottom - top, right - left
  local = (centre[0] - left, centre[1] - top)
  lines = shapes.placed(thing.kind.shape, local, half, thing.angle)
  mask = shapes.fill(lines, height, width, _FINE).astype(np.float32) / 255
  roi = canvas[top:bottom, left:right]
  if style.shadow:
    shade = shapes.fill([line + drop for line in lines], height, width)
    spread = 1.2 * unit + 0.05 * half
    shade = cv2.GaussianBlur(shade.astype(np.float32), (0, 0), spread)
    roi *= (1 - style.shadow / 255 * shade)[..., None]
  paint = _paint(thing, style, mask, local, half, unit)
  roi += (paint - roi) * mask[..., None]
  owners[top:bottom, left:right][mask >= 0.5] = number


def _paint(
  thing: Thing,
  style: Style,
  mask: Float32[np.ndarray, 'h w'],
  centre: tuple[float, float],
  half: float,
  unit: float,
) -> Float32[np.ndarray, 'h w 3']:
  """The colours of a thing: fill, marks, light and outline."""
  height, width = mask.shape
  x = ((np.arange(width, dtype=np.float32) + 0.5 - centre[0]) / half)[None, :]
  y = ((np.arange(height, dtype=np.float32) + 0.5 - centre[1]) / half)[:, None]
  colour = COLOURS[thing.kind.colour]
  jitter = np.array(thing.jitter, np.float32)
  paint = np.array(colour.fill, np.float32) + jitter
  marks = _marks(thing, x, y, half)
  light = np.array((np.cos(style.light), np.sin(style.light)), np.float32)
  shade = 1 + 0.13 * style.relief * (light[0] * x + light[1] * y)
  soft = cv2.GaussianBlur(mask, (0, 0), 0.10 * half + 0.4)
  slope_x = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
  slope_y = cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
  bevel = -(light[0] * slope_x + light[1] * slope_y) * (0.10 * half + 0.4)
  shade = np.clip(shade + 0.95 * style.relief * bevel, 0.5, 1.5)
  if marks is not None:
    mark = np.array(colour.mark, np.float32) + jitter
    paint = paint + (mark - paint) * marks[..., None]
  paint = paint * np.minimum(shade, 1)[..., None]
  # Highlights go towards white and do not change the hue.
  paint = paint + (255 - paint) * (0.75 * np.maximum(shade - 1, 0))[..., None]
  if style.outline:
    size = max(3, 2 * round(style.outline * unit) + 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    rim = mask - cv2.erode(mask, kernel)
    paint = paint * (1 - 0.85 * rim)[..., None]
  return paint


def _marks(thing: Thing, x, y, half: float):
  """How much each pixel is stripe or dot, or None."""
  pattern = PATTERNS[thing.kind.pattern].name
  if not pattern:
    return None
  cos, sin = np.cos(thing.slant), np.sin(thing.slant)
  u, v = cos * x + sin * y, cos * y - sin * x
  if pattern == 'striped':
    period = 0.62
    into = np.abs((u / period + thing.phase[0]) % 1 - 0.5) * period
    distance = 0.2 * period - into
  else:
    width, height = 0.62, 0.62 * np.sqrt(3)
    near = []
    for shift in (0.0, 0.5):
      a = ((u / width + thing.phase[0] + shift) % 1 - 0.5) * width
      b = ((v / height + thing.phase[1] + shift) % 1 - 0.5) * height
      near.append(a * a + b * b)
    distance = 0.2 - np.sqrt(np.minimum(*near))
  return np.clip(distance * half + 0.5, 0, 1).astype(np.float32)


def _develop(
  canvas, style: Style, rng: np.random.Generator, square: Square
) -> UInt8[np.ndarray, 'side side 3']:
  """Light, colour, blur and noise of the whole picture."""
  side = len(canvas)
  x, y, extent = square
  steps = np.arange(side, dtype=np.float32) / side * extent
  cos, sin = np.float32(np.cos(style.light)), np.float32(np.sin(style.light))
  ramp = cos * (x + steps - 0.5)[None, :] + sin * (y + steps - 0.5)[:, None]
  canvas *= (1 + style.slope * ramp)[..., None]
  # Colours become paler, then take the light's colour: one matrix.
  matrix = style.saturation * np.eye(3) + (1 - style.saturation) * _LUMINANCE
  matrix = np.array(style.tint)[:, None] * matrix
  canvas = cv2.transform(canvas, matrix.astype(np.float32))
  sigma = style.blur * side / extent / SCENE
  if sigma > 0.25:
    canvas = cv2.GaussianBlur(canvas, (0, 0), sigma)
  top, left = rng.integers(0, textures.SIDE - side + 1, 2)
  noise = textures.grain()[top : top + side, left : left + side]
  canvas = cv2.scaleAdd(noise, style.noise, canvas)
  return cv2.convertScaleAbs(np.maximum(canvas, 0))
