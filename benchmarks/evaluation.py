"""What an evaluation costs outside the network: post-processing, metrics, encoding.

  python benchmarks/evaluation.py

For photos and vocabularies as the benchmarks have them, with the masks of 100 queries:
seconds per photo and stage (the median of `--repeats`), the same for the full-size
MasQCLIP network and what share of it the rest is, and the growth of the process over
`--photos` photos of the 847-class protocol. Metrics run on the host whatever the
device; post-processing runs where the network does. Writes `results/evaluation.json`
with the machine and its load.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import cv2
import jax
import numpy as np
from machine import machine
from pycocotools import mask as coco_mask

from maskclip_jax.api import Segmenter
from maskclip_jax.eval.examples import EvalExample, Truth
from maskclip_jax.eval.instance import Objects
from maskclip_jax.eval.judge import Found, Judge, detections
from maskclip_jax.eval.panoptic import Segments
from maskclip_jax.eval.protocols import PROTOCOLS, Run
from maskclip_jax.models.base import Images
from maskclip_jax.ops.masks import Geometry
from maskclip_jax.ops.postprocess import class_probabilities, postprocess
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.zoo import PRESETS

RESULTS = pathlib.Path(__file__).parent / 'results' / 'evaluation.json'
PRESET = PRESETS['masqclip_r50_vit_l14_336']
QUERIES, SEGMENTS = 100, 20
# Protocol, photo, network's size (padded to 32).
CASES = (
  ('ade150', (512, 683), (640, 854)),
  ('ade847', (512, 683), (512, 683)),
  ('coco_panoptic', (480, 640), (800, 1066)),
  ('coco_instance48_17_generalised', (480, 640), (800, 1066)),
)
# Smaller photos: what could grow are counts, caches and programs.
GROWTH = ('ade847', (256, 341), (256, 341))


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """One protocol with made-up outputs and ground truth."""

  run: Run
  judge: Judge
  geometry: Geometry
  masks: jax.Array
  logits: jax.Array
  thing: np.ndarray
  truth: Truth

  @classmethod
  def make(cls, name: str, photo: tuple[int, int], network: tuple[int, int]) -> 'Case':
    rng = np.random.default_rng(0)
    run = PROTOCOLS[name].for_system('masqclip')
    words: Vocabulary = run.vocabulary()
    padded = tuple(-(-side // 32) * 32 for side in network)
    geometry = Geometry(tuple(s // 4 for s in padded), padded, network, photo)
    coarse = rng.normal(-1, 4, (QUERIES, 8, 10)).astype(np.float32)
    size = geometry.mask[::-1]
    masks = np.stack(
      [cv2.resize(m, size, interpolation=cv2.INTER_CUBIC) for m in coarse]
    )
    logits = rng.normal(0, 6, (QUERIES, len(words))).astype(np.float32)
    truth = _truth(rng, photo, len(words), tuple(run.views))
    return cls(
      run,
      Judge(run, words.things),
      geometry,
      jax.device_put(masks),
      jax.device_put(logits),
      words.things,
      truth,
    )

  def results(self, tasks):
    config = self.run.postprocessing(PRESET)
    scores = class_probabilities(self.logits)
    return postprocess(self.masks, scores, self.thing, self.geometry, config, tasks)


def _truth(rng, size, classes: int, tasks) -> Truth:
  """Blobs of some classes, as every task sees them."""
  coarse = rng.normal(0, 1, (SEGMENTS, 6, 8)).astype(np.float32)
  maps = np.stack([cv2.resize(m, size[::-1]) for m in coarse])
  rows = maps.argmax(0).astype(np.int32)
  labels = rng.integers(0, classes, SEGMENTS)
  masks = [
    coco_mask.encode(np.asfortranarray(rows == row, np.uint8))
    for row in range(SEGMENTS)
  ]
  areas = np.bincount(rows.ravel(), minlength=SEGMENTS).astype(float)
  truth = {
    'semantic': labels[rows],
    'panoptic': Segments(rows, labels),
    'instance': Objects(masks, np.minimum(labels, 64), np.zeros(SEGMENTS, bool), areas),
  }
  return Truth(**{task: truth[task] for task in tasks})


def seconds(function: Callable[[], object], repeats: int) -> float:
  """The median time of a call, after one that compiles."""
  function()
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def measure(name: str, photo, network, repeats: int) -> dict:
  """Seconds per stage of one protocol."""
  case = Case.make(name, photo, network)
  row = {'protocol': name, 'photo': list(photo), 'network': list(network)}
  for task in case.judge.tasks:
    row[f'post-processing, {task}'] = seconds(
      lambda t=task: case.results((t,)), repeats
    )
  results = case.results(case.judge.tasks)
  picture = np.zeros((*photo, 3), np.uint8)
  for task in case.judge.tasks:
    judge = Judge(case.run, case.thing, (task,))
    numbers = iter(range(10**9))
    row[f'metrics, {task}'] = seconds(
      lambda j=judge, n=numbers: j.add(
        EvalExample(str(next(n)), '', picture, case.truth), Found.of(results)
      ),
      repeats,
    )
  if results.instances is not None:
    row['of which run lengths'] = seconds(
      lambda: detections(results.instances), repeats
    )
  return row


def network_seconds(cases, repeats: int) -> list[float]:
  """Seconds of the full-size MasQCLIP on each case's canvas; random weights."""
  segmenter = Segmenter.from_preset('masqclip_r50_vit_l14_336')
  bank = segmenter.text_bank(segmenter.vocabulary('cat; dog'))
  forward, state = segmenter.as_function()
  forward = jax.jit(forward)
  times = []
  for _, _, network in cases:
    step = segmenter.canvas_step
    canvas = tuple(-(-side // step) * step for side in network)
    images = Images.from_arrays([np.zeros((*network, 3), np.uint8)], canvas)
    times.append(
      seconds(lambda i=images: jax.block_until_ready(forward(state, i, bank)), repeats)
    )
  return times


def resident_mb() -> float:
  """Memory of this process."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def growth(photos: int) -> dict:
  """Memory over many photos of 847 classes, at a quarter and at the end."""
  case = Case.make(*GROWTH)
  picture = np.zeros((8, 8, 3), np.uint8)
  marks = {}
  for number in range(1, photos + 1):
    results = case.results(case.judge.tasks)
    example = EvalExample(str(number), '', picture, case.truth)
    case.judge.add(example, Found.of(results))
    if number in (photos // 4, photos):
      marks[number] = round(resident_mb(), 1)
  return {'photos': photos, 'resident_mb': marks}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--photos', type=int, default=500)
  arguments = parser.parse_args()
  described = machine()
  rows = []
  for case in CASES:
    row = measure(*case, arguments.repeats)
    rows.append(row)
    for stage, value in row.items():
      if isinstance(value, float):
        print(f'{row["protocol"]:32} {stage:28} {1000 * value:8.1f} ms')
  memory = growth(arguments.photos)
  print(f'847 classes, resident MB after photos: {memory["resident_mb"]}')
  for row, network in zip(rows, network_seconds(CASES, 3), strict=True):
    outside = sum(v for k, v in row.items() if k.startswith(('post', 'metrics')))
    row |= {'network': network, 'outside, share of the network': outside / network}
    print(
      f'{row["protocol"]:32} network {network:.2f} s, outside {outside / network:.1%}'
    )
  content = {
    'machine': described,
    'rows': rows,
    'memory': memory,
  }
  RESULTS.parent.mkdir(exist_ok=True)
  RESULTS.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
