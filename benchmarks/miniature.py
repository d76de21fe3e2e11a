"""The table of the miniature: every system on known and new words, over some seeds.

    launch/miniature.sh --scale 2 --out out/miniature
    for seed in 1 2; do
      launch/miniature.sh --scale 2 --seed $seed --out out/miniature_$seed \\
        --clips out/miniature --data out/miniature/data
    done
    python benchmarks/miniature.py --data_dir out/miniature/data --record \\
      out/miniature out/miniature_1 out/miniature_2

Reads what `launch/miniature.sh` left in its directories, one a seed, measures how many
things the proposals of each stage find and which part of a name each system reads, and
prints means over the seeds with their spread (the standard deviation). Systems that no
directory holds are left out.
`--record` writes `results/miniature.json` and `miniature.md`.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from machine import machine
from pycocotools import mask as coco_mask

import maskclip_jax
from maskclip_jax.data.world.words import THINGS, Kind
from maskclip_jax.eval import ledger
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import PROTOCOLS

ROOT = pathlib.Path(__file__).parent
RESULTS, TABLE = ROOT / 'results' / 'miniature.json', ROOT / 'miniature.md'
TESTS = {'miniature': 'test scenes', 'miniature_shifted': 'shifted scenes'}
SYSTEMS = {
  'clip_baseline': 'CLIP baseline: crops of the proposals',
  'clip_baseline_close_ups': 'CLIP baseline, its CLIP trained on close-ups',
  'maskclip_freeze': 'MaskCLIP without RMA',
  'maskclip': 'MaskCLIP',
  'masqclip_0': 'MasQCLIP, teacher only',
  'masqclip_1': 'MasQCLIP, 1 student round',
  'masqclip_2': 'MasQCLIP, 2 student rounds',
  'masqclip_longer': 'MasQCLIP, as long without distillation',
  'masqclip_tune_all': "MasQCLIP, teacher only, all of CLIP's image tower tuned",
}
PROPOSALS = ('teacher', 'student_1', 'student_2', 'longer')
NUMBERS = (
  *('PQ[base]', 'PQ[base_things]', 'PQ[novel]'),
  *('AP50[base]', 'AP50[novel]', 'mIoU_gt[base]', 'mIoU_gt[novel]'),
)
FOUND = 0.5
RECALLS = ('base', 'novel', 'base, likely', 'novel, likely')
PARTS = ('shape', 'colour', 'pattern')
# A proposal that is more likely an object than not.
LIKELY = 0.5


def found(
  directory: pathlib.Path, source: ProtocolSource, novel: Sequence[int]
) -> dict[str, float]:
  """Share of base and novel things that a proposal overlaps by IoU > 0.5."""
  segmenter = maskclip_jax.load(directory)
  hits = {key: [] for key in RECALLS}
  for example in source:
    proposals = segmenter(example.photo, task='instance').instances
    masks = [coco_mask.encode(np.asfortranarray(i.mask, np.uint8)) for i in proposals]
    scores = np.array([i.score for i in proposals])
    truth = example.truth.instance
    iou = coco_mask.iou(masks, truth.masks, truth.crowd.astype(np.uint8))
    for label, column in zip(truth.classes, np.asarray(iou).T, strict=True):
      key = 'novel' if label in novel else 'base'
      hits[key].append(column.max() > FOUND)
      hits[f'{key}, likely'].append((column * (scores > LIKELY)).max() > FOUND)
  return {key: 100 * float(np.mean(values)) for key, values in hits.items()}


def read_parts(directory: pathlib.Path, source: ProtocolSource) -> dict[str, float]:
  """How often each part of a name is right, where a segment covers the thing.

  Covers: by IoU > 0.5. All words compete; a thing named as stuff has no part right.
  """
  segmenter = maskclip_jax.load(directory)
  right = {f'{part}, {group}': [] for part in PARTS for group in ('base', 'novel')}
  for example in source:
    found = segmenter(example.photo, 'miniature-116', task='panoptic')
    classes = {segment.id: segment.class_index for segment in found.segments}
    areas = np.bincount(found.panoptic.ravel(), minlength=1 + max(classes, default=0))
    truth = example.truth.instance
    for label, rle in zip(truth.classes, truth.masks, strict=True):
      mask = coco_mask.decode(rle).astype(bool)
      shared = np.bincount(found.panoptic[mask], minlength=len(areas))
      iou = shared / (areas + mask.sum() - shared)
      best = 1 + int(np.argmax(iou[1:])) if classes else 0
      if not best or iou[best] <= FOUND:
        continue
      kind, named = Kind.of(int(label)), classes[best]
      for part in PARTS:
        same = named < THINGS and getattr(Kind.of(named), part) == getattr(kind, part)
        right[f'{part}, {"novel" if kind.novel else "base"}'].append(same)
  return {key: 100 * float(np.mean(values)) for key, values in right.items()}


def kept(
  directory: pathlib.Path, name: str, places: Mapping[str, pathlib.Path], measure
) -> dict[str, dict[str, float]]:
  """A measurement of each place, from a file of the seed where it was made before."""
  path = directory / 'judged' / name
  rows = json.loads(path.read_text()) if path.exists() else {}
  for key, place in places.items():
    if key not in rows and any((place / f).exists() for f in ('bundle', 'config.json')):
      rows[key] = measure(place)
      path.write_text(json.dumps(rows, indent=1) + '\n')
  return rows


def measured(
  directory: pathlib.Path, data_dir: pathlib.Path
) -> Iterator[tuple[str, float]]:
  """What the proposals of each stage find, and what each system reads of names."""
  run = PROTOCOLS['miniature'].for_system('masqclip')
  source = ProtocolSource(run, data_dir, tasks=('instance',))
  names = [c.name for c in source_words('miniature-things')]
  novel = [names.index(c.name) for c in source_words('miniature-novel')]
  stages = {stage: directory / stage for stage in PROPOSALS}
  systems = {f'{system}/parts': directory / system for system in SYSTEMS}
  for rows in (
    kept(directory, 'recall.json', stages, lambda d: found(d, source, novel)),
    kept(directory, 'parts.json', systems, lambda d: read_parts(d, source)),
  ):
    for key, row in rows.items():
      for column, value in row.items():
        yield f'{key}/{column}', value


def source_words(name: str):
  """The classes of a vocabulary."""
  return maskclip_jax.Vocabulary.named(name).classes


def numbers_of(directory: pathlib.Path, data_dir: pathlib.Path) -> dict[str, float]:
  """Every number of one seed by 'system/test/metric' or 'stage/recall'."""
  row = dict(measured(directory, data_dir))
  for system in SYSTEMS:
    for test in TESTS:
      path = directory / 'judged' / system / test / ledger.RESULTS
      if not path.exists():
        continue
      numbers = ledger.read(path)['numbers']
      row |= {f'{system}/{test}/{n}': numbers[f'{test}/{n}'] for n in NUMBERS}
  return row


def cell(seeds: Sequence[dict[str, float]], key: str) -> str:
  """Mean, and spread where there are several seeds."""
  values = [seed[key] for seed in seeds if key in seed]
  mean = f'{statistics.mean(values):.1f}'
  return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.1f}'


def rows(
  seeds: Sequence[dict[str, float]], titles: Mapping[str, str], columns: Sequence[str]
) -> list[str]:
  """A Markdown table: a row for each key prefix that some seed has."""
  lines = ['', '| | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
  for prefix, title in titles.items():
    keys = [f'{prefix}/{column}' for column in columns]
    if any(keys[0] in seed for seed in seeds):
      lines.append(f'| {title} | ' + ' | '.join(cell(seeds, k) for k in keys) + ' |')
  return lines


def tables(seeds: Sequence[dict[str, float]]) -> str:
  """Markdown."""
  lines = [f'Seeds: {len(seeds)}.']
  for test, title in TESTS.items():
    titles = {f'{system}/{test}': name for system, name in SYSTEMS.items()}
    lines += ['', f'**{title}**', *rows(seeds, titles, NUMBERS)]
  lines += ['', '**things that the proposals find** (IoU > 0.5, test scenes, percent)']
  lines += rows(seeds, {stage: stage for stage in PROPOSALS}, RECALLS)
  lines += [
    '',
    '**parts of names that are right** (of things covered, percent)',
  ]
  titles = {f'{system}/parts': name for system, name in SYSTEMS.items()}
  groups = [f'{part}, {group}' for part in PARTS for group in ('base', 'novel')]
  lines += rows(seeds, titles, groups)
  return '\n'.join(lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('directories', nargs='+', type=pathlib.Path)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  parser.add_argument('--record', action='store_true')
  arguments = parser.parse_args()
  seeds = [numbers_of(d, arguments.data_dir) for d in arguments.directories]
  table = tables(seeds)
  print(table)
  if arguments.record:
    content = {'machine': machine(), 'seeds': seeds}
    RESULTS.write_text(json.dumps(content, indent=1) + '\n')
    before, *_ = TABLE.read_text().partition('<!-- table -->')
    TABLE.write_text(f'{before}<!-- table -->\n\n{table}')


if __name__ == '__main__':
  main()
