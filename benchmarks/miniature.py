"""The table of the miniature: every system on known and new words, over some seeds.

    launch/miniature.sh --scale 1 --out out/miniature
    for seed in 1 2; do
      launch/miniature.sh --scale 1 --seed $seed --out out/miniature_$seed \\
        --clips out/miniature --data out/miniature/data
    done
    python benchmarks/miniature.py --data_dir out/miniature/data --record \\
      out/miniature out/miniature_1 out/miniature_2

Reads what `launch/miniature.sh` left in its directories, one a seed, measures how many
things the proposals of each stage find and which part of a name each system reads, and
prints means over the seeds with their spread (the standard deviation). Systems that no
directory holds are left out. `--split far` is for directories of that split, whose
words that nothing annotated are near or far. `--by_step` is for runs that train
proposals: it prints what each of their checkpoints finds
(`--config.checkpoint.every=300 --config.checkpoint.keep=10` keeps ten).

`--record` adds the numbers to those that are recorded of the same seeds, systems
replacing what was there of them, and fills the page's table with all of them: rows can
be measured one after another. `--scale` says what was given to `launch/miniature.sh`;
each has a file and a table of its own (`results/miniature.json`, `miniature.md`, and
the same of the far split).
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pages
from machine import machine
from pycocotools import mask as coco_mask

import maskclip_jax
from maskclip_jax.eval import ledger
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import PROTOCOLS
from maskclip_jax.miniature.words import THINGS, Kind
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.train import checkpoint
from maskclip_jax.train.export import export_checkpoint

ROOT = pathlib.Path(__file__).parent
TESTS = {'': 'test scenes', '_shifted': 'shifted scenes'}
# What `launch/miniature.sh --coat 0.5` judges besides.
COAT = '+scores:coat=0.5'
SYSTEMS = {
  'clip_baseline': 'CLIP baseline: crops of the proposals',
  'clip_baseline_close_ups': 'CLIP baseline, its CLIP trained on close-ups',
  'maskclip_freeze': 'MaskCLIP without RMA',
  'maskclip': 'MaskCLIP',
  'masqclip_0': 'MasQCLIP, teacher only',
  'masqclip_1': 'MasQCLIP, 1 student round',
  'masqclip_2': 'MasQCLIP, 2 student rounds',
  'masqclip_longer': 'MasQCLIP, as long without distillation',
  'masqclip_192': 'MasQCLIP of the package: photos of 192, a CLIP that saw mosaics',
  'masqclip_tune_all': "MasQCLIP, teacher only, all of CLIP's image tower tuned",
  'segclip': 'SegCLIP, from captions and superpixels',
  'segclip_no_contrastive': 'SegCLIP without the contrastive loss',
  'segclip_no_superpixel': 'SegCLIP without superpixels',
  'segclip_no_reconstruction': 'SegCLIP without reconstruction',
  'ovseg_proposals': 'OVSeg, its CLIP not adapted',
  'ovseg_prompts': 'OVSeg, mask prompts only',
  'ovseg_pairs': 'OVSeg, its CLIP tuned',
  'ovseg': 'OVSeg, both',
  'fcclip': 'FC-CLIP: masks and words on one convolutional CLIP',
}
PROPOSALS = ('teacher', 'student_1', 'student_2', 'longer', 'ovseg_proposals')
FOUND = 0.5
# A proposal that is more likely an object than not.
LIKELY = 0.5
WORDS = 'miniature-116'
# More than there are pairs of a mask and a word.
_ALL = 10_000


@dataclasses.dataclass(frozen=True)
class Split:
  """Which things were annotated, and so what numbers are reported apart.

  Attributes:
    name: as `configs/miniature.py` has it.
    protocol: of the test scenes, and the name of the files with the table.
    groups: of things.
  """

  name: str
  protocol: str
  groups: tuple[str, ...]

  def group(self, kind: Kind) -> str:
    """What a thing's numbers are summed up with."""
    return kind.group(self.name)

  def scenes(self, data_dir: pathlib.Path) -> ProtocolSource:
    """The test scenes and the masks of their things."""
    run = PROTOCOLS[self.protocol].for_system('masqclip')
    return ProtocolSource(run, data_dir, tasks=('instance',))

  def results(self, scale: float) -> pathlib.Path:
    """The numbers that are recorded of runs of a scale."""
    ending = '' if scale == 1 else f'_{scale:g}'
    return ROOT / 'results' / f'{self.protocol}{ending}.json'

  @property
  def page(self) -> pathlib.Path:
    """Where the tables are shown."""
    return ROOT / f'{self.protocol}.md'

  @property
  def tests(self) -> dict[str, str]:
    """Protocols and what they are called."""
    plain = {self.protocol + test: title for test, title in TESTS.items()}
    return plain | {
      test + COAT: f"{title}, void giving way by OVRCOAT's rule"
      for test, title in plain.items()
    }

  @property
  def numbers(self) -> tuple[str, ...]:
    base, *others = self.groups
    return (
      *(f'PQ[{base}]', f'PQ[{base}_things]', 'PQst', *(f'PQ[{g}]' for g in others)),
      *(f'{metric}[{g}]' for metric in ('AP50', 'mIoU_gt') for g in self.groups),
    )

  @property
  def recalls(self) -> tuple[str, ...]:
    return (*self.groups, *(f'{group}, likely' for group in self.groups))

  @property
  def parts(self) -> tuple[str, ...]:
    columns = ('covered', 'shape', 'colour', 'pattern')
    return tuple(f'{column}, {group}' for column in columns for group in self.groups)


