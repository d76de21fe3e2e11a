"""Drawing a plan: any square part of it, at any number of pixels."""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Float32, Int8, UInt8

from maskclip_jax.miniature import shapes, textures
from maskclip_jax.miniature.plans import WHOLE, Ground, Plan, Square, Thing, reach
from maskclip_jax.miniature.styles import Style
from maskclip_jax.miniature.words import COLOURS, PATTERNS

# Side of a scene in pixels, to which the lengths of a style refer.
SCENE = 256
# Samples per pixel and direction at the edges of things.
_FINE = 3
_LUMINANCE = np.array((0.299, 0.587, 0.114))
# Highlights go this far towards white.
_GLOSS = 0.75

Canvas = Float32[np.ndarray, 'side side 3']


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
  square: Square = WHOLE,
  side: int = SCENE,
) -> Drawing:
  """Draws a part of a scene.

  Args:
    plan: the scene.
    style: how it looks.
    rng: for the noise.
    square: which part.
    side: pixels.
  """
  canvas, regions = _draw_grounds(plan, style, square, side)
  owners = np.full((side, side), -1, np.int8)
  for number, thing in enumerate(plan.things):
    placed = _Placed.of(thing, square, side)
    _cast_shadow(placed, style, canvas)
    _draw_thing(placed, number, style, canvas, owners)
  return Drawing(_develop(canvas, style, rng, square), owners, regions)


def _draw_grounds(
  plan: Plan, style: Style, square: Square, side: int
) -> tuple[Canvas, Int8[np.ndarray, 'side side']]:
  x, y, extent = square
  centres = (np.arange(side, dtype=np.float32) + 0.5) / side * extent
  columns, rows = (x + centres)[None, :], (y + centres)[:, None]
  canvas = _texture(plan.grounds[0], style, square, side)
  regions = np.zeros((side, side), np.int8)
  distances = reach(plan.borders, columns, rows)
  for ground, distance in zip(plan.grounds[1:], distances, strict=True):
    # The transition is one pixel wide.
    weight = np.clip(distance * (side / extent) + 0.5, 0, 1)
    if weight.any():
      texture = _texture(ground, style, square, side)
      canvas += (texture - canvas) * weight[..., None]
      regions += distance > 0
  return canvas, regions


def _texture(ground: Ground, style: Style, square: Square, side: int) -> Canvas:
  """The part of a ground's texture that a square shows."""
  x, y, extent = square
  # Pixels of the tile per pixel of the picture.
  step = SCENE * extent / side / (ground.scale * style.texture)
  cos, sin = step * math.cos(ground.angle), step * math.sin(ground.angle)
  turn = np.array([[cos, -sin], [sin, cos]])
  start = np.array((ground.x, ground.y)) * textures.SIDE
  start += turn @ np.array((x, y)) * (side / extent)
  matrix = np.concatenate([turn, start[:, None]], 1)
  small = step > 1.3
  part = cv2.warpAffine(
    textures.tile(ground.stuff, half=small),
    matrix / 2 if small else matrix,
    (side, side),
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_WRAP,
  )
  return part.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Placed:
  """A thing in a picture.

  Attributes:
    thing: which.
    line: its outline, pixels.
    centre: pixels.
    half: half the side of its box, pixels.
    unit: pixels per 1/256 of the scene.
  """

  thing: Thing
  line: shapes.Outline
  centre: tuple[float, float]
  half: float
  unit: float

  @classmethod
  def of(cls, thing: Thing, square: Square, side: int) -> '_Placed':
    scale = side / square[2]
    centre = ((thing.x - square[0]) * scale, (thing.y - square[1]) * scale)
    half = thing.size * scale / 2
    line = shapes.placed(thing.kind.shape, centre, half, thing.angle)
    return cls(thing, line, centre, half, scale / SCENE)


def _fill(
  line: shapes.Outline, part: tuple[slice, slice], fine: int
) -> Float32[np.ndarray, 'h w']:
  """How much of each pixel an outline encloses, 0 to 1."""
  return shapes.fill(line, part, fine).astype(np.float32) / np.float32(255)


def _cast_shadow(placed: _Placed, style: Style, canvas: Canvas) -> None:
  fall = 3.0 * placed.unit + 0.07 * placed.half
  shift = -fall * np.array((math.cos(style.light), math.sin(style.light)))
  blur = 1.2 * placed.unit + 0.05 * placed.half
  line = placed.line + shift
  part = shapes.window(line, len(canvas), 3 * blur + 1)
  if canvas[part].size and style.shadow:
    shade = cv2.GaussianBlur(_fill(line, part, fine=1), (0, 0), blur)
    canvas[part] *= (1 - style.shadow * shade)[..., None]


def _draw_thing(
  placed: _Placed,
  number: int,
  style: Style,
  canvas: Canvas,
  owners: Int8[np.ndarray, 'side side'],
) -> None:
  part = shapes.window(placed.line, len(canvas))
  if not canvas[part].size:
    return
  mask = _fill(placed.line, part, _FINE)
  rows, columns = part
  middle_x, middle_y = placed.centre
  across = np.arange(columns.start, columns.stop, dtype=np.float32)
  down = np.arange(rows.start, rows.stop, dtype=np.float32)
  x = ((across + 0.5 - middle_x) / placed.half)[None, :]
  y = ((down + 0.5 - middle_y) / placed.half)[:, None]
  paint = _paint(placed, style, mask, x, y)
  canvas[part] += (paint - canvas[part]) * mask[..., None]
  owners[part][mask >= 0.5] = number


