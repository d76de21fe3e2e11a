"""Time and memory of segmenting one photo, from the command line and stage by stage.

  python benchmarks/predict.py                         full-size MasQCLIP
  python benchmarks/predict.py --model DIR --size 640  a bundle of yours

Without a bundle the weights are random, which costs the same time.

Runs `predict` twice in processes of their own, with an empty cache and with the cache
that the first run left: seconds by the clock, peak memory, programs compiled. Then
times the stages of the model in this process. Writes `results/predict.json` with the
machine and its load: on a busy one the seconds say little.
"""

import argparse
import json
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import skimage.data
from flax import nnx
from machine import machine
from PIL import Image

from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.segmenter import load
from maskclip_jax.systems.contract import Images

RESULTS = pathlib.Path(__file__).parent / 'results' / 'predict.json'
WORDS = 'cup; spoon; saucer, plate; stuff:wooden table'


def random_bundle(name: str, directory: pathlib.Path) -> pathlib.Path:
  """A bundle of a named model with random weights."""
  preset = zoo.find_preset(name)
  flat = params.flatten(random_model(preset.system, preset.config))
  bundle.save(directory, preset.to_dict(), flat)
  return directory


def start(model, photo, size: int, cache: pathlib.Path, out: pathlib.Path) -> dict:
  """One run of the command line in a process of its own."""
  command = [sys.executable, '-m', 'maskclip_jax', 'predict', str(photo)]
  command += ['--model', str(model), '--vocabulary', WORDS, '--task', 'panoptic']
  command += ['--short_edge', str(size), '--long_edge', str(size)]
  command += ['--cache_dir', str(cache), '--out', str(out)]
  begin = time.perf_counter()
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  seconds = time.perf_counter() - begin
  compiled = re.search(r'([\d.]+) s compiling (\d+) programs', done.stdout)
  # The largest of the children so far: the first run's, unless a later one needs more.
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  return {
    'seconds': round(seconds, 1),
    'compiling_s': float(compiled[1]),
    'programs_compiled': int(compiled[2]),
    'peak_gb': round(peak / 2**20, 2),
  }


def stages(model: pathlib.Path, photo, size: int, dtype: str, repeats: int) -> dict:
  """Median seconds of the parts of the model, compiled, and of the whole call."""
  segmenter = load(model, dtype=dtype)
  graphdef, state = nnx.split(segmenter.model)
  pixels = np.asarray(Image.open(photo))
  images = Images.from_arrays([pixels])
  bank = segmenter.text_bank(segmenter.vocabulary(WORDS))
  proposals = jax.jit(lambda s, i: nnx.merge(graphdef, s).proposals(i))
  whole = jax.jit(lambda s, i, t: nnx.merge(graphdef, s)(i, t))
  edges = {'short_edge': size, 'long_edge': size}
  programs = {
    'proposals': lambda: proposals(state, images),
    'proposals and classification': lambda: whole(state, images, bank),
    'photo to prediction': lambda: segmenter(pixels, WORDS, **edges),
  }
  rows = {}
  for name, program in programs.items():
    times = []
    for _ in range(1 + repeats):
      begin = time.perf_counter()
      jax.block_until_ready(program())
      times.append(time.perf_counter() - begin)
    rows[name] = {
      'first_s': round(times[0], 2),
      'median_s': round(statistics.median(times[1:]), 2),
    }
    print(f'{name:32} first {rows[name]["first_s"]} s, then {rows[name]["median_s"]} s')
  return rows


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='masqclip_r50_vit_l14_336')
  parser.add_argument('--size', type=int, default=1024, help='side of the photo')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  arguments = parser.parse_args()
  described = machine()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    photo = folder / 'coffee.png'
    side = (arguments.size, arguments.size)
    Image.fromarray(skimage.data.coffee()).resize(side).save(photo)
    model = pathlib.Path(arguments.model)
    if not model.is_dir():
      model = random_bundle(arguments.model, folder / 'model')
    runs = {}
    for name in ('first start', 'second start'):
      runs[name] = start(model, photo, arguments.size, folder / 'cache', folder / 'out')
      print(f'{name:32} {runs[name]}')
    timed = stages(model, photo, arguments.size, arguments.dtype, arguments.repeats)
  content = {
    'machine': described,
    'model': arguments.model,
    'photo': f'{arguments.size} x {arguments.size}',
    'dtype': arguments.dtype,
    'command_line': runs,
    'stages': timed,
  }
  arguments.output.parent.mkdir(parents=True, exist_ok=True)
  arguments.output.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
