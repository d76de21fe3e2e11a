"""What an evaluation within training costs, beside that of `eval` of the same model.

    python benchmarks/evaluation_in_loop.py [--photos 100] [--rounds 4]

A model of the package is tuned on eight scenes of the miniature's world and evaluated
at the start and after every step. What it has become is then evaluated as often from
its bundle, as `eval` does. Times are seconds of CPU of the whole process a photo,
which another process on the machine does not change much; the first evaluation of each,
which compiles, is told apart. The last numbers of the run and those of its bundle must
be the same. Writes `results/evaluation_in_loop.json` with the machine and its load.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from typing import ClassVar

from absl import flags
from machine import machine

import maskclip_jax
from maskclip_jax.data.build import build
from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import PROTOCOLS
from maskclip_jax.eval.runner import evaluate
from maskclip_jax.train import config_files, loop
from maskclip_jax.train.config import read
from maskclip_jax.train.evaluation import Evaluations

RESULTS = pathlib.Path(__file__).parent / 'results' / 'evaluation_in_loop.json'
MODEL, PROTOCOL, TASKS = 'clip_baseline_miniature', 'miniature', ('panoptic',)


class Timed(Evaluations):
  """The evaluations of a run, and the seconds of CPU that each took."""

  seconds: ClassVar[list[float]] = []

  def __call__(self, *args) -> bool:
    begun = time.process_time()
    done = super().__call__(*args)
    self.seconds.append(time.process_time() - begun)
    return done


def in_loop(data: pathlib.Path, out: pathlib.Path, rounds: int) -> dict[str, float]:
  """The numbers after the last of some steps; `Timed` has the seconds."""
  spec = f'finetune:data=miniature/base,from={MODEL},what=linear,photos=8,evals=none'
  changes = {
    'data.data_dir': data,
    'eval.evals': PROTOCOL,
    'eval.tasks': ','.join(TASKS),
    'eval.at_start': True,
    'eval.every': 1,
    'checkpoint.every': rounds,
    'total_steps': rounds,
    'log.pictures': 0,
  }
  given = [f'--config.{name}={value}' for name, value in changes.items()]
  loop.Evaluations = Timed
  loop.train(read(config_files.load(spec, given)), out)
  rows = [json.loads(line) for line in (out / 'metrics.jsonl').open()]
  (last,) = (r for r in rows if r['step'] == rounds and f'{PROTOCOL}/PQ' in r)
  return last


def by_itself(
  data: pathlib.Path, model: pathlib.Path, out: pathlib.Path, rounds: int
) -> tuple[list[float], dict[str, float]]:
  """Seconds of each evaluation of a bundle, and its numbers."""
  seconds = []
  begun = time.process_time()
  segmenter = maskclip_jax.load(model)
  run = PROTOCOLS[PROTOCOL].for_system(segmenter.preset.system)
  evaluator = Evaluator(segmenter, run, Options(tasks=TASKS))
  source = ProtocolSource(run, data, tasks=TASKS)
  for number in range(rounds + 1):
    found = evaluate(evaluator, source, out / str(number), data=source.fingerprint)
    seconds.append(time.process_time() - begun)
    begun = time.process_time()
  return seconds, dict(found.metrics.values)


def main() -> None:
  """Both, in turn."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--photos', type=int, default=100)
  parser.add_argument('--rounds', type=int, default=4)
  given = parser.parse_args()
  flags.FLAGS.mark_as_parsed()
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    data = place / 'data'
    build('miniature', None, data, sizes={'train': 8, 'test': given.photos})
    last = in_loop(data, place / 'run', given.rounds)
    alone, numbers = by_itself(data, place / 'run', place / 'eval', given.rounds)
  content = {'machine': machine(), 'photos': given.photos, 'tasks': list(TASKS)}
  for name, seconds in (('in the loop', Timed.seconds), ('eval', alone)):
    later = [round(1000 * one / given.photos, 1) for one in seconds[1:]]
    content[name] = {
      'first, CPU seconds': round(seconds[0], 1),
      'later, CPU ms a photo': later,
      'median': statistics.median(later),
    }
    print(f'{name:12} first {seconds[0]:.1f} s, later {later} ms a photo')
  content['same numbers'] = all(
    last[f'{PROTOCOL}/{name}'] == value
    for name, value in numbers.items()
    if value == value
  )
  print(f'same numbers: {content["same numbers"]}')
  RESULTS.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
