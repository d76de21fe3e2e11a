"""What an evaluation costs outside the network: post-processing, metrics, encoding.

  python benchmarks/evaluation.py

For photos and vocabularies as the benchmarks have them, with the masks of 100 queries:
seconds per photo and stage beside those of the full-size MasQCLIP network. Every round
times all of them in turn, so that a busy machine slows all alike; figures are medians
over rounds, shares the medians of each round's own share. Beside them, what any machine
must at least do: arithmetic and memory traffic (`floor`). Last, the growth of the
process over `--photos` photos of the 847-class protocol. Metrics run on the host
whatever the device; post-processing runs where the network does. Writes
`results/evaluation.json` with the machine and its load.
"""

import argparse
import dataclasses
import itertools
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

from maskclip_jax.eval.examples import EvalExample, Truth
from maskclip_jax.eval.judge import Judge, Predicted, detections
from maskclip_jax.eval.metrics.instance import TrueObjects
from maskclip_jax.eval.metrics.panoptic import Segments
from maskclip_jax.eval.protocols import PROTOCOLS, ProtocolRun
from maskclip_jax.postprocess import class_probabilities, postprocess
from maskclip_jax.postprocess.tiles import TILE, Geometry, plan
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train.flops import count_flops
from maskclip_jax.zoo import presets

RESULTS = pathlib.Path(__file__).parent / 'results' / 'evaluation.json'
PRESET = presets()['masqclip_r50_vit_l14_336']
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

  run: ProtocolRun
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
    'instance': TrueObjects(
      masks, np.minimum(labels, 64), np.zeros(SEGMENTS, bool), areas
    ),
  }
  return Truth(**{task: truth[task] for task in tasks})


def seconds(function: Callable[[], object]) -> float:
  """The time of a call."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def stages(case: Case) -> dict[str, Callable[[], object]]:
  """What happens outside the network, one call per photo; and parts of it alone."""
  tasks = case.judge.tasks
  calls = {'post-processing': lambda: case.results(tasks)}
  if len(tasks) > 1:
    for task in tasks:
      calls[f'of which {task} alone'] = lambda t=task: case.results((t,))
  results = case.results(tasks)
  picture = np.zeros((8, 8, 3), np.uint8)
  for task in tasks:
    judge, numbers = Judge(case.run, case.thing, (task,)), itertools.count()
    calls[f'metrics, {task}'] = lambda j=judge, n=numbers: j.add(
      EvalExample(str(next(n)), '', picture, case.truth), Predicted.of(results)
    )
  if results.instances is not None:
    calls['of which run lengths'] = lambda: detections(results.instances)
  return calls


def floor(case: Case) -> dict[str, float]:
  """Arithmetic and memory traffic of post-processing, whatever the machine.

  `enlarging` is done as two matrix products per tile; with two taps per axis and
  pixel, and nothing else, it would be `enlarging, by taps`. `class sums` are over all
  words; classes that cannot win are left out, so it may be less.
  """
  geometry, tile = case.geometry, TILE
  pixels = geometry.original[0] * geometry.original[1]
  window = [min(side, tile // 2 + 8) for side in geometry.mask]
  per_tile = 2 * tile * window[1] * (window[0] + tile) * QUERIES
  count = len(plan(geometry, geometry.mask, tile))
  tasks = case.judge.tasks
  written = {'panoptic': 4.0, 'semantic': 4.0, 'instance': QUERIES / 8}
  words = case.logits.shape[1] if 'semantic' in tasks else 0
  return {
    'tiles': count,
    'enlarging, GFLOP': count * per_tile / 1e9,
    'enlarging by taps, GFLOP': QUERIES * pixels * 8 / 1e9,
    'class sums, GFLOP': 2 * QUERIES * words * pixels / 1e9,
    'masks read, MB': 4 * QUERIES * geometry.mask[0] * geometry.mask[1] / 1e6,
    'results written, MB': sum(written[task] for task in tasks) * pixels / 1e6,
  }


def measure(case: Case, name: str, network, rounds: int) -> dict:
  """Seconds per stage of one protocol and of the network, and its share."""
  call, flops = network
  calls = {'network': call, **stages(case)}
  for one in calls.values():
    one()  # Compiles.
  times = {stage: [] for stage in calls}
  for _ in range(rounds):
    for stage, one in calls.items():
      times[stage].append(seconds(one))
  outside = [k for k in calls if k == 'post-processing' or k.startswith('metrics')]
  shares = [
    sum(times[stage][i] for stage in outside) / times['network'][i]
    for i in range(rounds)
  ]
  least = floor(case)
  arithmetic = least['enlarging, GFLOP'] + least['class sums, GFLOP']
  return {
    'protocol': name,
    'photo': list(case.geometry.original),
    'network size': list(case.geometry.image),
    'seconds': {k: round(statistics.median(v), 4) for k, v in times.items()},
    'outside, share of the network': round(statistics.median(shares), 4),
    'of every round': [round(share, 4) for share in shares],
    'floor': {k: round(v, 2) for k, v in least.items()},
    'network, GFLOP': round(flops / 1e9, 1),
    'arithmetic outside, share of the network': round(arithmetic * 1e9 / flops, 4),
  }


class Network:
  """The full-size MasQCLIP, with random weights."""

  def __init__(self):
    segmenter = Segmenter.from_preset('masqclip_r50_vit_l14_336')
    self._bank = segmenter.text_bank(segmenter.vocabulary('cat; dog'))
    forward, self._state = segmenter.as_function()
    self._forward, self._step = jax.jit(forward), segmenter.canvas_step

  def on(self, size: tuple[int, int]) -> tuple[Callable[[], object], float]:
    """A call on a photo of a size, and its floating-point operations."""
    canvas = tuple(-(-side // self._step) * self._step for side in size)
    images = Images.from_arrays([np.zeros((*size, 3), np.uint8)], canvas)
    traced = self._forward.trace(self._state, images, self._bank)
    program = traced.lower().compile()
    return (
      lambda: jax.block_until_ready(program(self._state, images, self._bank)),
      count_flops(traced.jaxpr),
    )


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
    case.judge.add(example, Predicted.of(results))
    if number in (photos // 4, photos):
      marks[number] = round(resident_mb(), 1)
  return {'photos': photos, 'resident_mb': marks}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--photos', type=int, default=500)
  arguments = parser.parse_args()
  described = machine()
  memory = growth(arguments.photos)
  print(f'847 classes, resident MB after photos: {memory["resident_mb"]}')
  rows, network = [], Network()
  for name, photo, size in CASES:
    case = Case.make(name, photo, size)
    row = measure(case, name, network.on(size), arguments.rounds)
    rows.append(row)
    for stage, value in row['seconds'].items():
      print(f'{name:32} {stage:28} {1000 * value:8.1f} ms')
    print(f'{name:32} outside {row["outside, share of the network"]:.1%}', flush=True)
  content = {'machine': described, 'rows': rows, 'memory': memory}
  RESULTS.parent.mkdir(exist_ok=True)
  RESULTS.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
