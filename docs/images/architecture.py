"""Draws `architecture.light.svg` and `architecture.dark.svg`, how the systems work.

python docs/images/architecture.py [--out DIR]

One drawing in two sets of colours: what stands on the page (ink, lines, cards) follows
the theme, what stands for pictures and systems keeps its colour.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Sequence
from xml.sax.saxutils import escape

FONT = "-apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
WIDTH, HEIGHT = 1000, 494


@dataclasses.dataclass(frozen=True)
class Theme:
  """Colours of what stands on the page.

  Attributes:
    ink: headings.
    muted: explanations.
    line: arrows and outlines.
    card: the ground of boxes; the page itself is not painted.
    inset: boxes inside boxes.
    low: a cell of the score table whose word does not fit.
    high: a cell whose word does.
  """

  ink: str
  muted: str
  line: str
  card: str
  inset: str
  low: str
  high: str


LIGHT = Theme(
  '#1f2328', '#59636e', '#8c959f', '#f6f8fa', '#ffffff', '#dfe5ec', '#3b5bdb'
)
DARK = Theme(
  '#f0f6fc', '#a8b1bb', '#7d8590', '#151b23', '#212830', '#2d3640', '#8da2fb'
)

# The systems, in colours that read on both grounds.
BLUE, ORANGE, GREEN, VIOLET = '#4c6ef5', '#e8590c', '#2f9e44', '#9c5cf0'
# The little photo: sky, sand, two disks and a star.
SKY, SAND, RED, YELLOW, TEAL = '#a5d0f3', '#e8cf9e', '#e05252', '#f2b134', '#1c9c8b'
# Its segments.
SEGMENTS = {
  'sky': '#7fb2e5',
  'sand': '#d9b26a',
  'disk': '#d6336c',
  'disk 2': '#f783ac',
  'star': '#12b886',
}


def text(
  x: float, y: float, words: str, colour: str, size: float = 13, **style: str
) -> str:
  """A line of text; y is its baseline."""
  more = ''.join(f' {k.replace("_", "-")}="{v}"' for k, v in style.items())
  return (
    f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}"{more}>'
    f'{escape(words)}</text>'
  )


def box(
  x: float, y: float, w: float, h: float, fill: str, stroke: str = 'none', r: float = 8
) -> str:
  """A rectangle with round corners."""
  return (
    f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{r}" fill="{fill}" '
    f'stroke="{stroke}"/>'
  )


def arrow(points: Sequence[tuple[float, float]], colour: str) -> str:
  """A line through points, with a head at the last one."""
  path = ' L'.join(f'{x} {y}' for x, y in points)
  (x0, y0), (x, y) = points[-2:]
  angle = math.degrees(math.atan2(y - y0, x - x0))
  return (
    f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    f'<path d="M-8 -4.5 L0 0 L-8 4.5 Z" fill="{colour}" '
    f'transform="translate({x} {y}) rotate({angle:.0f})"/>'
  )


def star(x: float, y: float, radius: float) -> str:
  """The outline of a star of five points, for the attribute `points`."""
  corners = []
  for i in range(10):
    r = radius if i % 2 == 0 else 0.45 * radius
    angle = math.pi * (i / 5 - 0.5)
    corners.append(f'{x + r * math.cos(angle):.1f},{y + r * math.sin(angle):.1f}')
  return ' '.join(corners)


def scene(x: float, y: float, width: float, colours: dict[str, str], name: str) -> str:
  """The little photo, 4 to 3, with a colour for each of its segments.

  Args:
    x, y: its top left corner.
    width: its width.
    colours: by the names of `SEGMENTS`; segments without one are left out.
    name: an identifier of the clipping path, of its own in each drawing.
  """
  scale = width / 120
  shapes = {
    'sky': '<rect width="120" height="90" fill="{}"/>',
    'sand': '<path d="M0 60 Q40 50 70 58 T120 54 V90 H0 Z" fill="{}"/>',
    'disk': '<circle cx="36" cy="48" r="19" fill="{}"/>',
    'disk 2': '<circle cx="59" cy="65" r="12.5" fill="{}"/>',
    'star': f'<polygon points="{star(91, 36, 23)}" fill="{{}}"/>',
  }
  drawn = ''.join(shapes[k].format(colours[k]) for k in shapes if k in colours)
  return (
    f'<g transform="translate({x} {y}) scale({scale:.4f})"><clipPath id="{name}">'
    f'<rect width="120" height="90" rx="{6 / scale:.2f}"/></clipPath>'
    f'<g clip-path="url(#{name})">{drawn}</g></g>'
  )


def inputs(theme: Theme) -> list[str]:
  """The photo and the words, on the left."""
  photo = dict(zip(SEGMENTS, (SKY, SAND, RED, YELLOW, TEAL), strict=True))
  drawn = [
    text(0, 70, 'Your photo', theme.ink, 15, font_weight='600'),
    scene(0, 82, 132, photo, 'photo'),
    text(0, 204, 'any size', theme.muted),
    text(0, 362, 'Your words', theme.ink, 15, font_weight='600'),
  ]
  words = ('star', 'disk, circle', 'stuff: sand', 'stuff: sky')
  for i, word in enumerate(words):
    y = 374 + 27 * i
    drawn += [
      box(0, y, 104, 22, theme.card, theme.line, 11),
      text(12, y + 15.5, word, theme.ink, 13),
    ]
  return drawn


def proposals(theme: Theme) -> list[str]:
  """The proposal network and its masks."""
  x, y, w = 168, 42, 164
  drawn = [
    box(x, y, w, 222, theme.card, theme.line),
    text(x + 14, y + 26, 'Proposals', theme.ink, 15, font_weight='600'),
    text(x + 14, y + 46, 'masks without names', theme.muted),
  ]
  for i, one in enumerate(('disk', 'disk 2', 'star', 'sand')):
    px, py = x + 14 + 70 * (i % 2), y + 60 + 56 * (i // 2)
    colours = {'sky': theme.low, one: theme.ink}
    drawn.append(scene(px, py, 64, colours, f'mask{i}'))
  drawn += [
    text(x + 14, y + 190, 'Mask2Former,', theme.muted),
    text(x + 14, y + 208, 'MaskFormer', theme.muted),
  ]
  return drawn


def glyph(kind: str, x: float, y: float, theme: Theme, colour: str) -> str:
  """A sign of 54 x 44 for a way from masks to vectors."""
  if kind == 'tokens':
    # Patches, and tokens of masks that look at them.
    cells = ''.join(
      box(x + 24 + 10 * (i % 3), y + 7 + 10 * (i // 3), 8.5, 8.5, theme.low, r=1.5)
      for i in range(9)
    )
    queries = ''.join(
      f'<circle cx="{x + 6}" cy="{y + 11 + 10 * i}" r="4" fill="{colour}"/>'
      f'<path d="M{x + 11} {y + 11 + 10 * i} L{x + 22} {y + 15 + 6 * i}" '
      f'stroke="{colour}" stroke-width="1.4"/>'
      for i in range(3)
    )
    return cells + queries
  if kind == 'crops':
    return (
      box(x + 2, y + 4, 24, 24, theme.low, colour, 2)
      + f'<circle cx="{x + 14}" cy="{y + 16}" r="9.5" fill="{colour}"/>'
      + box(x + 22, y + 14, 26, 26, theme.low, colour, 2)
      + f'<polygon points="{star(x + 35, y + 27.5, 11.5)}" fill="{colour}"/>'
    )
  if kind == 'groups':
    owner = (0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 1, 2, 2, 2, 2)
    strength = ('1', '0.55', '0.22')
    return ''.join(
      f'<rect x="{x + 6 + 10 * (i % 4)}" y="{y + 2 + 10 * (i // 4)}" width="8.5" '
      f'height="8.5" rx="1.5" fill="{colour}" fill-opacity="{strength[k]}"/>'
      for i, k in enumerate(owner)
    )
  layers = ''.join(
    f'<path d="M{x + 4} {y + 16 + 9 * i} l20 -10 l20 10 l-20 10 Z" fill="{theme.low}" '
    f'stroke="{colour}" stroke-width="1.2"/>'
    for i in (2, 1, 0)
  )
  return layers + f'<circle cx="{x + 24}" cy="{y + 16}" r="5" fill="{colour}"/>'


LANES = (
  ('tokens', BLUE, 'Mask tokens inside CLIP', 'MaskCLIP · MasQCLIP'),
  ('crops', ORANGE, 'Crops of the masks', 'OVSeg · CLIP baseline'),
  ('pooled', VIOLET, 'Features pooled in masks', 'FC-CLIP · OVRCOAT · MAFT+'),
  ('groups', GREEN, 'Patches in groups', 'SegCLIP'),
)


def regions(theme: Theme) -> list[str]:
  """Four ways from masks to vectors in CLIP's space."""
  x, y, w = 364, 0, 300
  drawn = [
    box(x, y + 0.5, w, 326, theme.card, theme.line),
    text(x + 16, y + 26, 'CLIP sees each mask', theme.ink, 15, font_weight='600'),
    text(x + 16, y + 45, 'four ways to one vector a mask', theme.muted),
  ]
  for i, (kind, colour, title, systems) in enumerate(LANES):
    top = y + 57 + 66 * i
    drawn += [
      box(x + 12, top, w - 24, 60, theme.inset, r=6),
      f'<rect x="{x + 12}" y="{top}" width="4" height="60" rx="2" fill="{colour}"/>',
      glyph(kind, x + 26, top + 8, theme, colour),
      text(x + 86, top + 26, title, theme.ink, 13.5, font_weight='600'),
      text(x + 86, top + 46, systems, theme.muted),
    ]
  return drawn


