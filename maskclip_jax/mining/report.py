"""The report of a mined set: how many pairs, how sure, how right, and how they look."""

import html
import math
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from maskclip_jax import atomic
from maskclip_jax.data.records import read_label_map
from maskclip_jax.mining.job import MiningJob, Photos, Shard
from maskclip_jax.mining.miner import Picture
from maskclip_jax.mining.shards import read_pair
from maskclip_jax.mining.statistics import NotedPair, Statistics, collect
from maskclip_jax.photos import photo_from_bytes
from maskclip_jax.results import charts
from maskclip_jax.results.report_page import figure, page, table

_SHOWN, _NOUNS, _WIDTH = 6, 20, 420
# Pairs of a photo from which on photos are counted together.
_MOST = 12
# A colour rare in photos, for the outline; how much white is mixed into the rest.
_COLOR, _FADED = (235, 0, 170), 0.6
# Of a region that shows what its noun says.
_RIGHT = 0.5
# A noun with a larger share of all pairs, and regions with another noun that fits
# better: beyond these, something is worth a look.
_FREQUENT, _TAKEN = 0.2, 0.3


def write_report(
  job: MiningJob, source: Photos, shards: Sequence[Shard]
) -> pathlib.Path:
  """Writes `report-SPLIT.html`; the same pairs give the same page.

  Args:
    job: what was mined.
    source: its photos.
    shards: its files, all there.

  Raises:
    OSError: the folder cannot be written to, or the disk is full.
  """
  path = pathlib.Path(job.out, f'report-{job.split}.html')
  atomic.write(path, report(job, source, shards))
  return path


def report(job: MiningJob, source: Photos, shards: Sequence[Shard]) -> str:
  """The page."""
  s = collect(shards, _SHOWN)

  def pictures(title: str, about: str, pairs: Sequence[NotedPair]) -> str:
    figures = ''.join(
      figure(_caption(pair), _picture(pair, source, shards), _WIDTH) for pair in pairs
    )
    return f'<h2>{title}</h2><p>{about}</p><div class="three">{figures}</div>'

  title = f'Pairs of {job.source}'
  parts = [
    f'<h1>{html.escape(title)}</h1>',
    f'<p class="faint">{html.escape(_settings(job))}</p>',
    f'<p class="lead">{html.escape(summary(s))}</p>',
    *(f'<p><b>Look at this:</b> {html.escape(text)}</p>' for text in warnings_of(s)),
    *_counts(s),
    *_nouns(s),
    *_scores(s),
    f'<p>{html.escape(of_leads(s))}</p>',
    pictures('The best pairs', 'Those of the highest scores.', s.best),
    pictures('The worst pairs', 'Those of the lowest scores.', s.worst),
  ]
  if s.doubtful:
    about = 'Their regions fit another noun of the same photo better, or as well.'
    parts.append(pictures('The most doubtful pairs', about, s.doubtful))
  return page(title, parts)


def summary(s: Statistics) -> str:
  """The set in a few sentences."""
  text = (
    f'{s.pairs:,} pairs of {s.photos:,} photos, {s.pairs / s.photos:.1f} a photo, with '
    f'{len(s.nouns):,} distinct nouns. The median score is {np.median(s.scores):.3f}.'
  )
  if s.problems:
    text += f' {sum(s.problems.values()):,} photos gave none.'
  known = s.overlaps[~np.isnan(s.overlaps)]
  if len(known):
    text += (
      f' Of {len(known):,} regions with ground truth {(known >= _RIGHT).mean():.0%} '
      f'show what their noun says (IoU of at least {_RIGHT}); the mean IoU is '
      f'{known.mean():.2f}.'
    )
  return text


def of_leads(s: Statistics) -> str:
  """What a lead says of a pair; empty where nothing is known."""
  known = ~np.isnan(s.leads)
  if not known.any():
    return ''
  behind = s.leads < 0
  text = (
    f'{behind.sum() / known.sum():.0%} of the regions fit another noun of their photo '
    'better (a negative lead).'
  )
  judged = ~np.isnan(s.overlaps)
  if (judged & behind).any() and (judged & known & ~behind).any():
    right = s.overlaps >= _RIGHT
    text += (
      f' Of these {right[judged & behind].mean():.0%} are right, of the others '
      f'{right[judged & known & ~behind].mean():.0%}.'
    )
  return text


def warnings_of(s: Statistics) -> list[str]:
  """What looks wrong, a sentence each."""
  found = []
  noun, count = next(iter(s.nouns.items()))
  if count > _FREQUENT * s.pairs and len(s.nouns) > 5:
    found.append(f'{noun!r} is in {count / s.pairs:.0%} of all pairs.')
  known = s.leads[~np.isnan(s.leads)]
  taken = (known < 0).mean() if len(known) else 0.0
  if taken > _TAKEN:
    found.append(
      f'{taken:.0%} of the regions fit another noun of their photo better: the masks '
      'may miss what the nouns name, or this CLIP does not know masked regions.'
    )
  if len(s.problems) and sum(s.problems.values()) > s.photos / 2:
    found.append('More than half of the photos gave no pair.')
  return found


