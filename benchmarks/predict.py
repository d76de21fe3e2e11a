"""Time and memory of segmenting one photo, from the command line and stage by stage.

  python benchmarks/predict.py                         full-size MasQCLIP
  python benchmarks/predict.py --model DIR --size 640  a bundle of yours
  python benchmarks/predict.py --model ovseg_swin_b_vit_l14 --size 640x960 --parts \
    --output benchmarks/results/predict_ovseg.json     its proposals, and eight crops

  python benchmarks/predict.py --model masqclip_r50_vit_l14_336 ovseg_swin_b_vit_l14 \
    --size 640x960 --output benchmarks/results/predict_beside.json    side by side

Without a bundle the weights are random, which costs the same time. Of several models
each is measured in a process of its own, and a table compares them.

Runs `predict` twice in processes of their own, with an empty cache and with the cache
that the first run left: seconds by the clock, peak memory, programs compiled. Then
times the stages of the model in this process, by the clock and by the processor. Writes
`results/predict.json` with the machine and its load: on a busy one the clock says
little.
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
import jax.numpy as jnp
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
from maskclip_jax.systems.crops import Crop

RESULTS = pathlib.Path(__file__).parent / 'results' / 'predict.json'
# Crops that go through OVSeg's CLIP at a time in this measurement.
CROPS = 8
# The whole call, among the stages.
WHOLE = 'photo to prediction'
WORDS = 'cup; spoon; saucer, plate; stuff:wooden table'


def random_bundle(name: str, directory: pathlib.Path) -> pathlib.Path:
  """A bundle of a named model with random weights."""
  preset = zoo.find_preset(name)
  flat = params.flatten(random_model(preset.system, preset.config))
  bundle.save(directory, preset.to_dict(), flat)
  return directory


def start(model, photo, size: str, cache: pathlib.Path, out: pathlib.Path) -> dict:
  """One run of the command line in a process of its own."""
  command = [sys.executable, '-m', 'maskclip_jax', 'predict', str(photo)]
  command += ['--model', str(model), '--vocabulary', WORDS, '--task', 'panoptic']
  command += [f'--{name}={side}' for name, side in edges(size).items()]
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


def stages(
  model: pathlib.Path, photo, size: str, dtype: str, repeats: int, parts: bool
) -> dict:
  """Median seconds of the parts of the model, compiled, and of the whole call."""
  segmenter = load(model, dtype=dtype)
  graphdef, state = nnx.split(segmenter.model)
  pixels = np.asarray(Image.open(photo))
  images = Images.from_arrays([pixels])
  bank = segmenter.text_bank(segmenter.vocabulary(WORDS))
  if segmenter.preset.system == 'ovseg':
    programs = ovseg_parts(graphdef, state, images, bank)
  else:
    proposals = jax.jit(lambda s, i: nnx.merge(graphdef, s).proposals(i))
    programs = {'proposals': lambda: proposals(state, images)}
  if not parts:
    whole = jax.jit(lambda s, i, t: nnx.merge(graphdef, s)(i, t))
    programs |= {
      'proposals and classification': lambda: whole(state, images, bank),
      WHOLE: lambda: segmenter(pixels, WORDS, **edges(size)),
    }
  rows = {}
  for name, program in programs.items():
    times, busy = [], []
    for _ in range(1 + repeats):
      begin, used = time.perf_counter(), time.process_time()
      jax.block_until_ready(program())
      times.append(time.perf_counter() - begin)
      busy.append(time.process_time() - used)
    rows[name] = {
      'first_s': round(times[0], 2),
      'median_s': round(statistics.median(times[1:]), 2),
      'median_processor_s': round(statistics.median(busy[1:]), 2),
    }
    print(f'{name:32} {rows[name]}')
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return rows | {'peak_gb': round(peak / 2**20, 2)}


def ovseg_parts(graphdef, state, images: Images, bank) -> dict:
  """OVSeg's proposals, and its CLIP on some crops."""
  side = nnx.merge(graphdef, state).config.clip.image_size
  crops = Crop(
    jnp.zeros((CROPS, side, side, 3)),
    jnp.ones((CROPS, side, side), bool),
  )

  @jax.jit
  def propose(state):
    found = nnx.merge(graphdef, state).propose(images, bank)
    return found.mask_logits, found.class_logits

  encode = jax.jit(lambda s, c: nnx.merge(graphdef, s).encode_crop(c))
  return {
    'proposals': lambda: propose(state),
    f'{CROPS} crops': lambda: encode(state, crops),
  }