SPLITS = {
  'near': Split('near', 'miniature', ('base', 'novel')),
  'far': Split('far', 'miniature_far', ('base', 'near', 'far')),
}


def found(
  segmenter: Segmenter, source: ProtocolSource, split: Split, likely: float = LIKELY
) -> dict[str, float]:
  """Share of the things of each group that a proposal overlaps by IoU > 0.5, and by one
  whose score is above `likely`.

  Proposals that words name have no score of their own as objects, so of them no share
  of the likely ones is told: every mask comes with every word.
  """
  closed = segmenter.preset.vocabulary is not None
  hits = {key: [] for key in split.recalls}
  for example in source:
    if closed:
      proposals = segmenter(example.photo, task='instance').instances
    else:
      pairs = segmenter(example.photo, WORDS, task='instance', top_k=_ALL).instances
      proposals = {i.rle['counts']: i for i in pairs}.values()
    masks = [i.rle for i in proposals]
    scores = np.array([i.score for i in proposals])
    truth = example.truth.instance
    iou = coco_mask.iou(masks, truth.masks, truth.crowd.astype(np.uint8))
    for label, column in zip(truth.classes, np.asarray(iou).T, strict=True):
      key = split.group(Kind.of(int(label)))
      hits[key].append(column.max() > FOUND)
      if closed:
        hits[f'{key}, likely'].append((column * (scores > likely)).max() > FOUND)
  return shares(hits)


def read_parts(
  segmenter: Segmenter, source: ProtocolSource, split: Split
) -> dict[str, float]:
  """How many things a segment covers (IoU > 0.5), and which parts of names are right.

  All words compete. Parts are of the things covered: of one that is named as stuff,
  none is right.
  """
  right = {column: [] for column in split.parts}
  for example in source:
    prediction = segmenter(example.photo, WORDS, task='panoptic')
    classes = {segment.id: segment.class_index for segment in prediction.segments}
    ids = prediction.panoptic
    areas = np.bincount(ids.ravel(), minlength=2)
    truth = example.truth.instance
    for label, rle in zip(truth.classes, truth.masks, strict=True):
      kind, mask = Kind.of(int(label)), coco_mask.decode(rle).astype(bool)
      group = split.group(kind)
      shared = np.bincount(ids[mask], minlength=len(areas))
      # Where the id is 0, there is no segment.
      iou = (shared / (areas + mask.sum() - shared))[1:]
      covered = iou.max() > FOUND
      right[f'covered, {group}'].append(covered)
      if covered:
        named = classes[1 + int(np.argmax(iou))]
        for part in ('shape', 'colour', 'pattern'):
          same = named < THINGS and getattr(Kind.of(named), part) == getattr(kind, part)
          right[f'{part}, {group}'].append(same)
  return shares(right)


