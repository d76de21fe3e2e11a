"""Speed and memory of the 1024-pixel panoptic input pipeline, on one core.

  python -m benchmarks.data_pipeline

Measures what MaskCLIP's and MasQCLIP's training reads: JPEG of 640 x 480 with 28
segments in an RGB-coded PNG, to a 1024 x 1024 canvas with its segment-id map; by large-
scale jitter (the papers' augmentation) and by flip and squash (the released code's).
Writes `results/data_pipeline.json`: images per second of processor time, where the time
goes, and the memory of the process in the course of 2,000 examples. The last stage is
not part of the pipeline: it is what one mask per segment would cost on top.
"""

import argparse
import dataclasses
import io
import json
import os
import pathlib
import platform
import time

import cv2
import numpy as np
import PIL
from PIL import Image

from maskclip_jax.data import examples
from maskclip_jax.data.examples import Targets
from maskclip_jax.data.pipeline import DataConfig, DatasetConfig, train_stream
from maskclip_jax.data.records import Record, read_label_map, table
from maskclip_jax.data.transforms import mappers
from maskclip_jax.data.transforms.geometric import apply
from maskclip_jax.data.views import find_view

HEIGHT, WIDTH, SEGMENTS = 480, 640, 28
# Batches before measuring: large draws grow the heap to its size once.
WARM_UP = 25
RESULTS = pathlib.Path(__file__).parent / 'results' / 'data_pipeline.json'
VIEW = 'coco/panoptic'
MAPPERS = {
  'large_scale_jitter': mappers.LargeScaleJitter(),
  'flip_and_squash': mappers.FlipAndSquash(),
}
# Category ids that COCO's panoptic annotations use.
CATEGORIES = (1, 2, 3, 17, 62, 92, 100, 184, 187, 200)


def make_record(seed: int) -> Record:
  """A photo-like JPEG (about 110 kB) with irregular regions."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (48, 64, 3), np.uint8)
  image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
  grain = rng.normal(0, 6, image.shape)
  image = np.clip(image + grain, 0, 255).astype(np.uint8)
  jpeg = io.BytesIO()
  Image.fromarray(image).save(jpeg, 'JPEG', quality=90)

  # Nearest of random centres, with wavy borders.
  y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
  y, x = y + 8 * np.sin(x / 9), x + 8 * np.sin(y / 11)
  centres = rng.uniform(0, (HEIGHT, WIDTH), (SEGMENTS, 2))
  distance = [np.hypot(y - a, x - b) for a, b in centres]
  ids = np.sort(rng.choice(2**24 - 1, SEGMENTS, replace=False)) + 1
  values = ids[np.argmin(distance, axis=0)]
  bgr = np.stack([values // 65536, values // 256 % 256, values % 256], axis=-1)
  rows = [
    {
      'id': int(value),
      'class': 0,
      'category_id': int(rng.choice(CATEGORIES)),
      'crowd': False,
      'area': float((values == value).sum()),
      'bbox': [0, 0, 1, 1],
    }
    for value in ids
  ]
  return {
    'image': jpeg.getvalue(),
    'image_id': f'{seed:012d}',
    'file_name': f'{seed:012d}.jpg',
    'height': HEIGHT,
    'width': WIDTH,
    'segments': cv2.imencode('.png', bgr.astype(np.uint8))[1].tobytes(),
    'segments_info': table(rows),
    'semantic': b'',
    'instances': table([], masks=True),
    'captions': [],
    'subsets': [],
  }


def resident_megabytes() -> float:
  """Memory of this process, as Linux counts it."""
  status = pathlib.Path('/proc/self/status').read_text()
  line = next(line for line in status.splitlines() if line.startswith('VmRSS'))
  return int(line.split()[1]) / 1024


def processor_name() -> str:
  """The processor's name, as Linux says."""
  lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  names = [line.partition(': ')[2] for line in lines if line.startswith('model name')]
  return names[0] if names else platform.machine()


