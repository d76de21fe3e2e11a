"""Text on pictures: fonts that have the letters, and places where labels fit.

Pillow's built-in font has the letters of English only. Others are set in the fonts of
the extra `fonts` (Noto, for nearly every script), or in one of the system. A letter
that no font has loses its accents or is called by its name ('cat face'), else the
class's number stands for the word: a row of empty boxes would tell nobody anything.
Files keep the true name in any case.
"""

import dataclasses
import functools
import importlib.util
import itertools
import pathlib
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool
from PIL import ImageDraw, ImageFont

from maskclip_jax.results.palette import Color

# What the extra `fonts` installs: fonts lie beside the module.
_FONT_PACKAGES = ('manimgx_fonts', 'manimgx_fonts_cjk')
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
# Of a collection of fonts the one to take: Noto's CJK has Japanese and Korean before
# simplified Chinese, which differ in how some of the same letters look.
_FACES = {'NotoSansCJK-VF.otf.ttc': 2, 'NotoSansCJK-Regular.ttc': 2}
# Weight of fonts that have several: Pillow's own is a regular.
_WEIGHT = 450
# A code point that is not a character: drawn as the font's sign for a missing one.
_MISSING = '\uffff'
# Letters of a name that a label has room for, and that a line of the panel has.
LONGEST = 32


@functools.cache
def installed_fonts() -> tuple[str, ...]:
  """Paths of the fonts of the extra `fonts`; none without it."""
  found = []
  for package in _FONT_PACKAGES:
    spec = importlib.util.find_spec(package)
    if spec is not None:
      folder = pathlib.Path(spec.origin).parent
      found += sorted(p for p in folder.iterdir() if p.suffix in ('.ttf', '.ttc'))
  return tuple(str(path) for path in found if 'Italic' not in path.name)


@functools.lru_cache(maxsize=256)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
  """A font by path or file name, the built-in one for None; None if it is not there."""
  if name is None:
    return ImageFont.load_default(size=size)
  try:
    font = ImageFont.truetype(name, size, index=_FACES.get(pathlib.Path(name).name, 0))
  except OSError:
    return None
  try:
    font.set_variation_by_axes([_WEIGHT])
  except OSError:
    # It has one weight.
    return font
  return font


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
class Run:
  """Letters in one font (None: the built-in one)."""

  text: str
  font: str | None = None


@dataclasses.dataclass(frozen=True)
class Wording:
  """Letters that can be drawn, in one font or several.

  Attributes:
    runs: pieces of the text, in their order.
    spelled: False where a number stands for a name that no font has the letters of.
  """

  runs: tuple[Run, ...]
  spelled: bool = True

  @classmethod
  def plain(cls, text: str) -> 'Wording':
    """Letters that every font has."""
    return cls((Run(text),))

  @property
  def text(self) -> str:
    """The letters."""
    return ''.join(run.text for run in self.runs)

  def measure(self, size: int) -> tuple[int, int]:
    """Width and height of the text box; the height depends on the fonts alone."""
    width, height = 0.0, 0
    for run in self.runs:
      font = _font(run.font, size)
      width += font.getlength(run.text)
      # Some fonts leave room for stacks of accents that no name has.
      height = max(height, min(sum(font.getmetrics()), round(1.5 * size)))
    return int(np.ceil(width)), height

  def write(
    self,
    canvas: ImageDraw.ImageDraw,
    place: tuple[float, float],
    size: int,
    fill: Color,
    *,
    align: str = 'left',
  ) -> None:
    """Draws the text on a line.

    Args:
      canvas: what to draw on.
      place: the left end of the text, its middle or its right end, as `align` says;
        and the middle of its height.
      size: of the letters, in pixels.
      fill: their colour.
      align: 'left', 'middle' or 'right'.
    """
    left, middle = place
    width = sum(_font(run.font, size).getlength(run.text) for run in self.runs)
    left -= {'left': 0.0, 'middle': 0.5, 'right': 1.0}[align] * width
    # One base line for all fonts, half of a capital below the middle.
    base = middle + 0.35 * size
    for run in self.runs:
      font = _font(run.font, size)
      canvas.text((left, base), run.text, font=font, fill=fill, anchor='ls')
      left += font.getlength(run.text)

  def lines(self, letters: int = LONGEST, most: int = 3) -> list['Wording']:
    """The text in lines, broken at blanks where there are some; cut if it needs more.

    Args:
      letters: most letters of a line.
      most: most lines.
    """
    if len(self.text) <= letters:
      return [self]
    # Blanks at the ends of lines take room too.
    text = cut(self.text, most * (letters - 4))
    return [self._set_again(line) for line in _broken(text, letters)]

  def shortened(self, letters: int = LONGEST) -> 'Wording':
    """The text in one line of at most so many letters."""
    text = cut(self.text, letters)
    return self if text == self.text else self._set_again(text)

  def _set_again(self, text: str) -> 'Wording':
    fonts = tuple(dict.fromkeys(run.font for run in self.runs))
    return Wording(_runs(text, (*fonts, None)), self.spelled)

  def __add__(self, more: str) -> 'Wording':
    return Wording((*self.runs, Run(more)), self.spelled)