def words(theme: Theme) -> list[str]:
  """The text tower."""
  x, y, w = 364, 382, 300
  drawn = [
    box(x, y, w, 92, theme.card, theme.line),
    text(x + 16, y + 26, 'CLIP reads each word', theme.ink, 15, font_weight='600'),
    text(x + 16, y + 46, 'one vector a class, the', theme.muted),
    text(x + 16, y + 64, 'mean of its templates', theme.muted),
    text(x + 16, y + 82, 'and synonyms', theme.muted),
  ]
  for i in range(4):
    for j in range(5):
      strength = 0.25 + 0.75 * ((3 * i + 2 * j + i * j) % 5) / 4
      drawn.append(
        f'<rect x="{x + 238 + 9.5 * j}" y="{y + 29 + 11 * i}" width="8" height="9" '
        f'rx="1.5" fill="{theme.high}" fill-opacity="{strength:.2f}"/>'
      )
  return drawn


def scores(theme: Theme) -> list[str]:
  """Masks times words."""
  x, y, size = 704, 148, 24
  drawn = [
    text(x, y - 30, 'Scores', theme.ink, 15, font_weight='600'),
    text(x, y - 11, 'masks by words', theme.muted),
  ]
  best = (1, 1, 0, 2, 3)
  for row, column in enumerate(best):
    for j in range(4):
      strength = 1 if j == column else 0
      drawn.append(
        box(
          x + size * j,
          y + size * row,
          size - 2.5,
          size - 2.5,
          theme.high if strength else theme.low,
          r=3,
        )
      )
  drawn += [
    text(x, y + 139, 'and the scores of', theme.muted, 12.5),
    text(x, y + 156, 'the proposals', theme.muted, 12.5),
  ]
  return drawn


