"""Plots as SVG text, for a page that needs nothing but itself."""

import html
import math
from collections.abc import Sequence

WIDTH = 640
_ROW, _GAP, _LABEL, _RIGHT = 22, 6, 190, 56
_FONT = 'font-size="12"'
_FILE_STYLE = (
  'text{fill:#1f2328}.grid{stroke:#d1d9e0;fill:none}'
  '.ideal{stroke:#59636e;stroke-dasharray:5 4;fill:none}'
  '@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.grid{stroke:#3d444d}}'
)
# Told apart also by those who see red and green alike.
COLORS = ('#3b6fb6', '#e08a1e', '#9a9a9a', '#4f9d69', '#b5466b')


def _text(x: float, y: float, text: str, anchor: str = 'start', style: str = '') -> str:
  escaped = html.escape(text)
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_FONT} '
    f'class="{style}">{escaped}</text>'
  )


def _svg(height: float, body: Sequence[str], name: str) -> str:
  return (
    f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
    f'aria-label="{html.escape(name)}">{"".join(body)}</svg>'
  )


def _shortened(text: str, letters: int = 30) -> str:
  return text if len(text) <= letters else text[: letters - 1] + '…'


def _number(value: float, digits: int = 1) -> str:
  return '-' if math.isnan(value) else f'{value:,.{digits}f}'


def bars(
  rows: Sequence[tuple[str, float]],
  *,
  name: str,
  top: float | None = None,
  colors: Sequence[str] = COLORS[:1],
  digits: int = 1,
) -> str:
  """Horizontal bars with their values.

  Args:
    rows: label and value, NaN for none.
    name: what the plot is, for those who cannot see it.
    top: the value of a full bar; the largest by default.
    colors: taken in turn.
    digits: of the values, after the point.
  """
  known = [value for _, value in rows if not math.isnan(value)]
  top = top or max([*known, 1e-9])
  room = WIDTH - _LABEL - _RIGHT
  body = []
  for i, (label, value) in enumerate(rows):
    y = i * (_ROW + _GAP)
    length = 0 if math.isnan(value) else room * min(max(value / top, 0), 1)
    body.append(_text(_LABEL - 8, y + 15, _shortened(label), 'end'))
    body.append(
      f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_ROW}" rx="2" '
      f'fill="{colors[i % len(colors)]}"/>'
    )
    body.append(_text(_LABEL + length + 6, y + 15, _number(value, digits)))
  return _svg(len(rows) * (_ROW + _GAP), body, name)


def stacked(
  rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], *, name: str
) -> str:
  """Horizontal bars that divide a hundred percent, and a legend.

  Args:
    rows: label, and percent of every part (NaN for a row without anything).
    parts: names of the parts.
    name: what the plot is, for those who cannot see it.
  """
  body = [*_legend(parts, 0)]
  room = WIDTH - _LABEL - 8
  for i, (label, shares) in enumerate(rows):
    y, x = 30 + i * (_ROW + _GAP), float(_LABEL)
    body.append(_text(_LABEL - 8, y + 15, _shortened(label), 'end'))
    for share, color in zip(shares, COLORS, strict=False):
      if math.isnan(share):
        continue
      length = room * share / 100
      body.append(
        f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{_ROW}" '
        f'fill="{color}"/>'
      )
      if length > 34:
        body.append(_text(x + length / 2, y + 15, f'{share:.0f}%', 'middle', 'on'))
      x += length
  return _svg(30 + len(rows) * (_ROW + _GAP), body, name)


def _legend(names: Sequence[str], y: float) -> list[str]:
  body, x = [], float(_LABEL)
  for name, color in zip(names, COLORS, strict=False):
    body.append(
      f'<rect x="{x:.1f}" y="{y}" width="12" height="12" rx="2" fill="{color}"/>'
    )
    body.append(_text(x + 17, y + 10.5, name))
    x += 17 + 6.6 * len(name) + 18
  return body


def lines(
  series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
  *,
  name: str,
  x_label: str,
  y_label: str,
  x_range: tuple[float, float] = (0, 1),
  y_range: tuple[float, float] = (0, 1),
  x_ticks: Sequence[tuple[float, str]] = (),
  diagonal: bool = False,
) -> str:
  """Curves on a grid, with a legend.

  Args:
    series: name, x and y values; points with a NaN are left out.
    name: what the plot is, for those who cannot see it.
    x_label, y_label: of the axes.
    x_range, y_range: what the axes show.
    x_ticks: places on the x axis and what stands there; even ones by default.
    diagonal: whether to draw where x equals y.
  """
  left, top, width, height = 62, 28, WIDTH - 62 - 16, 250

  def place(x: float, y: float) -> tuple[float, float]:
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return left + across * width, top + height - up * height

  body = list(_legend([label for label, *_ in series], 0)) if len(series) > 1 else []
  for x, label in x_ticks or [(x, f'{x:g}') for x in _even(x_range)]:
    px, _ = place(x, y_range[0])
    body.append(f'<path class="grid" d="M{px:.1f} {top}v{height}"/>')
    body.append(_text(px, top + height + 17, label, 'middle'))
  for y in _even(y_range):
    _, py = place(x_range[0], y)
    body.append(f'<path class="grid" d="M{left} {py:.1f}h{width}"/>')
    body.append(_text(left - 8, py + 4, f'{y:g}', 'end'))
  if diagonal:
    (x0, y0), (x1, y1) = place(x_range[0], y_range[0]), place(x_range[1], y_range[1])
    body.append(f'<path class="ideal" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
  for (_, xs, ys), color in zip(series, COLORS, strict=False):
    points = [place(x, y) for x, y in zip(xs, ys, strict=True) if not _undefined(x, y)]
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    body.append(
      f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"/>'
    )
    body += [
      f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points
    ]
  body.append(_text(left + width / 2, top + height + 36, x_label, 'middle'))
  body.append(
    f'<text transform="translate(14 {top + height / 2:.0f}) rotate(-90)" '
    f'text-anchor="middle" {_FONT}>{html.escape(y_label)}</text>'
  )
  return _svg(top + height + 44, body, name)


def _even(ends: tuple[float, float]) -> list[float]:
  return [ends[0] + step / 5 * (ends[1] - ends[0]) for step in range(6)]


def as_file(plot: str) -> str:
  """A plot as an SVG file of its own, for light and dark pages."""
  head = '<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" '
  tag, rest = plot.replace('<svg ', head, 1).split('>', 1)
  return f'{tag}><style>{_FILE_STYLE}</style>{rest}\n'


def _undefined(x: float, y: float) -> bool:
  return math.isnan(x) or math.isnan(y)