def _settings(job: MiningJob) -> str:
  config = job.config
  proposals = f', masks of {config.proposals}' if config.proposals else ''
  captions = 'all captions' if not config.captions else f'captions: {config.captions}'
  return (
    f'Model: {config.model}{proposals}. Nouns: {config.nouns.source}, as '
    f'{config.nouns.form}; {captions}.'
  )


def _counts(s: Statistics) -> list[str]:
  rows = [(f'{n} pairs', float(count)) for n, count in enumerate(s.per_photo[:_MOST])]
  if many := sum(s.per_photo[_MOST:]):
    rows.append((f'{_MOST} or more', float(many)))
  parts = [
    '<h2>Pairs a photo</h2>',
    charts.bars(rows, name='photos by pairs', digits=0),
  ]
  if s.problems:
    reasons = [(reason, f'{count:,}') for reason, count in s.problems.items()]
    parts += ['<p>Why photos gave none:</p>', table(('reason', 'photos'), reasons, 1)]
  return parts


def _nouns(s: Statistics) -> list[str]:
  once = sum(count == 1 for count in s.nouns.values())
  rows = [(noun, float(count)) for noun, count in list(s.nouns.items())[:_NOUNS]]
  parts = [
    '<h2>Nouns</h2>',
    f'<p>{len(s.nouns):,} distinct ones, {once:,} of them once. The most frequent:</p>',
    charts.bars(rows, name='pairs of the most frequent nouns', digits=0),
  ]
  order = sorted(s.overlap_of_noun, key=lambda noun: (s.overlap_of_noun[noun], noun))
  if order:
    worst = [
      (noun, f'{s.nouns[noun]:,}', f'{s.overlap_of_noun[noun]:.2f}')
      for noun in order[: _NOUNS // 2]
    ]
    parts += [
      '<p>Those that agree least with the ground truth:</p>',
      table(('noun', 'pairs', 'mean IoU'), worst, 1),
    ]
  return parts


def _scores(s: Statistics) -> list[str]:
  """How many pairs a threshold keeps, and how many of those are right."""
  low, high = np.quantile(s.scores, (0.0, 1.0))
  thresholds = np.linspace(low, high, 21)
  kept = [(s.scores >= threshold).mean() for threshold in thresholds]
  series = [('kept', thresholds.tolist(), kept)]
  known = ~np.isnan(s.overlaps)
  if known.any():
    right = [
      (s.overlaps[known & (s.scores >= t)] >= _RIGHT).mean()
      if (known & (s.scores >= t)).any()
      else np.nan
      for t in thresholds
    ]
    series.append(('right among them', thresholds.tolist(), right))
  parts = [
    '<h2>What a threshold on the score would do</h2>',
    '<p>Share of the pairs that --min_score would keep'
    + (', and of these the share with the right region.' if len(series) > 1 else '.')
    + '</p>',
    charts.lines(
      series,
      name='pairs kept by score',
      x_label='least score',
      y_label='share',
      x_range=_scale(low, high),
    ),
  ]
  if known.any():
    edges = np.linspace(0, 1, 11)
    counts, _ = np.histogram(s.overlaps[known], edges)
    rows = [
      (f'{a:.1f} to {b:.1f}', float(count))
      for a, b, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    parts += [
      '<h2>Agreement with the ground truth</h2>',
      '<p>Pairs by the IoU of their region with what the noun names in the photo; 0 '
      'also where the photo does not show it.</p>',
      charts.bars(rows, name='pairs by IoU', digits=0),
    ]
  return parts


def _scale(low: float, high: float) -> tuple[float, float]:
  """Ends of an axis of five steps that are round numbers."""
  for step in (0.01, 0.02, 0.05, 0.1, 0.2):
    start = math.floor(low / step) * step
    if start + 5 * step >= high:
      break
  return round(start, 2), round(start + 5 * step, 2)


def _caption(pair: NotedPair) -> str:
  texts = [f'{pair.noun}: score {pair.score:.3f}']
  if pair.lead is not None:
    texts.append(f'lead {pair.lead:+.3f}')
  if pair.iou is not None:
    texts.append(f'IoU {pair.iou:.2f}')
  return ', '.join(texts) + f'; {pair.key}'


def _picture(pair: NotedPair, source: Photos, shards: Sequence[Shard]) -> Picture:
  """The region in its own colours; the photo around it is faded."""
  photo = photo_from_bytes(source[pair.photo]['image'], pair.key)
  mask = np.zeros(pair.size, np.uint8)
  top, left, bottom, right = pair.box
  stored = read_pair(shards[pair.shard], pair.ordinal).mask
  mask[top:bottom, left:right] = read_label_map(stored) != 0
  size = _WIDTH, max(1, round(_WIDTH * pair.size[0] / pair.size[1]))
  mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
  smooth = cv2.INTER_AREA if photo.shape[1] > _WIDTH else cv2.INTER_CUBIC
  photo = cv2.resize(photo, size, interpolation=smooth)
  grey = photo.mean(-1, keepdims=True)
  shown = np.where(mask[..., None] > 0, photo, _FADED * 255 + (1 - _FADED) * grey)
  picture = np.ascontiguousarray(shown.round().astype(np.uint8))
  outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
  return cv2.drawContours(picture, outlines, -1, _COLOR, 2)
