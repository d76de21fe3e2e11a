"""How many labelled photos help: fine-tuning on few scenes of the miniature's world.

    python benchmarks/finetune.py --out OUT [--photos 10,50,200] [--what proposals]

A model of the package was trained on ordinary scenes. It is tuned on the first so
many scenes of *shifted* ones (darker, other styles), in which base words are annotated
and novel ones are not, by `configs/finetune.py`. The best step is chosen on scenes of a
second draw, and the numbers are of scenes of a third. All of it is written below OUT:
run directories, results, and `finetune.md` with the table. What is there already is not
made again.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Sequence

from absl import flags

from maskclip_jax import atomic
from maskclip_jax.__main__ import main as command
from maskclip_jax.data.build import build
from maskclip_jax.results import charts

MODEL = 'clip_baseline_miniature'
PROTOCOL = 'miniature_shifted'
# Draws of scenes that have nothing in common.
TRAIN_SEED, VAL_SEED, TEST_SEED = 1, 2, 0
NUMBERS = ('PQ', 'PQ[base]', 'PQ[base_things]', 'PQ[novel]', 'PQst')


def scenes(out: pathlib.Path, name: str, count: int, seed: int) -> pathlib.Path:
  """A folder with so many shifted scenes of a draw."""
  folder = out / 'data' / f'{name}_{count}'
  if not (folder / 'miniature').exists():
    build('miniature', None, folder, sizes={'shifted': count}, seed=seed)
  return folder


def judged(out: pathlib.Path, model: str, data: pathlib.Path) -> dict[str, float]:
  """The numbers of a model on the test scenes."""
  if not list(out.glob('*/results.json')):
    run(
      'eval',
      *('--model', model, '--evals', PROTOCOL, '--tasks', 'panoptic'),
      *('--data_dir', str(data), '--out', str(out)),
    )
  (path,) = out.glob('*/results.json')
  found = json.loads(path.read_text())
  numbers = {k.rpartition('/')[2]: v for k, v in found['numbers'].items()}
  return {name: numbers[name] for name in NUMBERS}


def run(*words: str) -> None:
  """A command of the package.

  Raises:
    SystemExit: it failed.
  """
  if status := command(list(words)):
    raise SystemExit(status)


def tuned(
  out: pathlib.Path,
  what: str,
  photos: int,
  data: pathlib.Path,
  val: pathlib.Path,
  steps: int,
) -> pathlib.Path:
  """The run that tunes the model on so many photos, in so many steps if not 0."""
  workdir = out / f'{what}_{photos}'
  if (workdir / 'bundle').exists():
    return workdir
  cut = [
    f'--config.total_steps={steps}',
    # Five evaluations, as most of a short run's time would be that of ten.
    *(f'--config.{part}.every={max(steps // 5, 1)}' for part in ('eval', 'checkpoint')),
  ]
  run(
    'train',
    '--config',
    f'finetune:data=miniature/base,from={MODEL},what={what},photos={photos}',
    *('--workdir', str(workdir)),
    f'--config.data.data_dir={data}',
    "--config.data.datasets=[{'view': 'miniature/base', 'split': 'shifted'}]",
    f'--config.eval.evals={PROTOCOL}',
    f'--config.eval.data_dir={val}',
    f'--config.checkpoint.best={PROTOCOL}/PQ[base]',
    '--config.log.pictures=0',
    *(cut if steps else ()),
  )
  return workdir


def table(rows: Sequence[tuple[str, int, dict[str, float]]]) -> str:
  """The numbers as Markdown."""
  head = f'| tuned | photos | {" | ".join(NUMBERS)} |'
  body = [
    f'| {what} | {photos} | {" | ".join(f"{numbers[n]:.1f}" for n in NUMBERS)} |'
    for what, photos, numbers in rows
  ]
  return '\n'.join([head, '|---' * (2 + len(NUMBERS)) + '|', *body]) + '\n'


def drawn(rows: Sequence[tuple[str, int, dict[str, float]]]) -> str:
  """PQ by the number of photos, as an SVG file."""
  counts = sorted({photos for _, photos, _ in rows if photos})
  series = []
  for what in dict.fromkeys(what for what, photos, _ in rows if photos):
    points = [(math.log(n), numbers['PQ']) for w, n, numbers in rows if w == what]
    series.append((what, *zip(*points, strict=True)))
  (before,) = (numbers['PQ'] for _, photos, numbers in rows if not photos)
  ends = math.log(counts[0]) - 0.2, math.log(counts[-1]) + 0.2
  series.append(('the model as it comes', ends, (before, before)))
  plot = charts.lines(
    series,
    name='PQ after fine-tuning, by the number of photos and what was tuned',
    x_label='photos',
    y_label='PQ',
    x_range=ends,
    y_range=(0, 60),
    x_ticks=[(math.log(count), f'{count:,}') for count in counts],
  )
  return charts.as_file(plot)


def main() -> None:
  """Everything, as far as it is not there yet."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--photos', default='10,50,200')
  parser.add_argument('--what', default='proposals,linear')
  parser.add_argument(
    '--steps', default='0', help='of all, or of each of --what: by the photos (0)'
  )
  parser.add_argument('--val', type=int, default=40, help='scenes that choose')
  parser.add_argument('--test', type=int, default=100, help='scenes that are judged')
  parser.add_argument('--draw', type=pathlib.Path, help='an SVG file of PQ by photos')
  given = parser.parse_args()
  flags.FLAGS.mark_as_parsed()
  counts = sorted(map(int, given.photos.split(',')))
  test = scenes(given.out, 'test', given.test, TEST_SEED)
  val = scenes(given.out, 'val', given.val, VAL_SEED)
  before = judged(given.out / 'before', MODEL, test)
  rows = [('nothing', 0, before)]
  tuning = given.what.split(',')
  lengths = [int(count) for count in given.steps.split(',')]
  lengths = lengths * len(tuning) if len(lengths) == 1 else lengths
  for what, steps in zip(tuning, lengths, strict=True):
    for photos in counts:
      data = scenes(given.out, 'train', photos, TRAIN_SEED)
      workdir = tuned(given.out, what, photos, data, val, steps)
      numbers = judged(workdir / 'judged', str(workdir), test)
      rows.append((what, photos, numbers))
      atomic.write(given.out / 'finetune.md', table(rows))
  if given.draw:
    atomic.write(given.draw, drawn(rows))
  print(table(rows))


if __name__ == '__main__':
  main()
