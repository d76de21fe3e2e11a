"""Colours for classes and for the objects of a class.

A class keeps its hue in every picture and every vocabulary, because the hue comes from
its name; classes of one vocabulary that would share a hue are moved apart. Objects of a
class vary around its colour. Colours are chosen in OKLCH (lightness, chroma, hue),
where equal steps look equal, and brought into sRGB by lowering the chroma.
Source of the colour space: Ottosson, "A perceptual color space for image processing".
"""

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
# Hues a small vocabulary is spread over: 24 degrees apart.
_FEWEST_HUES = 15


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
  """One colour per class.

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
  taken, colors = set(), np.zeros((len(names), 3), np.uint8)
  for row, name, own in zip(colors, names, given, strict=True):
    if own is not None:
      row[:] = own
      continue
    slot = zlib.crc32(name.encode()) * hues >> 32
    while slot in taken:
      slot = (slot + 1) % hues
    taken.add(slot)
    row[:] = _from_lch(_LIGHTNESS[slot % 3], _CHROMA, slot / hues)
  return colors


def object_color(color: Sequence[int], index: int) -> Color:
  """The colour of a class's `index`-th object: the class's own, then variations."""
  if not index:
    return tuple(int(v) for v in color)
  lightness, a, b = _oklab(np.asarray(color, np.float64) / 255)
  # Multiples of the golden ratio never cluster.
  turn, step = (index * 0.618034) % 1 - 0.5, (index * 0.381966) % 1 - 0.5
  hue = np.arctan2(b, a) / (2 * np.pi) + 0.16 * turn
  return _from_lch(np.clip(lightness + 0.3 * step, 0.45, 0.88), np.hypot(a, b), hue)


def text_color(background: Sequence[int]) -> Color:
  """White where its contrast is enough for large text (WCAG: 3 to 1), else black."""
  rgb = np.asarray(background, np.float64) / 255
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  luminance = float(linear @ [0.2126, 0.7152, 0.0722])
  return (255, 255, 255) if 1.05 / (luminance + 0.05) >= 3 else (0, 0, 0)
