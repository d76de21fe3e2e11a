"""A diagnosis as one HTML file, which a person reads in a minute."""

import html
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from maskclip_jax import atomic
from maskclip_jax.eval.diagnosis import findings
from maskclip_jax.eval.diagnosis.diagnose import (
  AS_IS,
  ORACLE_MASKS,
  ORACLE_NAMES,
  TRUE_WORDS,
  DiagnosedPhoto,
  Diagnosis,
)
from maskclip_jax.eval.diagnosis.overlaps import Regions
from maskclip_jax.eval.examples import Truth
from maskclip_jax.postprocess import Results
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.results import charts
from maskclip_jax.results.prediction import Prediction
from maskclip_jax.results.report_page import figure, page, table

REPORT = 'report.html'
_PICTURE_WIDTH = 620
# Confusions that cost the mean IoU less than this, in points, are left out.
_SMALLEST_COST = 0.05
_EXPLAINED = {
  AS_IS: 'as it is',
  TRUE_WORDS: 'only words that are there',
  ORACLE_NAMES: 'its masks, perfect names',
  ORACLE_MASKS: 'its names, perfect masks',
}


def write_report(diagnosis: Diagnosis, directory: str | os.PathLike) -> pathlib.Path:
  """Writes `report.html`.

  Raises:
    OSError: the directory cannot be written to, or the disk is full.
  """
  files = {REPORT: report(diagnosis).encode()}
  return atomic.write_together(directory, files)[0]


def report(diagnosis: Diagnosis) -> str:
  """The page."""
  d = diagnosis
  parts = [
    f'<h1>{_escaped(d.name)}: what limits this model?</h1>',
    f'<p class="faint">{_escaped(d.about)}. {d.examples} photos.</p>',
    f'<p class="lead">{_escaped(conclusion(d))}</p>',
    *_oracles(d),
    *_fates(d),
    *_confusions(d),
    *_calibration(d),
    *_classes(d),
    *_pictures('The worst photos', d.worst, d),
    *_pictures('The best photos', d.best, d),
  ]
  return page(d.name, parts)


def _escaped(text: str) -> str:
  return html.escape(text)


def conclusion(d: Diagnosis) -> str:
  """The diagnosis in two or three sentences."""
  if not d.headline:
    return 'There was nothing to judge.'
  name = d.headline[0]
  value = {variant: m.values[name] for variant, m in d.metrics.items()}
  if math.isnan(value[AS_IS]):
    return 'There was nothing to judge.'
  names = value[ORACLE_NAMES] - value[AS_IS]
  sentences = [
    f'{name} is {value[AS_IS]:.1f}. With perfect names for its masks it would be '
    f'{value[ORACLE_NAMES]:.1f}'
  ]
  if ORACLE_MASKS in value:
    masks = value[ORACLE_MASKS] - value[AS_IS]
    sentences[0] += f', with perfect masks {value[ORACLE_MASKS]:.1f}.'
    if abs(names - masks) < 2:
      sentences.append('Masks and names limit it alike.')
    else:
      limit = 'Naming the masks' if names > masks else 'Finding the masks'
      sentences.append(f'{limit} is what limits it.')
  else:
    sentences[0] += '.'
  words = value[TRUE_WORDS] - value[AS_IS]
  sentences.append(
    f'Words for things that are not in the photo cost it {words:.1f} points.'
    if words >= 0.05
    else 'Words for things that are not in the photo cost it nothing.'
  )
  return ' '.join(sentences)


def _oracles(d: Diagnosis) -> list[str]:
  parts = [
    '<h2>One part made perfect</h2>',
    '<p>Each bar is the same evaluation with one part replaced by the ground truth. '
    'Only the first is comparable with published numbers.</p>',
  ]
  for metric in d.headline:
    rows = [
      (_EXPLAINED[variant], metrics.values[metric])
      for variant, metrics in d.metrics.items()
    ]
    chart = charts.bars(
      rows, name=f'{metric} by variant', top=100, colors=charts.COLORS
    )
    parts.append(f'<h3>{_escaped(metric)}</h3>{chart}')
  return parts


