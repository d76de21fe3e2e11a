"""What a server allows, and what it compiles before it answers."""

import dataclasses

from maskclip_jax.deploy.canvases import Size, check_canvas, rounded_up
from maskclip_jax.systems.contract import BUCKETS
from maskclip_jax.systems.system import Preprocessing

# Seconds, a day: a request that may take for ever holds its place for ever.
_LONGEST = 86400.0


class Refused(Exception):
  """What the client is told instead of a result.

  Attributes:
    status: of HTTP.
    retry_after: seconds after which to try again, or None.
  """

  def __init__(self, status: int, message: str, retry_after: int | None = None):
    super().__init__(message)
    self.status, self.retry_after = status, retry_after


@dataclasses.dataclass(frozen=True)
class Settings:
  """Limits of a server.

  Attributes:
    canvases: heights and widths that photos are laid on, multiples of 32; the program
      of each is compiled at the start. By default what `default_canvases` says.
    batch: most photos that go through the network together.
    queue: most photos that may be in work; further ones are refused with 429.
    max_bytes: of a request.
    max_pixels: of a photo.
    max_files: photos of a request.
    max_words: of a vocabulary, synonyms counted.
    timeout: seconds until a request that is not read or not answered is given up.
    kept: network outputs that are kept for the next question about the same photo.

  Raises:
    ValueError: a limit below 1, too many words, a timeout that is not within a day,
      or a canvas whose sides are not multiples of 32.
  """

  canvases: tuple[Size, ...] = ()
  batch: int = 4
  queue: int = 64
  max_bytes: int = 32 << 20
  max_pixels: int = 50_000_000
  max_files: int = 16
  max_words: int = 1000
  timeout: float = 60.0
  kept: int = 8

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      least = 0 if field.name == 'kept' else 1
      if field.type is int and value < least:
        raise ValueError(f'{field.name} must be at least {least}, not {value}')
    if not 0 < self.timeout <= _LONGEST:
      raise ValueError(
        f'timeout must be above 0 and at most {_LONGEST:g} seconds, not {self.timeout}'
      )
    if self.max_words >= BUCKETS[-1]:
      raise ValueError(f'max_words must be below {BUCKETS[-1]}, not {self.max_words}')
    for canvas in self.canvases:
      check_canvas(canvas)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Numbers of photos that there are programs for: 1, 2, 4, ... and `batch`."""
    powers = {1 << n for n in range(self.batch.bit_length())}
    return tuple(sorted(powers | {self.batch}))

  @property
  def bucket(self) -> int:
    """What all vocabularies are padded to: with one size, words compile nothing."""
    return next(size for size in BUCKETS if size > self.max_words)


def default_canvases(preprocessing: Preprocessing) -> tuple[Size, ...]:
  """Canvases that hold every photo of a preset: square, 3:2 and longest, both ways."""
  short, long = (
    rounded_up(s) for s in (preprocessing.short_edge, preprocessing.long_edge)
  )
  middle = min(rounded_up(preprocessing.short_edge * 3 / 2), long)
  landscape = [(short, width) for width in (short, middle, long)]
  upright = [(height, width) for width, height in landscape]
  return tuple(sorted({*landscape, *upright}))


def smallest_canvas(canvases: tuple[Size, ...], size: Size) -> Size:
  """The canvas of least area that holds a resized photo.

  Raises:
    Refused: none does.
  """
  holding = [c for c in canvases if all(a >= b for a, b in zip(c, size, strict=True))]
  if not holding:
    there = ', '.join(f'{height}x{width}' for height, width in canvases)
    raise Refused(
      422,
      f'the photo would be resized to {size[0]}x{size[1]} (height x width), and this '
      f'server computes at most {there}: crop it, or lower short_edge and long_edge',
    )
  return min(holding, key=lambda c: (c[0] * c[1], c))
