"""Results drawn over the photo: a picture to look at.

Segments are tinted in their colours with crisp borders, named where their name fits,
and listed by area in a panel beside the photo. Everything scales with the picture, from
one pixel (enlarged first) to dozens of megapixels.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw

from maskclip_jax.results.lettering import LabelPlacer, Wording
from maskclip_jax.results.palette import Color, text_color

Picture = UInt8[np.ndarray, 'height width 3']

# Pictures smaller than this are enlarged by a whole factor: text needs room.
_SMALLEST_SIDE = 900
# Countable objects stand out from the stuff around them.
_TINT_THING, _TINT_STUFF = 0.55, 0.42
# Rows of the picture worked on at a time.
_STRIP = 256
# Distance of the panel's lines, in letter sizes.
_LINE = 1.55
_PANEL = (24, 26, 30)
_PANEL_TEXT = (236, 238, 241)
_PANEL_FAINT = (150, 155, 163)


@dataclasses.dataclass(frozen=True)
class DrawnRegion:
  """One value of an id map and how to draw it.

  Attributes:
    id: the value, at least 1.
    color: the colour of its tint.
    thing: whether it is a countable object.
    label: what to write on it, or None.
  """

  id: int
  color: Color
  thing: bool
  label: Wording | None


@dataclasses.dataclass(frozen=True)
class LegendRow:
  """A class in the panel, and a short remark (its share, or a count)."""

  color: Color
  label: Wording
  remark: str


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
) -> Picture:
  """The photo with its segments drawn over it and a panel that lists the classes.

  Args:
    photo: RGB or grey, 8 bits.
    ids: which region each pixel belongs to; 0 and unknown ids stay as they are.
    regions: the regions.
    legend: rows of the panel, the most important first; no panel if empty.

  Raises:
    ValueError: a photo of another type, or of another size than the map.
  """
  if photo.ndim == 2:
    photo = np.repeat(photo[..., None], 3, axis=-1)
  if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
    raise ValueError(f'a photo must be 8-bit RGB, not {photo.dtype} {photo.shape}')
  if photo.shape[:2] != ids.shape:
    raise ValueError(f'a photo of {photo.shape[:2]} does not fit ids of {ids.shape}')
  photo, ids = _enlarge(photo, _ranks(ids, regions))
  style = _Style.of(*ids.shape)
  picture = _tint(photo, ids, regions, style)
  picture = _write_labels(picture, ids, regions, style)
  return _add_legend(picture, legend, style) if legend else picture


def _ranks(ids, regions: Sequence[DrawnRegion]) -> UInt8[np.ndarray, 'h w']:
  """Ids replaced by 1 + their position among the regions; 0 for all others."""
  highest = max([int(ids.max()), *(region.id for region in regions)])
  table = np.zeros(highest + 1, np.uint16)
  for rank, region in enumerate(regions, 1):
    table[region.id] = rank
  return table[np.maximum(ids, 0)]


def _enlarge(photo, ranks):
  """Small pictures, enlarged by a whole factor."""
  height, width = ranks.shape
  factor = round(_SMALLEST_SIDE / max(height, width))
  if factor <= 1:
    return photo, ranks
  size = width * factor, height * factor
  method = cv2.INTER_CUBIC if min(height, width) > 16 else cv2.INTER_NEAREST
  ranks = cv2.resize(ranks, size, interpolation=cv2.INTER_NEAREST)
  # A median of ids is one of the ids: it rounds the stairs and invents nothing.
  return cv2.resize(photo, size, interpolation=method), cv2.medianBlur(ranks, 5)


def _tint(photo, ranks, regions: Sequence[DrawnRegion], style: _Style) -> Picture:
  """Segments in their colours; a band of full colour and a light line part two."""
  colors = np.zeros((len(regions) + 1, 3), np.float32)
  tints = np.zeros(len(regions) + 1, np.float32)
  for rank, region in enumerate(regions, 1):
    colors[rank] = region.color
    tints[rank] = _TINT_THING if region.thing else _TINT_STUFF
  band, line = _edges(ranks, 2 * style.line + 1), _edges(ranks, style.line + 2)
  picture = np.empty_like(photo)
  for top in range(0, len(photo), _STRIP):
    rows = slice(top, top + _STRIP)
    tint = tints[ranks[rows]]
    tint[band[rows] & (tint > 0)] = 0.85
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
    for font in (style.font, round(style.font * 0.8), round(style.font * 0.65)):
      box = _label_box(region.label, font)
      if font < 9 or not _has_room(mask, box, placer.step):
        continue
      corner = placer.place(mask, *box)
      if corner is not None:
        _write_label(canvas, corner, box, region, font)
        break
  return np.asarray(image)


def _label_box(label: Wording, font: int) -> tuple[int, int]:
  width, height = label.measure(font)
  return width + 2 * _pad(font), height + _pad(font) // 2


def _pad(font: int) -> int:
  return max(3, round(0.35 * font))


def _has_room(mask, box: tuple[int, int], step: int) -> bool:
  """Whether a label would not dwarf its region: neither wider nor most of it."""
  columns = np.flatnonzero(mask.any(0))
  width = (columns[-1] - columns[0] + 1) * step
  return box[0] <= 1.15 * width and box[0] * box[1] <= 0.6 * mask.sum() * step**2


def _write_label(canvas, corner, box, region: DrawnRegion, font: int) -> None:
  left, top = corner
  shape = (left, top, left + box[0] - 1, top + box[1] - 1)
  canvas.rounded_rectangle(shape, radius=_pad(font) * 0.8, fill=region.color)
  canvas.text(
    (left + box[0] / 2, top + box[1] / 2),
    region.label.text,
    font=region.label.at(font),
    fill=text_color(region.color),
    anchor='mm',
  )


def _add_legend(picture, legend: Sequence[LegendRow], style: _Style) -> Picture:
  """The picture with a panel: beside it, or below it where it is wide."""
  height, width = picture.shape[:2]
  below = width > 2 * height
  # A long list beside the photo is set in smaller letters.
  fitting = height / (_LINE * (len(legend) + 1))
  smaller = round(np.clip(fitting, max(12, 0.6 * style.font), style.font))
  font = style.font if below else smaller
  pad, line = _pad(font), round(_LINE * font)
  entry = max(_entry_width(row, font) for row in legend)
  if below:
    columns = max(1, (width - pad) // (entry + 2 * pad))
    rows = max(6, height // (2 * line))
  else:
    columns, rows = 1, max(1, (height - 2 * pad) // line)
  shown = list(legend)
  if len(shown) > rows * columns:
    # The last place tells how many are not shown.
    shown = shown[: rows * columns - 1]
  hidden = len(legend) - len(shown)
  entries = len(shown) + bool(hidden)
  rows = min(rows, -(-entries // columns))
  panel_height = rows * line + 2 * pad if below else height
  panel_width = width if below else entry + 4 * pad
  panel = Image.new('RGB', (panel_width, panel_height), _PANEL)
  canvas = ImageDraw.Draw(panel)
  for i in range(entries):
    column, row = divmod(i, rows)
    place = 2 * pad + column * (entry + 2 * pad), pad + row * line
    if i < len(shown):
      _write_entry(canvas, place, shown[i], font, line, entry)
    else:
      more = Wording(f'+ {hidden} more')
      canvas.text(
        (place[0], place[1] + line / 2),
        more.text,
        font=more.at(font),
        fill=_PANEL_FAINT,
        anchor='lm',
      )
  return np.concatenate([picture, np.asarray(panel)], axis=0 if below else 1)


def _entry_width(row: LegendRow, font: int) -> int:
  gap = _pad(font)
  remark = Wording(row.remark).measure(font)[0]
  return font + gap + row.label.measure(font)[0] + 2 * gap + remark


def _write_entry(canvas, place, row: LegendRow, font: int, line: int, width: int):
  left, top = place
  middle = top + line / 2
  box = (left, middle - font / 2, left + font, middle + font / 2)
  canvas.rounded_rectangle(box, radius=font * 0.25, fill=row.color)
  canvas.text(
    (left + font + _pad(font), middle),
    row.label.text,
    font=row.label.at(font),
    fill=_PANEL_TEXT,
    anchor='lm',
  )
  canvas.text(
    (left + width, middle),
    row.remark,
    font=Wording(row.remark).at(font),
    fill=_PANEL_FAINT,
    anchor='rm',
  )
