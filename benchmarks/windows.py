"""Time and memory of SegCLIP, which reads a photo in windows, by the photo's size.

    python benchmarks/windows.py               # of the published size, random weights
    python benchmarks/windows.py --model DIR   # a bundle of yours

Each size is segmented twice in one process: the first time compiles what that canvas
needs. CPU seconds are of all cores together and, unlike seconds by the clock, say
something on a busy machine. Memory is the most that the process ever had, weights and
compiler included. Prints a Markdown table.
"""

import argparse
import resource
import time

import numpy as np
import skimage.data
from machine import machine
from PIL import Image

import maskclip_jax
from maskclip_jax.segmenter import Segmenter

# Height and width. The last two share a canvas, so the last one compiles nothing.
SIZES = ((224, 299), (480, 640), (1024, 1365), (1024, 1200))
CANVAS_STEP = 512
WORDS = 'voc-20'


def windows_of(segmenter: Segmenter, size: tuple[int, int]) -> int:
  """How many windows a photo has."""
  config = segmenter.preset.config
  window, stride = config.clip.image_size, config.step
  counts = (max(-(-(side - window) // stride), 0) + 1 for side in size)
  return int(np.prod(list(counts)))


def segment(segmenter: Segmenter, photo: np.ndarray) -> tuple[float, float]:
  """Seconds by the clock, and of CPU."""
  begin, spent = time.perf_counter(), time.process_time()
  edges = {'short_edge': min(photo.shape[:2]), 'long_edge': max(photo.shape[:2])}
  segmenter(photo, WORDS, task='semantic', **edges)
  return time.perf_counter() - begin, time.process_time() - spent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model')
  arguments = parser.parse_args()
  if arguments.model:
    segmenter = maskclip_jax.load(arguments.model)
  else:
    segmenter = Segmenter.from_preset('segclip_vit_b16')
  segmenter.canvas_step = CANVAS_STEP
  photo = Image.fromarray(skimage.data.coffee())
  print(machine())
  print('| photo | windows | first, CPU s | again, s | again, CPU s | GB |')
  print('|---|---|---|---|---|---|')
  for height, width in SIZES:
    pixels = np.asarray(photo.resize((width, height)))
    first = segment(segmenter, pixels)[1]
    seconds, cpu = segment(segmenter, pixels)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
      f'| {height} x {width} | {windows_of(segmenter, pixels.shape[:2])} '
      f'| {first:.1f} | {seconds:.1f} | {cpu:.1f} | {memory:.2f} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
