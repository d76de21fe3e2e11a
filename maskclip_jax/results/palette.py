"""Colours for classes and for the objects of a class.

A class keeps its hue in every picture and every vocabulary, because the hue comes from
its name: 'blue disk' is blue, other names have one by chance, and classes of one
vocabulary that would share it are moved apart. Objects of a class are shades of its
colour. Colours are chosen in OKLCH (lightness, chroma, hue),
where equal steps look equal, and brought into sRGB by lowering the chroma.
Source of the colour space: Ottosson, "A perceptual color space for image processing".
"""

import collections
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

Color = tuple[int, int, int]

_LMS_FROM_RGB = np.array(
  [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
  ]
)
_LAB_FROM_LMS = np.array(
  [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
  ]
)
# Neighbouring hues differ in lightness as well.
_LIGHTNESS = (0.70, 0.58, 0.80)
_CHROMA = 0.17
# How much lighter or darker the further objects of a class are, and how far that goes.
_SHADES = (-0.13, 0.13, -0.065, 0.065)
_LIGHTNESS_RANGE = (0.36, 0.93)
# Hues a small vocabulary is spread over: 24 degrees apart.
_FEWEST_HUES = 15


# Words that say what colour a thing has.
_NAMED = {
  'red': (216, 24, 36),
  'orange': (255, 112, 0),
  'yellow': (250, 214, 24),
  'green': (24, 168, 60),
  'turquoise': (24, 200, 206),
  'cyan': (24, 200, 206),
  'blue': (30, 76, 232),
  'purple': (140, 36, 190),
  'violet': (140, 36, 190),
  'pink': (255, 112, 182),
  'brown': (132, 84, 46),
  'black': (30, 30, 34),
  'grey': (128, 128, 132),
  'gray': (128, 128, 132),
  'white': (246, 246, 246),
}


def _oklab(rgb: Float[np.ndarray, '*n 3']) -> Float[np.ndarray, '*n 3']:
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return np.cbrt(linear @ _LMS_FROM_RGB.T) @ _LAB_FROM_LMS.T


def _srgb(lab: Float[np.ndarray, '*n 3']) -> Float[np.ndarray, '*n 3']:
  """May leave [0, 1]: not every colour can be shown."""
  lms = lab @ np.linalg.inv(_LAB_FROM_LMS).T
  linear = lms**3 @ np.linalg.inv(_LMS_FROM_RGB).T
  small = linear <= 0.0031308
  power = np.maximum(linear, 0.0031308) ** (1 / 2.4)
  return np.where(small, 12.92 * linear, 1.055 * power - 0.055)


def _from_lch(lightness: float, chroma: float, hue: float) -> Color:
  """The most colourful showable colour up to `chroma`; the hue is in turns."""
  angle = 2 * np.pi * hue
  chromas = np.linspace(chroma, 0.0, 24)[:, None]
  direction = np.array([0.0, np.cos(angle), np.sin(angle)])
  rgb = _srgb(np.array([lightness, 0.0, 0.0]) + chromas * direction)
  shown = ((rgb >= -1e-6) & (rgb <= 1 + 1e-6)).all(-1)
  first = int(np.argmax(shown)) if shown.any() else len(rgb) - 1
  return tuple(int(v) for v in np.round(np.clip(rgb[first], 0, 1) * 255))


def class_colors(
  names: Sequence[str], given: Sequence[Color | None] | None = None
) -> UInt8[np.ndarray, 'k 3']:
  """One colour per class; further classes named by the same colour are its shades.

  Args:
    names: class names; the same names give the same colours everywhere.
    given: a data set's own colours, used where not None.

  Raises:
    ValueError: `given` has another length.
  """
  given = [None] * len(names) if given is None else list(given)
  if len(given) != len(names):
    raise ValueError(f'{len(given)} colours for {len(names)} classes')
  hues = max(_FEWEST_HUES, -(-3 * len(names) // 2))
  named: collections.Counter[Color] = collections.Counter()
  taken, colors = set(), np.zeros((len(names), 3), np.uint8)
  for row, name, own in zip(colors, names, given, strict=True):
    if own is not None:
      row[:] = own
      continue
    said = {_NAMED[word] for word in name.lower().split() if word in _NAMED}
    if len(said) == 1:
      (color,) = said
      row[:] = object_color(color, named[color])
      named[color] += 1
      continue
    slot = zlib.crc32(name.encode()) * hues >> 32
    while slot in taken:
      slot = (slot + 1) % hues
    taken.add(slot)
    row[:] = _from_lch(_LIGHTNESS[slot % 3], _CHROMA, slot / hues)
  return colors


def object_color(color: Sequence[int], index: int) -> Color:
  """The colour of a class's `index`-th object: the class's own, then other shades.

  The hue stays, as it may be what the class is called ('blue disk').
  """
  if not index:
    return tuple(int(v) for v in color)
  lightness, a, b = _oklab(np.asarray(color, np.float64) / 255)
  turns, place = divmod(index - 1, len(_SHADES))
  step = _SHADES[place] + 0.02 * turns
  low, high = _LIGHTNESS_RANGE
  # What would be too dark or too light goes twice as far the other way.
  shade = lightness + step if low <= lightness + step <= high else lightness - 2 * step
  hue = np.arctan2(b, a) / (2 * np.pi) + 0.012 * (-1) ** index * (turns + 1)
  return _from_lch(np.clip(shade, low, high), np.hypot(a, b), hue)


def text_color(background: Sequence[int]) -> Color:
  """White where its contrast is enough for large text (WCAG: 3 to 1), else black."""
  rgb = np.asarray(background, np.float64) / 255
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  luminance = float(linear @ [0.2126, 0.7152, 0.0722])
  return (255, 255, 255) if 1.05 / (luminance + 0.05) >= 3 else (0, 0, 0)
