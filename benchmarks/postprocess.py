"""Time and memory from mask logits to results, pictures and files.

  python benchmarks/postprocess.py

For 100 queries at a quarter of the network's resolution: photos of one pixel to 4.4
megapixels, vocabularies of 5 to 847 words. Prints a table and writes
`results/postprocess.json`: seconds of the first call (compiled programs are dropped
before every case, so it compiles) and the best of `--repeats` later ones, the peak of
memory above what the process held before, and the machine with its load: on a busy one
the seconds say little.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine

from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess import PostprocessConfig, class_probabilities, postprocess
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.results.prediction import Prediction

RESULTS = pathlib.Path(__file__).parent / 'results' / 'postprocess.json'
QUERIES = 100
# (name, network size, photo size, words, text bank)
CASES = (
  ('1024 x 1024, 63 words', (1024, 1024), (1024, 1024), 63, 64),
  ('640 x 480, 10 words', (768, 1024), (480, 640), 10, 64),
  ('1 x 1, 5 words', (1024, 1024), (1, 1), 5, 64),
  ('20000 x 100, 63 words', (1024, 5), (20000, 100), 63, 64),
  ('2560 x 1707, 63 words', (683, 1024), (1707, 2560), 63, 64),
  ('2560 x 1707, 847 words', (683, 1024), (1707, 2560), 847, 1024),
)


def memory(line: str) -> int:
  """Bytes of a line of /proc/self/status."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(status.split(line + ':')[1].split()[0]) * 1024


def measure(stage: Callable[[], object], repeats: int) -> dict:
  """Seconds of the first and of the best later call, and peak memory in megabytes."""
  # 5 resets the peak (VmHWM) to what is held now.
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  held, seconds = memory('VmRSS'), []
  for _ in range(1 + repeats):
    start = time.perf_counter()
    stage()
    seconds.append(time.perf_counter() - start)
  return {
    'first_s': round(seconds[0], 3),
    'best_s': round(min(seconds[1:]), 3),
    'added_mb': round((memory('VmHWM') - held) / 1e6),
  }


def inputs(network: tuple[int, int], words: int, bank: int):
  """Blobs on a canvas of 256 x 256 and scores of which about half the queries pass."""
  rng = np.random.default_rng(0)
  real = tuple(-(-side // 32) * 8 for side in network)
  coarse = rng.standard_normal((QUERIES, 12, 12)).astype(np.float32) * 6 - 4
  blobs = np.asarray(resize(jnp.asarray(coarse), real, 'bicubic'))
  masks = np.zeros((QUERIES, 256, 256), np.float32)
  masks[:, : real[0], : real[1]] = blobs
  logits = rng.standard_normal((QUERIES, bank)).astype(np.float32)
  favourite = rng.integers(0, words, QUERIES)
  # A softmax over this many columns leaves the favourite about one half.
  logits[np.arange(QUERIES), favourite] += np.log(bank) + 2 * rng.random(QUERIES) - 1
  columns = np.arange(bank)
  scores = class_probabilities(logits, columns <= words, columns == words)
  return real, jnp.asarray(masks), scores, columns % 2 == 0


def run_case(case, repeats: int) -> list[dict]:
  """Every stage of one case."""
  name, network, photo_hw, words, bank = case
  mask_hw, masks, scores, thing = inputs(network, words, bank)
  padded = tuple(-(-side // 32) * 32 for side in network)
  geometry = Geometry(mask_hw, padded, network, photo_hw)
  config = PostprocessConfig()
  kept = int((np.asarray(scores.probabilities).max(-1) > 0.3).sum())
  names = [f'class {i}' for i in range(bank)]
  photo = np.full((*photo_hw, 3), 120, np.uint8)

  def task(*tasks, settings=config):
    return postprocess(masks, scores, thing, geometry, settings, tasks)

  everything = dataclasses.replace(config, object_threshold=0.0, overlap_threshold=0.0)
  exact = dataclasses.replace(config, semantic_order='scores_first')
  stages = {
    'semantic': lambda: task('semantic'),
    'semantic, scores first': lambda: task('semantic', settings=exact),
    f'panoptic, {kept} queries kept': lambda: task('panoptic'),
    'panoptic, 100 queries kept': lambda: task('panoptic', settings=everything),
    'instance': lambda: task('instance'),
  }
  found = task('panoptic', 'semantic', 'instance')

  def encode():
    return Prediction.from_results(found, names, thing, photo=photo)

  prediction = encode()
  stages |= {'run lengths': encode, 'picture': prediction.overlay}
  rows = []
  with tempfile.TemporaryDirectory() as directory:
    stages['files'] = lambda: prediction.save(directory, 'photo')
    jax.clear_caches()
    for stage, program in stages.items():
      rows.append({'case': name, 'stage': stage, **measure(program, repeats)})
      print(
        '{case:24} {stage:28} {first_s:7} s {best_s:7} s {added_mb:6} MB'.format(
          **rows[-1]
        )
      )
  return rows


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  arguments = parser.parse_args()
  # Before the work, which is a load itself.
  described = machine()
  rows = [row for case in CASES for row in run_case(case, arguments.repeats)]
  arguments.output.parent.mkdir(parents=True, exist_ok=True)
  content = {'machine': described, 'queries': QUERIES, 'rows': rows}
  arguments.output.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