def _fates(d: Diagnosis) -> list[str]:
  counts = d.fates.counts.sum(1)
  sizes = [
    f'{size} ({count})' for (size, _), count in zip(findings.AREAS, counts, strict=True)
  ]
  rows = list(zip(sizes, d.fates.shares().tolist(), strict=True))
  curves = [
    (size, findings.THRESHOLDS, (values / 100).tolist())
    for size, values, count in zip(sizes, d.fates.recalls(), counts, strict=True)
    if count
  ]
  return [
    '<h2>What becomes of the true regions</h2>',
    '<p>A region is found when a mask has an IoU above 0.5 with it, and named right '
    'when the best such mask has its class. Small: below 32² pixels; large: from 96² '
    'on. In brackets: how many there are.</p>',
    charts.stacked(rows, findings.FATES, name='fate of true regions by size'),
    '<p>Share of the regions that some mask finds, by how well it must fit:</p>',
    charts.lines(
      curves,
      name='recall of proposals by IoU and size',
      x_label='IoU demanded',
      y_label='share found',
      x_range=(0.5, 1.0),
    ),
  ]


def _confusions(d: Diagnosis) -> list[str]:
  names = d.class_names
  if d.confusions:
    rows = [
      (names[c.true], names[c.predicted], f'{c.share:.0f}%', f'{c.cost:.2f}')
      for c in d.confusions
      if c.cost >= _SMALLEST_COST
    ]
    heads = ('true class', 'taken for', 'of its pixels', 'points of mIoU lost')
    explained = 'Without the confusion, the mean IoU would be higher by so much.'
  else:
    rows = [(names[t], names[c], str(n)) for t, c, n in d.wrong_names]
    heads = ('true class', 'taken for', 'regions')
    explained = 'Regions that were found, and named wrong.'
  if not rows:
    return ['<h2>Confusions</h2><p>There are none.</p>']
  return [
    f'<h2>Confusions that cost most</h2><p>{explained}</p>',
    table(heads, rows, 2),
  ]


def _calibration(d: Diagnosis) -> list[str]:
  score, right = d.calibration.curve()
  error = d.calibration.error()
  shown = '-' if math.isnan(error) else f'{error:.3f}'
  return [
    '<h2>Can its scores be trusted?</h2>',
    '<p>Among masks of a score, the share that find a region and name it right; the '
    f'dashed line is a score that means what it says. Mean gap: {shown}.</p>',
    charts.lines(
      [('masks', score.tolist(), right.tolist())],
      name='calibration of scores',
      x_label='score',
      y_label='share right',
      diagonal=True,
    ),
  ]


def _classes(d: Diagnosis) -> list[str]:
  per_class = d.metrics[AS_IS].per_class
  metric = next(m for m in ('PQ', 'IoU', 'AP') if m in per_class)
  column = per_class[metric]
  order = [k for k in np.argsort(column, kind='stable') if not math.isnan(column[k])]
  shown = min(10, (len(order) + 1) // 2)
  worst, best = order[:shown], order[::-1][:shown]
  rows = [
    (d.class_names[k], f'{column[k]:.1f}', d.class_names[j], f'{column[j]:.1f}')
    for k, j in zip(worst, best, strict=True)
  ]
  if not rows:
    return []
  head = (
    f'<th>worst</th><th class=n>{metric}</th><th>best</th><th class=n>{metric}</th>'
  )
  body = ''.join(
    f'<tr><td>{_escaped(a)}</td><td class=n>{x}</td><td>{_escaped(b)}</td>'
    f'<td class=n>{y}</td></tr>'
    for a, x, b, y in rows
  )
  return [
    f'<h2>Classes</h2><table><tr>{head}</tr>{body}</table>',
  ]


def _pictures(title: str, samples: Sequence[DiagnosedPhoto], d: Diagnosis) -> list[str]:
  if not samples:
    return []
  parts = [f'<h2>{title}</h2>']
  for sample in samples:
    example = sample.example
    captions = (
      f'{example.image_id}: {sample.score:.1f} of 100',
      'ground truth',
    )
    figures = ''.join(
      figure(caption, _picture(example, results, d), _PICTURE_WIDTH)
      for caption, results in zip(
        captions, (sample.results, truth_results(example.truth, d)), strict=True
      )
    )
    parts.append(f'<div class="pair">{figures}</div>')
  return parts


def _picture(example, results: Results, d: Diagnosis) -> UInt8[np.ndarray, 'h w 3']:
  """The photo with results drawn over it."""
  prediction = Prediction.from_results(
    results, d.class_names, d.things, photo=example.photo
  )
  return prediction.overlay()


def truth_results(truth: Truth, d: Diagnosis) -> Results:
  """Ground truth in the form of results, to be drawn like them."""
  regions = Regions.of(truth)
  segments = tuple(
    Segment(row + 1, int(label), d.things[label], 1.0, int(area), 0)
    for row, (label, area) in enumerate(
      zip(regions.classes, regions.areas, strict=True)
    )
  )
  return Results(panoptic=(regions.map + 1).astype(np.int32), segments=segments)