def sides(size: str) -> tuple[int, int]:
  """Height and width of '640' or '640x960'."""
  height, _, width = size.partition('x')
  return int(height), int(width or height)


def edges(size: str) -> dict[str, int]:
  """How large `predict` makes a photo of this size: as it is."""
  return {'short_edge': min(sides(size)), 'long_edge': max(sides(size))}


def beside(arguments: argparse.Namespace) -> dict[str, dict]:
  """The measurements of several models, each made in a process of its own."""
  measured = {}
  with tempfile.TemporaryDirectory() as folder:
    part = pathlib.Path(folder, 'one.json')
    for model in arguments.model:
      command = [sys.executable, __file__, '--model', model, '--output', str(part)]
      for name in ('size', 'dtype', 'repeats'):
        command += [f'--{name}', str(getattr(arguments, name))]
      subprocess.run([*command, *['--parts'] * arguments.parts], check=True)
      measured[model] = json.loads(part.read_text())
  return measured


def table(measured: dict[str, dict]) -> str:
  """Seconds and memory of several models, a line each."""
  head = ('model', 'photo', 'start', 'again', 'a photo', 'processor', 'peak GB')
  rows = [head]
  for model, content in measured.items():
    starts = [run['seconds'] for run in content['command_line'].values()]
    peaks = [run['peak_gb'] for run in content['command_line'].values()]
    photo = content['stages'].get(WHOLE, {})
    rows.append(
      (
        model,
        content['photo'],
        *(starts or ['', '']),
        photo.get('median_s', ''),
        photo.get('median_processor_s', ''),
        max([*peaks, content['stages']['peak_gb']]),
      )
    )
  return '\n'.join(
    f'{row[0]:28}' + ''.join(f'{cell!s:>12}' for cell in row[1:]) for row in rows
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', nargs='+', default=['masqclip_r50_vit_l14_336'])
  parser.add_argument('--size', default='1024', help='of the photo: 1024, 640x960')
  parser.add_argument(
    '--parts', action='store_true', help='time the parts of the model alone'
  )
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  arguments = parser.parse_args()
  if len(arguments.model) > 1:
    content = beside(arguments)
    print(table(content))
  else:
    content = measure(arguments)
  arguments.output.parent.mkdir(parents=True, exist_ok=True)
  arguments.output.write_text(json.dumps(content, indent=1) + '\n')


def measure(arguments: argparse.Namespace) -> dict:
  """What the flags ask for, of one model."""
  (name,) = arguments.model
  described = machine()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    photo = folder / 'coffee.png'
    height, width = sides(arguments.size)
    Image.fromarray(skimage.data.coffee()).resize((width, height)).save(photo)
    model = pathlib.Path(name)
    if not model.is_dir():
      model = random_bundle(name, folder / 'model')
    runs = {}
    starts = () if arguments.parts else ('first start', 'second start')
    for which in starts:
      runs[which] = start(
        model, photo, arguments.size, folder / 'cache', folder / 'out'
      )
      print(f'{which:32} {runs[which]}')
    timed = stages(
      model,
      photo,
      arguments.size,
      arguments.dtype,
      arguments.repeats,
      arguments.parts,
    )
  return {
    'machine': described,
    'model': name,
    'photo': '{} x {}'.format(*sides(arguments.size)),
    'dtype': arguments.dtype,
    'command_line': runs,
    'stages': timed,
  }


if __name__ == '__main__':
  main()