def shares(marks: Mapping[str, Sequence[bool]]) -> dict[str, float]:
  """Percent of true marks; columns without a mark are left out."""
  return {key: 100 * float(np.mean(values)) for key, values in marks.items() if values}


def kept(
  directory: pathlib.Path,
  name: str,
  places: Mapping[str, pathlib.Path],
  measure: Callable[[Segmenter], dict[str, float]],
) -> dict[str, dict[str, float]]:
  """A measurement of each place, from a file of the seed where it was made before."""
  path = directory / 'judged' / name
  rows = json.loads(path.read_text()) if path.exists() else {}
  for key, place in places.items():
    if key not in rows and any((place / f).exists() for f in ('bundle', 'config.json')):
      rows[key] = measure(maskclip_jax.load(place))
      path.write_text(json.dumps(rows, indent=1) + '\n')
  return rows


def by_step(
  run: pathlib.Path, source: ProtocolSource, split: Split, likely: float
) -> str:
  """What the proposals of each checkpoint of a run find, as a table."""
  recalls = {}
  for path in sorted((run / checkpoint.DIRECTORY).glob('step_*')):
    step = path.name.removeprefix('step_').lstrip('0')
    with tempfile.TemporaryDirectory() as folder:
      export_checkpoint(run, pathlib.Path(folder) / step, step)
      segmenter = maskclip_jax.load(pathlib.Path(folder) / step)
    row = found(segmenter, source, split, likely)
    recalls |= {f'{step}/{column}': value for column, value in row.items()}
  titles = {key.partition('/')[0]: key.partition('/')[0] for key in recalls}
  return '\n'.join(rows([recalls], titles, split.recalls))


def measured(
  directory: pathlib.Path, data_dir: pathlib.Path, split: Split
) -> Iterator[tuple[str, float]]:
  """What the proposals of each stage find, and what each system reads of names."""
  source = split.scenes(data_dir)
  stages = {stage: directory / stage for stage in PROPOSALS}
  systems = {f'{system}/parts': directory / system for system in SYSTEMS}
  for rows in (
    kept(directory, 'recall.json', stages, lambda s: found(s, source, split)),
    kept(directory, 'parts.json', systems, lambda s: read_parts(s, source, split)),
  ):
    for key, row in rows.items():
      for column, value in row.items():
        yield f'{key}/{column}', value


def numbers_of(
  directory: pathlib.Path, data_dir: pathlib.Path, split: Split
) -> dict[str, float]:
  """Every number of one seed by 'system/test/metric' or 'stage/recall'."""
  row = dict(measured(directory, data_dir, split))
  for system in SYSTEMS:
    for test in split.tests:
      path = directory / 'judged' / system / ledger.folder_name(test) / ledger.RESULTS
      if not path.exists():
        continue
      numbers = ledger.read(path)['numbers']
      row |= {f'{system}/{test}/{n}': numbers[f'{test}/{n}'] for n in split.numbers}
  return row


def seed_of(directory: pathlib.Path) -> int:
  """The seed that the trained stages of a directory have in common.

  Raises:
    ValueError: nothing was trained there, or with several seeds.
  """
  runs = directory.glob(f'*/{checkpoint.DIRECTORY}')
  configs = (json.loads((run.parent / 'config.json').read_text()) for run in runs)
  seeds = {config['seed'] for config in configs}
  if not seeds:
    raise ValueError(f'{directory} has no runs: give what launch/miniature.sh made')
  if len(seeds) > 1:
    raise ValueError(
      f'{directory} has runs of the seeds {sorted(seeds)}: one directory is one seed'
    )
  return seeds.pop()