def cut(text: str, letters: int) -> str:
  """A text of at most so many letters, its middle left out: names of one vocabulary
  often begin alike."""
  if len(text) <= letters:
    return text
  end = (letters - 3) // 2
  return f'{text[: letters - 3 - end].rstrip()}...{text[-end:].lstrip()}'


def _broken(text: str, letters: int) -> list[str]:
  lines = ['']
  for word in text.split(' '):
    pieces = [word[i : i + letters] for i in range(0, len(word), letters)] or ['']
    for piece in pieces:
      joined = f'{lines[-1]} {piece}'.strip()
      if len(joined) <= letters:
        lines[-1] = joined
      else:
        lines.append(piece)
  return lines


def _runs(text: str, fonts: Sequence[str | None]) -> tuple[Run, ...] | None:
  """A text in the first fonts that have its letters; None where none has one."""
  chosen: list[str | None] = []
  before = ''
  for letter in text:
    # Marks and joiners change the letter before them; blanks are the text's, as words
    # that are written from the right must stay together, but not those of symbols.
    kind = unicodedata.category(letter)
    joined = kind in ('Mn', 'Mc', 'Me', 'Cf') or (kind == 'Zs' and before != 'So')
    before = kind
    if chosen and (joined or (kind != 'Zs' and _has(chosen[-1], letter))):
      chosen.append(chosen[-1])
      continue
    font = next((font for font in fonts if _has(font, letter)), _MISSING)
    if font == _MISSING:
      return None
    chosen.append(font)
  pairs = zip(chosen, text, strict=True)
  return tuple(
    Run(''.join(letter for _, letter in group), font)
    for font, group in itertools.groupby(pairs, key=lambda pair: pair[0])
  )


def drawable(name: str, index: int, fonts: Sequence[str] | None = None) -> Wording:
  """How to write a class name on a picture.

  Args:
    name: any text.
    index: the number of the class, written where no font has the letters.
    fonts: fonts to try after the built-in one, by path or file name; those of the extra
      `fonts` and of the system by default.
  """
  text = ' '.join(name.split())
  fonts = (*installed_fonts(), *SYSTEM_FONTS) if fonts is None else fonts
  without_accents = ''.join(
    letter
    for letter in unicodedata.normalize('NFKD', text)
    if not unicodedata.combining(letter)
  )
  for form in (text, without_accents, _symbols_named(text)):
    runs = _runs(form, (None, *fonts))
    if runs is not None:
      return Wording(runs)
  return Wording((Run(f'#{index}'),), spelled=False)


def _symbols_named(text: str) -> str:
  """A text with the names of its emoji and other symbols in their places."""
  parts = [
    f' {unicodedata.name(letter, letter).lower()} '
    if unicodedata.category(letter) == 'So'
    else letter
    for letter in text
    if unicodedata.category(letter) not in ('Cf', 'Mn', 'Sk')
  ]
  return ' '.join(''.join(parts).split())


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