def _paint(
  placed: _Placed,
  style: Style,
  mask: Float32[np.ndarray, 'h w'],
  x: Float32[np.ndarray, '1 w'],
  y: Float32[np.ndarray, 'h 1'],
) -> Float32[np.ndarray, 'h w 3']:
  """The colours of a thing: fill, marks, outline and light.

  Args:
    placed: the thing.
    style: the style of the scene.
    mask: its pixels, 0 to 1.
    x, y: of the pixels, from -1 to 1 over its box.
  """
  colour = COLOURS[placed.thing.kind.colour]
  jitter = np.array(placed.thing.jitter, np.float32)
  paint = np.array(colour.fill, np.float32) + jitter
  marks = _marks(placed.thing, x, y, placed.half)
  if marks is not None:
    mark = np.array(colour.mark, np.float32) + jitter
    paint = paint + (mark - paint) * marks[..., None]
  shade = _shade(style, mask, x, y, placed.half)
  dark = np.minimum(shade, 1)
  if style.outline:
    size = max(3, 2 * round(style.outline * placed.unit) + 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    dark = dark * (1 - 0.85 * (mask - cv2.erode(mask, kernel)))
  paint = paint * dark[..., None]
  # Towards white, so that bright places keep their hue.
  gloss = _GLOSS * np.maximum(shade - 1, 0)
  return paint + (255 - paint) * gloss[..., None]


def _shade(
  style: Style,
  mask: Float32[np.ndarray, 'h w'],
  x: Float32[np.ndarray, '1 w'],
  y: Float32[np.ndarray, 'h 1'],
  half: float,
) -> Float32[np.ndarray, 'h w']:
  """Light on a thing with rounded edges; 1 is as painted."""
  cos, sin = math.cos(style.light), math.sin(style.light)
  width = 0.10 * half + 0.4
  soft = cv2.GaussianBlur(mask, (0, 0), width)
  slope_x = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3, scale=cos * width / 8)
  slope_y = cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3, scale=sin * width / 8)
  flat = (0.13 * cos) * x + (0.13 * sin) * y
  return np.clip(1 + style.relief * (flat - 0.95 * (slope_x + slope_y)), 0.5, 1.5)


def _marks(
  thing: Thing,
  x: Float32[np.ndarray, '1 w'],
  y: Float32[np.ndarray, 'h 1'],
  half: float,
) -> Float32[np.ndarray, 'h w'] | None:
  """How much of each pixel is stripe, dot or check; None for plain things."""
  pattern = PATTERNS[thing.kind.pattern].name
  if not pattern:
    return None
  cos, sin = math.cos(thing.slant), math.sin(thing.slant)
  # Small things have fewer and larger marks.
  period = 0.64 * (0.25 / thing.size) ** 0.35
  along, down = (cos * x + sin * y) / period, (cos * y - sin * x) / period
  distance = period * _INSIDE_MARKS[pattern](along, down, *thing.phase)
  return np.clip(distance * half + 0.5, 0, 1)


# Distance from the border of a mark, positive inside of it; all lengths in periods.
_Lengths = Float32[np.ndarray, 'h w']


def _stripes(along: _Lengths, down: _Lengths, first: float, second: float) -> _Lengths:
  return 0.21 - abs((along + first) % 1 - 0.5)


def _dots(along: _Lengths, down: _Lengths, first: float, second: float) -> _Lengths:
  nearest = None
  high = math.sqrt(3)
  for shift in (0.0, 0.5):
    a = (along + (first + shift)) % 1 - 0.5
    b = ((down / high + (second + shift)) % 1 - 0.5) * high
    square = a * a + b * b
    nearest = square if nearest is None else np.minimum(nearest, square)
  return 0.33 - np.sqrt(nearest)


def _checks(along: _Lengths, down: _Lengths, first: float, second: float) -> _Lengths:
  side = 0.55
  a, b = along / side + 2 * first, down / side + 2 * second
  odd = (np.floor(a) + np.floor(b)) % 2 > 0
  edge = side * np.minimum(0.5 - abs(a % 1 - 0.5), 0.5 - abs(b % 1 - 0.5))
  return np.where(odd, edge, -edge)


_INSIDE_MARKS = {'striped': _stripes, 'dotted': _dots, 'checked': _checks}


def _develop(
  canvas: Canvas, style: Style, rng: np.random.Generator, square: Square
) -> UInt8[np.ndarray, 'side side 3']:
  """Light, colour, blur and noise of the whole picture."""
  side = len(canvas)
  x, y, extent = square
  steps = np.arange(side, dtype=np.float32) / side * extent - 0.5
  cos, sin = math.cos(style.light), math.sin(style.light)
  ramp = cos * (x + steps)[None, :] + sin * (y + steps)[:, None]
  canvas *= (1 + style.slope * ramp)[..., None]
  # Colours become paler, then take the light's colour: one matrix.
  matrix = style.saturation * np.eye(3) + (1 - style.saturation) * _LUMINANCE
  matrix = np.array(style.tint)[:, None] * matrix
  canvas = cv2.transform(canvas, matrix.astype(np.float32))
  sigma = style.blur * side / extent / SCENE
  if sigma > 0.25:
    canvas = cv2.GaussianBlur(canvas, (0, 0), sigma)
  top, left = rng.integers(0, textures.SIDE - side + 1, 2).tolist()
  noise = textures.grain()[top : top + side, left : left + side]
  canvas = cv2.scaleAdd(noise, style.noise, canvas)
  return np.clip(canvas, 0, 255).astype(np.uint8)
