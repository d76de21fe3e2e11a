"""Results drawn over the photo: a picture to look at.

Segments are lightly tinted, so that the photo can be judged, with borders of their full
colour; they are named where their name fits, and listed by area in a panel beside the
photo, with what they look like there. Everything scales with the picture, from one
pixel (enlarged first) to dozens of megapixels.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw

from maskclip_jax.results.lettering import LabelPlacer, Wording
from maskclip_jax.results.palette import Color, text_color

Picture = UInt8[np.ndarray, 'height width 3']

# Pictures smaller than this are enlarged by a whole factor: text needs room.
_SMALLEST_SIDE = 900
# Countable objects stand out from the stuff around them: tints inside, and at borders.
_TINT_THING, _TINT_STUFF = (0.42, 0.92), (0.30, 0.45)
# Rows of the picture worked on at a time.
_STRIP = 256
# Distance of the panel's rows, and of the lines in one, in letter sizes.
_LINE, _NEXT = 1.55, 1.2
# Letters in a line of a label that has several.
_LABEL_LINE = 16
_PANEL = (24, 26, 30)
_PANEL_TEXT = (236, 238, 241)
_PANEL_FAINT, _PANEL_RIM = (150, 155, 163), (84, 88, 96)


@dataclasses.dataclass(frozen=True)
class DrawnRegion:
  """One value of an id map and how to draw it.

  Attributes:
    id: the value, at least 1.
    color: the colour of its tint.
    thing: whether it is a countable object.
    label: what to write on it, or None.
    number: what to write where that does not fit, or None: which of its class it is.
  """

  id: int
  color: Color
  thing: bool
  label: Wording | None
  number: Wording | None = None


@dataclasses.dataclass(frozen=True)
class LegendRow:
  """A class in the panel.

  Attributes:
    color: the colour of the class.
    label: its name.
    remark: its share, or a count.
    ids: its regions; what they look like fills the row's chip.
  """

  color: Color
  label: Wording
  remark: str
  ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Style:
  """Sizes in pixels that follow the size of the picture."""

  font: int
  line: int

  @classmethod
  def of(cls, height: int, width: int) -> '_Style':
    # The shorter side counts more: text on a long strip must still fit its height.
    side = min(np.sqrt(height * width), 2 * min(height, width))
    font = int(np.clip(0.027 * side, 13, 200))
    return cls(font, max(1, round(0.0022 * side)))


def draw(
  photo: Picture,
  ids: Int[np.ndarray, 'height width'],
  regions: Sequence[DrawnRegion],
  legend: Sequence[LegendRow],
  *,
  scale: int | None = None,
) -> Picture:
  """The photo with its segments drawn over it and a panel that lists the classes.

  Args:
    photo: RGB or grey, 8 bits.
    ids: which region each pixel belongs to; 0 and unknown ids stay as they are.
    regions: the regions.
    legend: rows of the panel, the most important first; no panel if empty.
    scale: the picture has this many times the photo's sides and no panel, so that with
      1 it lies over the photo; small photos are enlarged by default.

  Raises:
    ValueError: a photo of another type, or of another size than the map; or a scale
      that is not positive.
  """
  if photo.ndim == 2:
    photo = np.repeat(photo[..., None], 3, axis=-1)
  if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
    raise ValueError(f'a photo must be 8-bit RGB, not {photo.dtype} {photo.shape}')
  if photo.shape[:2] != ids.shape:
    raise ValueError(f'a photo of {photo.shape[:2]} does not fit ids of {ids.shape}')
  photo, ranks = _enlarge(photo, _ranks(ids, regions), scale)
  style = _Style.of(*ranks.shape)
  tinted = _tint(photo, ranks, regions, style)
  picture = _write_labels(tinted, ranks, regions, style)
  if not legend or scale is not None:
    return picture
  return _add_legend(picture, legend, _looks(tinted, ranks, regions, legend), style)


def _ranks(ids, regions: Sequence[DrawnRegion]) -> UInt8[np.ndarray, 'h w']:
  """Ids replaced by 1 + their position among the regions; 0 for all others."""
  highest = max([int(ids.max()), *(region.id for region in regions)])
  table = np.zeros(highest + 1, np.uint16)
  for rank, region in enumerate(regions, 1):
    table[region.id] = rank
  return table[np.maximum(ids, 0)]


def _enlarge(photo, ranks, scale: int | None):
  """The picture, enlarged by a whole factor; by default if it is small."""
  height, width = ranks.shape
  if scale is not None and scale < 1:
    raise ValueError(f'an overlay has 1, 2, ... times the size of a photo, not {scale}')
  factor = scale or round(_SMALLEST_SIDE / max(height, width))
  if factor <= 1:
    return photo, ranks
  size = width * factor, height * factor
  method = cv2.INTER_CUBIC if min(height, width) > 16 else cv2.INTER_NEAREST
  ranks = cv2.resize(ranks, size, interpolation=cv2.INTER_NEAREST)
  # A median of ids is one of the ids: it rounds the stairs and invents nothing.
  if ranks.max() < 256:
    # Larger windows are for 8 bits, and at most 31 pixels wide.
    ranks = cv2.medianBlur(ranks.astype(np.uint8), min(max(factor, 5), 30) | 1)
  else:
    ranks = cv2.medianBlur(ranks, 5)
  return cv2.resize(photo, size, interpolation=method), ranks


def _looks(picture, ranks, regions, legend: Sequence[LegendRow]) -> list[Color]:
  """The mean colour that the regions of each row have in the picture."""
  step = max(1, max(ranks.shape) // 512)
  some, seen = picture[::step, ::step], ranks[::step, ::step].ravel()
  counts = np.bincount(seen, minlength=len(regions) + 1)
  sums = [
    np.bincount(seen, some[..., channel].ravel(), len(regions) + 1)
    for channel in range(3)
  ]
  rank_of = {region.id: rank for rank, region in enumerate(regions, 1)}
  looks = []
  for row in legend:
    ranks_here = [rank_of[id] for id in row.ids if id in rank_of]
    count = counts[ranks_here].sum()
    mean = [int(channel[ranks_here].sum() / count) for channel in sums] if count else ()
    looks.append(tuple(mean) or row.color)
  return looks


def _tint(photo, ranks, regions: Sequence[DrawnRegion], style: _Style) -> Picture:
  """Segments in their colours; a band of stronger colour and a light line part two."""
  colors = np.zeros((len(regions) + 1, 3), np.float32)
  tints = np.zeros((2, len(regions) + 1), np.float32)
  for rank, region in enumerate(regions, 1):
    colors[rank] = region.color
    tints[:, rank] = _TINT_THING if region.thing else _TINT_STUFF
  band, line = _edges(ranks, 6 * style.line + 1), _edges(ranks, style.line + 2)
  picture = np.empty_like(photo)
  for top in range(0, len(photo), _STRIP):
    rows = slice(top, top + _STRIP)
    tint = np.where(band[rows], tints[1][ranks[rows]], tints[0][ranks[rows]])
    mixed = photo[rows] + tint[..., None] * (colors[ranks[rows]] - photo[rows])
    edge = line[rows]
    mixed[edge] = mixed[edge] / 3 + 170
    picture[rows] = np.round(mixed)
  return picture


def _edges(ranks, width: int) -> Bool[np.ndarray, 'h w']:
  """Pixels with another region within a square of `width`."""
  kernel = np.ones((width, width), np.uint8)
  return cv2.erode(ranks, kernel) != cv2.dilate(ranks, kernel)


def _write_labels(
  picture, ranks, regions: Sequence[DrawnRegion], style: _Style
) -> Picture:
  """Names on the regions that have room for them, the largest first."""
  placer = LabelPlacer(*ranks.shape)
  thin = placer.thin(ranks)
  areas = np.bincount(thin.ravel(), minlength=len(regions) + 1)
  image = Image.fromarray(picture)
  canvas = ImageDraw.Draw(image)
  for rank in np.argsort(-areas[1:], kind='stable') + 1:
    region = regions[rank - 1]
    if region.label is None or not areas[rank]:
      continue
    mask = thin == rank
    for lines, font in _settings(region, style.font):
      box = _label_box(lines, font)
      if not _has_room(mask, box, placer.step):
        continue
      corner = placer.place(mask, *box)
      if corner is not None:
        _write_label(canvas, corner, box, lines, region.color, font)
        break
  return np.asarray(image)


def _settings(region: DrawnRegion, font: int) -> Iterator[tuple[list[Wording], int]]:
  """Ways to set a label, the best first: in one line, a long one in several, or the
  number alone."""
  one, several = [region.label.shortened()], region.label.lines(_LABEL_LINE)
  sizes = [s for s in (font, round(font * 0.8), round(font * 0.65)) if s >= 9]
  for size in sizes:
    yield one, size
    if len(several) > 1:
      yield several, size
  if region.number is not None:
    yield from (([region.number], size) for size in sizes)


def _label_box(lines: Sequence[Wording], font: int) -> tuple[int, int]:
  width = max(line.measure(font)[0] for line in lines)
  height = max(line.measure(font)[1] for line in lines)
  height += round((len(lines) - 1) * _NEXT * font)
  return width + 2 * _pad(font), height + _pad(font) // 2


def _pad(font: int) -> int:
  return max(3, round(0.35 * font))


def _has_room(mask, box: tuple[int, int], step: int) -> bool:
  """Whether a label would not dwarf its region: neither wider nor most of it."""
  columns = np.flatnonzero(mask.any(0))
  width = (columns[-1] - columns[0] + 1) * step
  return box[0] <= 1.15 * width and box[0] * box[1] <= 0.6 * mask.sum() * step**2


def _write_label(
  canvas, corner, box, lines: Sequence[Wording], color: Color, font: int
) -> None:
  left, top = corner
  shape = (left, top, left + box[0] - 1, top + box[1] - 1)
  ink, edge = text_color(color), max(1, font // 18)
  # Seen as a label also on a segment of its own colour.
  rim = tuple((a + b) // 2 for a, b in zip(ink, color, strict=True))
  canvas.rounded_rectangle(shape, _pad(font) * 0.8, color, outline=rim, width=edge)
  middle = top + box[1] / 2 - (len(lines) - 1) * _NEXT * font / 2
  for number, line in enumerate(lines):
    place = left + box[0] / 2, middle + number * _NEXT * font
    line.write(canvas, place, font, ink, align='middle')


@dataclasses.dataclass(frozen=True)
class _Entry:
  """A row of the panel as it is set.

  Attributes:
    row: the row; None for the last one, that tells how many are not shown.
    look: what fills its chip.
    lines: the name.
  """

  row: LegendRow | None
  look: Color
  lines: Sequence[Wording]

  def width(self, font: int) -> int:
    """In pixels."""
    text = max(line.measure(font)[0] for line in self.lines)
    if self.row is None:
      return text
    remark = Wording.plain(self.row.remark).measure(font)[0]
    return font + 3 * _pad(font) + text + remark

  def write(self, canvas, place: tuple[int, int], font: int, line: int, width: int):
    """Draws it; `width` is that of the column."""
    left, middle = place[0], place[1] + line / 2
    color = _PANEL_FAINT
    if self.row is not None:
      color = _PANEL_TEXT
      half, edge = font / 2, max(2, round(0.16 * font))
      # A faint rim, as the panel may have the colour of the class.
      for rim, shape in ((_PANEL_RIM, half + 1), (self.row.color, half)):
        chip = (
          left + half - shape,
          middle - shape,
          left + half + shape,
          middle + shape,
        )
        canvas.rounded_rectangle(chip, 0.25 * font, self.look, outline=rim, width=edge)
      remark = Wording.plain(self.row.remark)
      remark.write(canvas, (left + width, middle), font, _PANEL_FAINT, align='right')
      left += font + _pad(font)
    for number, text in enumerate(self.lines):
      # Lines of one name stand closer than names.
      text.write(canvas, (left, middle + number * _NEXT * font), font, color)

  def height(self, font: int, line: int) -> int:
    """In pixels."""
    return line + round((len(self.lines) - 1) * _NEXT * font)


def _add_legend(
  picture, legend: Sequence[LegendRow], looks: Sequence[Color], style: _Style
) -> Picture:
  """The picture with a panel: beside it, or below it where it is wide."""
  height, width = picture.shape[:2]
  entries = [
    _Entry(row, look, row.label.lines())
    for row, look in zip(legend, looks, strict=True)
  ]
  below = width > 2 * height
  # A long list beside the photo is set in smaller letters.
  lines = sum(len(entry.lines) for entry in entries)
  fitting = height / (_LINE * (lines + 1))
  smaller = round(np.clip(fitting, max(12, 0.6 * style.font), style.font))
  font = style.font if below else smaller
  pad, line = _pad(font), round(_LINE * font)
  entry_width = max(entry.width(font) for entry in entries)
  columns = max(1, (width - pad) // (entry_width + 2 * pad)) if below else 1
  room = max(6 * line, height // 2) if below else max(line, height - 2 * pad)
  placed = _in_columns(entries, columns, room, font, line)
  if len(placed) < len(entries):
    # The last place tells how many are not shown.
    hidden = len(entries) - len(placed) + 1
    more = _Entry(None, _PANEL_FAINT, [Wording.plain(f'+ {hidden} more')])
    placed[-1] = (more, placed[-1][1])
  used = max(top + entry.height(font, line) for entry, (_, top) in placed)
  shape = (width, used + 2 * pad) if below else (entry_width + 4 * pad, height)
  panel = Image.new('RGB', shape, _PANEL)
  canvas = ImageDraw.Draw(panel)
  for entry, (column, top) in placed:
    place = 2 * pad + column * (entry_width + 2 * pad), pad + top
    entry.write(canvas, place, font, line, entry_width)
  return np.concatenate([picture, np.asarray(panel)], axis=0 if below else 1)


def _in_columns(
  entries: Sequence[_Entry], columns: int, room: int, font: int, line: int
) -> list[tuple[_Entry, tuple[int, int]]]:
  """The entries that fit, each with its column and its top in pixels."""
  # Columns of one length: all are as high as the shortest that hold everything.
  total = sum(entry.height(font, line) for entry in entries)
  tallest = max(entry.height(font, line) for entry in entries)
  limit = min(
    room, max(tallest, -(-total // columns) + (tallest if columns > 1 else 0))
  )
  placed, column, top = [], 0, 0
  for entry in entries:
    height = entry.height(font, line)
    if top and top + height > limit:
      column, top = column + 1, 0
    if column == columns:
      break
    placed.append((entry, (column, top)))
    top += height
  return placed
