"""Size, load and run times of an exported artefact.

  python benchmarks/artefact.py                                 the shipped miniature
  python benchmarks/artefact.py --format onnx
  python benchmarks/artefact.py --model DIR --canvas 800x1344

Exports the model, and runs what was written on a photo in this process: seconds by the
clock and by the processor. On a busy machine the clock says little. Writes
`results/artefact.json`, or `artefact_onnx.json`, with the machine and its load.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import jax
from machine import machine
from PIL import Image

from maskclip_jax.deploy import run_artefact
from maskclip_jax.deploy.artefact import (
  ArtefactConfig,
  export_artefact,
)
from maskclip_jax.deploy.canvases import parse_canvas
from maskclip_jax.deploy.parity import made_up_photo
from maskclip_jax.segmenter import load

RESULTS = pathlib.Path(__file__).parent / 'results'
FILES = {'stablehlo': 'artefact.json', 'onnx': 'artefact_onnx.json'}


def timed(function) -> tuple[dict, object]:
  """Seconds by the clock and by the processor, and what the function returns."""
  begin, used = time.perf_counter(), time.process_time()
  value = jax.block_until_ready(function())
  clock, processor = time.perf_counter() - begin, time.process_time() - used
  return {'seconds': round(clock, 2), 'processor_s': round(processor, 2)}, value


def measure(place: pathlib.Path, repeats: int) -> dict:
  """Loading, the first run, which compiles, and the median of later ones."""
  manifest = run_artefact.read_manifest(place)
  height, width = manifest['programs']['photo'][0]['canvas']
  photo = Image.fromarray(made_up_photo(height, width))
  entry, inputs, _ = run_artefact.prepare(photo, manifest)
  _, _, words = run_artefact.read_words(place / 'words.npz')
  inputs |= words
  load_time, run = timed(lambda: run_artefact.load_program(entry, place))
  first, _ = timed(lambda: run(inputs))
  later = [timed(lambda: run(inputs))[0] for _ in range(repeats)]
  median = {
    name: round(statistics.median(one[name] for one in later), 3) for name in first
  }
  sizes = {file.name: file.stat().st_size for file in sorted(place.iterdir())}
  return {
    'canvas': entry['canvas'],
    'parity': manifest['programs']['photo'][0].get('parity'),
    'megabytes': {name: round(size / 1e6, 3) for name, size in sizes.items()},
    'load': load_time,
    'first_run': first,
    'later_runs': median,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='clip_baseline_miniature')
  parser.add_argument('--canvas', type=parse_canvas, default=(128, 128))
  parser.add_argument('--format', choices=FILES, default='stablehlo')
  parser.add_argument('--repeats', type=int, default=10)
  parser.add_argument('--output', type=pathlib.Path)
  arguments = parser.parse_args()
  content = {'machine': machine()}
  content |= {'model': arguments.model, 'format': arguments.format}
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder) / 'artefact'
    config = ArtefactConfig(canvases=(arguments.canvas,), format=arguments.format)
    segmenter = load(arguments.model)
    content['export'], _ = timed(lambda: export_artefact(segmenter, place, config))
    content |= measure(place, arguments.repeats)
  print(json.dumps(content, indent=1))
  output = arguments.output or RESULTS / FILES[arguments.format]
  output.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