def joined(
  recorded: Sequence[dict[str, float]], measured: Mapping[int, dict[str, float]]
) -> list[dict[str, float]]:
  """Numbers by seed: those that are measured now replace a system's former ones."""
  count = max(len(recorded), *(seed + 1 for seed in measured))
  seeds = [dict(row) for row in recorded] + [{} for _ in range(count - len(recorded))]
  for seed, row in measured.items():
    systems = {key.partition('/')[0] for key in row}
    kept = {k: v for k, v in seeds[seed].items() if k.partition('/')[0] not in systems}
    seeds[seed] = kept | row
  return seeds


def cell(seeds: Sequence[dict[str, float]], key: str) -> str:
  """Mean, and spread where there are several seeds; a dash where there is none."""
  values = [seed[key] for seed in seeds if key in seed]
  if not values:
    return '-'
  mean = f'{statistics.mean(values):.1f}'
  return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.1f}'


def rows(
  seeds: Sequence[dict[str, float]], titles: Mapping[str, str], columns: Sequence[str]
) -> list[str]:
  """A Markdown table: a row for each key prefix that some seed has.

  A row of some of the seeds tells how many; a row of one has no spread.
  """
  measured = sum(map(bool, seeds))
  lines = ['', '| | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
  for prefix, title in titles.items():
    keys = [f'{prefix}/{column}' for column in columns]
    if count := sum(keys[0] in seed for seed in seeds):
      title += f' ({count} seeds)' if 1 < count < measured else ''
      lines.append(f'| {title} | ' + ' | '.join(cell(seeds, k) for k in keys) + ' |')
  return lines


def tables(seeds: Sequence[dict[str, float]], split: Split) -> str:
  """Markdown."""
  sections = [
    (
      title,
      {f'{system}/{test}': name for system, name in SYSTEMS.items()},
      split.numbers,
    )
    for test, title in split.tests.items()
  ]
  sections += [
    (
      'things that the proposals find (IoU > 0.5, test scenes, percent)',
      {stage: stage for stage in PROPOSALS},
      split.recalls,
    ),
    (
      'things covered, and parts of their names that are right (percent)',
      {f'{system}/parts': name for system, name in SYSTEMS.items()},
      split.parts,
    ),
  ]
  lines = [f'Seeds: {sum(map(bool, seeds))}. What has no spread is of one of them.']
  for title, titles, columns in sections:
    if any(f'{prefix}/{columns[0]}' in seed for seed in seeds for prefix in titles):
      lines += ['', f'**{title}**', *rows(seeds, titles, columns)]
  return '\n'.join(lines)


def mark(scale: float) -> str:
  """What the place of a table on its page is called."""
  return 'benchmarks/miniature.py' + ('' if scale == 1 else f' --scale {scale:g}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('directories', nargs='+', type=pathlib.Path)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  parser.add_argument('--split', choices=SPLITS, default='near')
  parser.add_argument('--record', action='store_true')
  parser.add_argument('--scale', type=float, default=1.0)
  parser.add_argument('--by_step', action='store_true')
  parser.add_argument(
    '--likely', type=float, default=LIKELY, help='a score, with --by_step (%(default)s)'
  )
  arguments = parser.parse_args()
  split = SPLITS[arguments.split]
  if arguments.by_step:
    scenes = split.scenes(arguments.data_dir)
    for run in arguments.directories:
      print(f'**{run.name}**', by_step(run, scenes, split, arguments.likely), sep='\n')
    return
  measured_now = {}
  for directory in arguments.directories:
    row = numbers_of(directory, arguments.data_dir, split)
    # The systems of a seed may lie in several directories.
    measured_now.setdefault(seed_of(directory), {}).update(row)
  seeds = list(measured_now.values())
  if arguments.record:
    path = split.results(arguments.scale)
    recorded = json.loads(path.read_text())['seeds'] if path.exists() else []
    seeds = joined(recorded, measured_now)
    content = {'machine': machine(), 'seeds': seeds}
    path.write_text(json.dumps(content, indent=1) + '\n')
    pages.fill(split.page, mark(arguments.scale), tables(seeds, split))
  print(tables(seeds, split))


if __name__ == '__main__':
  main()
