"""Canvases: the fixed heights and widths that programs are made for."""

import re

from maskclip_jax.systems.contract import STRIDE

Size = tuple[int, int]
_WRITTEN = re.compile(r'([0-9]{1,5})x([0-9]{1,5})')


def parse_canvas(text: str) -> Size:
  """Height and width of '640x960'.

  Raises:
    ValueError: the text is something else.
  """
  found = _WRITTEN.fullmatch(text.strip())
  if found is None:
    raise ValueError(f'a canvas is given as 640x960, height first, not as {text!r}')
  return int(found[1]), int(found[2])


def check_canvas(canvas: Size) -> None:
  """Refuses a canvas that no network takes.

  Raises:
    ValueError: a side is not a multiple of 32.
  """
  if any(side < STRIDE or side % STRIDE for side in canvas):
    height, width = canvas
    raise ValueError(
      f'a canvas has sides that are multiples of {STRIDE}: not {height}x{width}'
    )


def rounded_up(side: float) -> int:
  """The least multiple of 32 that holds a side."""
  return int(-(-side // STRIDE) * STRIDE)