def results(theme: Theme) -> list[str]:
  """The three kinds of result, on the right."""
  same = {**SEGMENTS, 'disk 2': SEGMENTS['disk']}
  alone = {'sky': theme.low} | {k: SEGMENTS[k] for k in ('disk', 'disk 2', 'star')}
  drawn = []
  kinds = (
    ('Panoptic', 'things and stuff', SEGMENTS),
    ('Semantic', 'a class per pixel', same),
    ('Instance', 'things, scored', alone),
  )
  for i, (title, what, colours) in enumerate(kinds):
    y = 4 + 160 * i
    drawn += [
      scene(856, y, 124, colours, f'result{i}'),
      text(856, y + 111, title, theme.ink, 13.5, font_weight='600'),
      text(856, y + 128, what, theme.muted, 12.5),
    ]
  return drawn


def arrows(theme: Theme) -> list[str]:
  """What goes where."""
  line = theme.line
  return [
    arrow([(136, 132), (164, 132)], line),
    arrow([(336, 132), (360, 132)], line),
    # SegCLIP takes the photo as it is.
    arrow([(66, 212), (66, 288), (360, 288)], GREEN),
    text(80, 281, 'SegCLIP: its groups are the masks', theme.muted, 12.5),
    arrow([(112, 428), (360, 428)], line),
    arrow([(668, 204), (698, 204)], line),
    arrow([(668, 428), (751, 428), (751, 318)], line),
    arrow([(806, 204), (848, 204)], line),
    arrow([(828, 204), (828, 50), (848, 50)], line),
    arrow([(828, 204), (828, 370), (848, 370)], line),
  ]


def draw(theme: Theme) -> str:
  """The whole picture."""
  parts = [
    part
    for make in (inputs, proposals, regions, words, scores, results, arrows)
    for part in make(theme)
  ]
  title = 'From a photo and words to segments: proposals, CLIP, scores, three results'
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -10 {WIDTH + 10} {HEIGHT}" '
    f'font-family="{FONT}" role="img">\n<title>{title}</title>\n'
    + '\n'.join(parts)
    + '\n</svg>\n'
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent)
  out = parser.parse_args().out
  for name, theme in (('light', LIGHT), ('dark', DARK)):
    (out / f'architecture.{name}.svg').write_text(draw(theme))


if __name__ == '__main__':
  main()
