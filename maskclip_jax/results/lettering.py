"""Text on pictures: fonts that have the letters, and places where labels fit.

Pillow's built-in font has the letters of English only. A word it cannot show is set in
a font of the system that can, else without its accents, else as the class's number: a
row of empty boxes would tell nobody anything. Files keep the true name in any case.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool
from PIL import ImageFont

# Fonts with many scripts that Linux, macOS and Windows come with, by file name.
SYSTEM_FONTS = (
  'DejaVuSans.ttf',
  'NotoSans-Regular.ttf',
  'NotoSansCJK-Regular.ttc',
  'wqy-microhei.ttc',
  'Arial Unicode.ttf',
  'PingFang.ttc',
  'arial.ttf',
  'msyh.ttc',
  'malgun.ttf',
  'Nirmala.ttf',
)
# A code point that is not a character: drawn as the font's sign for a missing one.
_MISSING = '\uffff'
# Letters of a name that a picture has room for.
_LONGEST = 32


@functools.lru_cache(maxsize=256)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
  """A font of the system, the built-in one for None, or None if it is not there."""
  if name is None:
    return ImageFont.load_default(size=size)
  try:
    return ImageFont.truetype(name, size)
  except OSError:
    return None


@functools.lru_cache(maxsize=4096)
def _has(name: str | None, letter: str) -> bool:
  font = _font(name, 16)
  if font is None:
    return False
  if letter.isspace():
    return True
  mask, missing = font.getmask(letter), font.getmask(_MISSING)
  return mask.size != missing.size or bytes(mask) != bytes(missing)


@dataclasses.dataclass(frozen=True)
class Wording:
  """Letters that can be drawn, and in which font (None: the built-in one)."""

  text: str
  font: str | None = None

  def at(self, size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    return _font(self.font, size)

  def measure(self, size: int) -> tuple[int, int]:
    """Width and height of the text box; the height is the same for all words."""
    font = self.at(size)
    ascent, descent = font.getmetrics()
    return int(np.ceil(font.getlength(self.text))), ascent + descent

  def __add__(self, more: str) -> 'Wording':
    return Wording(self.text + more, self.font)


def drawable(
  name: str, index: int, system_fonts: Sequence[str] = SYSTEM_FONTS
) -> Wording:
  """How to write a class name on a picture.

  Args:
    name: any text.
    index: the number of the class, written where no font has the letters.
    system_fonts: file names of fonts to try after the built-in one.
  """
  text = ' '.join(name.split())
  if len(text) > _LONGEST:
    text = text[: _LONGEST - 3].rstrip() + '...'
  for font in (None, *system_fonts):
    if all(_has(font, letter) for letter in text):
      return Wording(text, font)
  plain = ''.join(
    letter
    for letter in unicodedata.normalize('NFKD', text)
    if not unicodedata.combining(letter)
  )
  if all(_has(None, letter) for letter in plain):
    return Wording(plain)
  return Wording(f'#{index}')


class LabelPlacer:
  """Puts boxes well inside regions, inside the picture and clear of each other.

  Works on a coarse grid of the picture: a label need not be placed to the pixel.
  """

  def __init__(self, height: int, width: int, grid: int = 256):
    self.step = max(1, -(-max(height, width) // grid))
    self.height, self.width = height, width
    self._placed: list[tuple[float, float, float, float]] = []

  def thin(self, ids: np.ndarray) -> np.ndarray:
    """The grid's samples of a map of the picture's size."""
    return ids[self.step // 2 :: self.step, self.step // 2 :: self.step]

  def place(
    self, region: Bool[np.ndarray, 'h w'], width: int, height: int
  ) -> tuple[int, int] | None:
    """Top left corner of a box as far inside the region as is free, if any is.

    Args:
      region: on the grid (`thin`).
      width: the width of the box, in pixels of the picture.
      height: the height of the box.
    """
    if width > self.width or height > self.height:
      return None
    framed = np.pad(region.astype(np.uint8), 1)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    offset = self.step // 2
    y = np.arange(region.shape[0])[:, None] * self.step + offset
    x = np.arange(region.shape[1])[None] * self.step + offset
    free = region & (y >= height / 2) & (y <= self.height - height / 2)
    free &= (x >= width / 2) & (x <= self.width - width / 2)
    for left, top, right, bottom in self._placed:
      free &= (
        (x + width / 2 <= left)
        | (x - width / 2 >= right)
        | (y + height / 2 <= top)
        | (y - height / 2 >= bottom)
      )
    if not free.any():
      return None
    row, column = np.unravel_index(np.argmax(np.where(free, depth, -1)), depth.shape)
    left = int(np.clip(x[0, column] - width / 2, 0, self.width - width))
    top = int(np.clip(y[row, 0] - height / 2, 0, self.height - height))
    self._placed.append((left, top, left + width, top + height))
    return left, top
