"""The result of a check, and the page that shows it."""

import base64
import dataclasses
import html
import importlib.resources
import os
import pathlib
from collections.abc import Sequence

from maskclip_jax import atomic
from maskclip_jax.data.doctor.findings import KINDS, Group

_BARS = 20
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class ShownPhoto:
  """A photo to look at.

  Attributes:
    split, image_id: which one.
    pictures: titled JPEG.
    kind: the finding that it shows, or empty.
  """

  split: str
  image_id: str
  pictures: tuple[tuple[str, bytes], ...]
  kind: str = ''


@dataclasses.dataclass(frozen=True)
class Histogram:
  """In how many photos each class occurs, most frequent first."""

  split: str
  what: str
  rows: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class CheckReport:
  """What a check found.

  Attributes:
    dataset, path: which build.
    sizes: by split: photos, photos that were decoded, segments, objects, captions.
    groups: findings by split and kind, grave ones first.
    histograms: one for each kind of label.
    examples: pictures.
    own: the dataset is labelled by its user.
  """

  dataset: str
  path: str
  sizes: tuple[tuple[str, tuple[int, int, int, int, int]], ...]
  groups: tuple[Group, ...]
  histograms: tuple[Histogram, ...]
  examples: tuple[ShownPhoto, ...]
  own: bool = False

  @property
  def problems(self) -> tuple[Group, ...]:
    return tuple(group for group in self.groups if group.severity == 'problem')

  @property
  def ok(self) -> bool:
    """Nothing was found that spoils training or numbers."""
    return not self.problems

  def remedy(self, group: Group) -> str:
    """What to do about findings of one kind."""
    return KINDS[group.kind].remedy(own=self.own)

  def kinds(self) -> set[str]:
    """Kinds of findings, notes left out."""
    return {group.kind for group in self.groups if group.severity != 'note'}

  def write_html(self, path: str | os.PathLike) -> pathlib.Path:
    """Writes a page that needs no other file."""
    path = pathlib.Path(path)
    atomic.write(path, self.html())
    return path

  def html(self) -> str:
    """The page."""
    folder = importlib.resources.files(__package__)
    style = folder.joinpath('report.css').read_text(encoding='utf-8')
    title = f'Check of {html.escape(self.dataset)}'
    verdict = (
      'No problem was found.'
      if self.ok
      else f'{len(self.problems)} kinds of problems were found.'
    )
    body = ''.join(
      [
        f'<h1>{title}</h1><p class="path">{html.escape(self.path)}</p>',
        f'<p class="verdict {"good" if self.ok else "bad"}">{verdict}</p>',
        self._sizes(),
        '<h2>Findings</h2>',
        ''.join(map(self._group, self.groups)) or '<p>None.</p>',
        '<h2>Examples</h2>',
        ''.join(map(_example, self.examples)),
        '<h2>Classes</h2><div class="columns">',
        ''.join(map(_histogram, self.histograms)),
        '</div>',
      ]
    )
    return (
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f'<title>{title}</title><style>{style}</style></head><body>{body}</body></html>\n'
    )

  def _sizes(self) -> str:
    heads = ('split', 'photos', 'decoded', 'segments', 'objects', 'captions')
    head = ''.join(f'<th>{name}</th>' for name in heads)
    rows = ''.join(
      f'<tr><td>{html.escape(split)}</td>'
      + ''.join(f'<td>{number:,}</td>' for number in numbers)
      + '</tr>'
      for split, numbers in self.sizes
    )
    return f'<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'

  def _group(self, group: Group) -> str:
    kind = KINDS[group.kind]
    lines = [
      (f'photo {found.image_id}: ' if found.image_id else '') + found.detail
      for found in group.findings[:_SHOWN]
    ]
    rows = ''.join(f'<li>{html.escape(line)}</li>' for line in lines)
    more = len(group.findings) - _SHOWN
    rest = f'<li>and {more:,} more</li>' if more > 0 else ''
    title = html.escape(f'{group.split}: {kind.title}')
    head = f'<h3><span>{group.severity}</span> {title}</h3>'
    fix = f'<p><b>What to do:</b> {html.escape(self.remedy(group))}</p>'
    return (
      f'<section class="{group.severity}">{head}{fix}<ul>{rows}{rest}</ul></section>'
    )


def _example(example: ShownPhoto) -> str:
  why = f': {KINDS[example.kind].title}' if example.kind else ''
  caption = html.escape(f'{example.split} {example.image_id}{why}')
  figures = ''.join(
    f'<figure><img alt="{title}" src="data:image/jpeg;base64,'
    f'{base64.b64encode(data).decode()}"><figcaption>{title}</figcaption></figure>'
    for title, data in example.pictures
  )
  return f'<article><h4>{caption}</h4><div class="row">{figures}</div></article>'


def _histogram(histogram: Histogram) -> str:
  title = html.escape(f'{histogram.split}: {histogram.what}, photos per class')
  return f'<div><h4>{title}</h4>{_bars(histogram.rows)}</div>'


def _bars(rows: Sequence[tuple[str, int]]) -> str:
  top = max((count for _, count in rows), default=1) or 1
  lines = ''.join(
    f'<div class="bar"><span>{html.escape(name)}</span>'
    f'<i style="width:{100 * count / top:.1f}%"></i><b>{count:,}</b></div>'
    for name, count in rows[:_BARS]
  )
  rest = len(rows) - _BARS
  return lines + (f'<p>and {rest:,} more classes</p>' if rest > 0 else '')