def stream_speed(records: list, mapper: mappers.Mapper, count: int) -> dict:
  """Reads `count` examples through the real stream, in this thread alone."""
  config = DataConfig((DatasetConfig(VIEW),), batch_size=8, threads=0)
  steps = count // config.batch_size
  with train_stream(config, sources=[records], mapper=mapper) as stream:
    for _ in range(WARM_UP):
      next(stream)
    memory = [resident_megabytes()]
    processor = time.process_time()
    for step in range(steps):
      next(stream)
      if (step + 1) % (steps // 4) == 0:
        memory.append(resident_megabytes())
    processor = time.process_time() - processor
  images = steps * config.batch_size
  return {
    'images': images,
    'images_per_second_per_core': round(images / processor, 1),
    'resident_mb_by_quarter': [round(value, 1) for value in memory],
  }


@dataclasses.dataclass
class Clock:
  """Processor time by stage, in milliseconds per example."""

  stages: dict = dataclasses.field(default_factory=dict)

  def time(self, stage: str, function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    spent = time.process_time() - start
    self.stages[stage] = self.stages.get(stage, 0.0) + spent
    return result

  def means(self, count: int) -> dict:
    return {k: round(v / count * 1e3, 3) for k, v in self.stages.items()}


def stage_times(records: list, mapper: mappers.Mapper, count: int) -> dict:
  """The same work stage by stage."""
  clock, rng = Clock(), np.random.default_rng(0)
  view, targets = find_view(VIEW), Targets()
  for number in range(count):
    record = records[number % len(records)]
    image = clock.time('decode_jpeg', _decode_photo, record)
    values = clock.time('decode_png', read_label_map, record['segments'])
    ids = record['segments_info']['id']
    segments = clock.time('ids_to_rows', examples.row_map, values, ids)
    example = dataclasses.replace(
      examples.decode(record, view, crowd=False), image=image, segments=segments
    )
    operations = mapper.draw(rng, example)
    photo = dataclasses.replace(example, segments=None)
    photo = clock.time('resize_photo', apply, photo, operations)
    for operation in operations:
      segments = clock.time(
        'resize_segments', operation.labels, segments, examples.VOID
      )
    example = dataclasses.replace(photo, segments=segments)
    arrays = clock.time('pack_targets', targets.arrays, example)
    pair = {'image': example.image, 'segments': arrays['segments']}
    clock.time('stack_batch', _stack, [pair] * 4)
    clock.time('avoided_mask_per_segment', _masks, segments, len(ids))
  # Stacked four at a time, so that the copy is large; counted once.
  clock.stages['stack_batch'] /= 4
  return clock.means(count)


def _decode_photo(record: Record) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(record['image'])).convert('RGB'))


def _stack(rows: list[dict]) -> dict:
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _masks(segments: np.ndarray, count: int) -> np.ndarray:
  return np.stack([segments == row for row in range(count)])


def main() -> None:
  """Runs both augmentations and writes the results."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', type=int, default=2000, help='per augmentation')
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  arguments = parser.parse_args()
  # One core is what is measured.
  cv2.setNumThreads(1)
  records = [make_record(seed) for seed in range(32)]
  results = {
    'what': f'JPEG {WIDTH} x {HEIGHT}, {SEGMENTS} segments, to 1024 x 1024',
    'jpeg_kb': round(np.mean([len(r['image']) for r in records]) / 1e3),
    'png_kb': round(np.mean([len(r['segments']) for r in records]) / 1e3),
    'machine': {
      'processor': processor_name(),
      'cores': os.cpu_count(),
      'python': platform.python_version(),
      'numpy': np.__version__,
      'pillow': PIL.__version__,
      'opencv': cv2.__version__,
    },
  }
  for name, mapper in MAPPERS.items():
    results[name] = {
      **stream_speed(records, mapper, arguments.images),
      'milliseconds_by_stage': stage_times(records, mapper, 200),
    }
    print(name, json.dumps(results[name], indent=2))
  arguments.output.parent.mkdir(parents=True, exist_ok=True)
  arguments.output.write_text(json.dumps(results, indent=2) + '\n')
  print(f'wrote {arguments.output.name}')


if __name__ == '__main__':
  main()
