"""How long a training step of published size takes, and what it needs.

    python benchmarks/train_step.py                              # any machine, batch 1
    python benchmarks/train_step.py --batch 1,2,4,8,16 --dtype bfloat16         # a GPU

Photos of 1024 x 1024, ResNet-50, CLIP ViT-L/14@336, random weights, generated pictures
that are on the device already (`data_pipeline.py` measures how fast they get there).
Every stage and batch size runs in a process of its own; one that does not fit is
recorded as such. Adds to benchmarks/results/train_step.json, by device and type.

FLOPs are those of matrix products and convolutions, recomputation included. `--peak`
gives the device's TFLOP/s for the share of it that is used; those of some GPUs are
known.
"""

import argparse
import concurrent.futures
import concurrent.futures.process
import json
import multiprocessing
import pathlib
import statistics
import sys
import time
from typing import Any

# jax is imported by the processes that measure: here it would hold the GPU's memory.
ROOT = pathlib.Path(__file__).parent
RESULTS = ROOT / 'results' / 'train_step.json'
STAGES = ('teacher', 'masq')
# Dense bfloat16 TFLOP/s by the vendors' data sheets.
PEAKS = {
  'H200': 989.0,
  'H100 PCIe': 756.0,
  'H100': 989.0,
  'A100': 312.0,
  'L40S': 362.0,
  'L4': 121.0,
  'RTX 4090': 165.0,
}


def peak_of(device: str, given: float | None) -> float | None:
  """TFLOP/s of a device, None where unknown."""
  if given is not None:
    return given
  return next((peak for name, peak in PEAKS.items() if name in device), None)


def program_of(stage: str, batch: int, dtype: str):
  """The program of a stage, its state, a batch and a key."""
  import jax

  from maskclip_jax.train import config_files
  from maskclip_jax.train.config import read
  from maskclip_jax.train.mesh import make_mesh
  from maskclip_jax.train.starting import starting_values
  from maskclip_jax.train.step import make_program

  values = config_files.load(f'masqclip:stage={stage}')
  data = {'generated': 8, 'canvas': 1024, 'batch_size': batch}
  # The recipe's means are of two photos; a batch need not hold two.
  values.get('settings', {}).get('criterion', {}).pop('images_per_mean', None)
  config = read({**values, 'data': data, 'start': {}, 'dtype': dtype})
  program = make_program(config, make_mesh(config.mesh, jax.devices()[:1]))
  state = program.start(starting_values(program.task, (), 0))
  with program.stream(0) as stream:
    photos = program.batch(next(stream))
  return program, state, photos, jax.random.key(config.seed)


def measure(stage: str, batch: int, dtype: str, steps: int) -> dict[str, Any]:
  """Seconds and memory of a stage's step, in this process."""
  import jax

  from maskclip_jax.train.flops import count_flops
  from maskclip_jax.train.records.log import memory_gb

  program, state, photos, key = program_of(stage, batch, dtype)
  begun = time.perf_counter()
  traced = program.step.trace(state, photos, key)
  compiled = traced.lower().compile()
  compiling = time.perf_counter() - begun
  seconds = []
  for _ in range(steps + 1):
    begun = time.perf_counter()
    state, terms = compiled(state, photos, key)
    loss = float(terms['loss'])
    seconds.append(time.perf_counter() - begun)
  memory = compiled.memory_analysis()
  return {
    'device': jax.devices()[0].device_kind,
    'compiling_seconds': round(compiling, 1),
    # The first also loads the program and fills caches.
    'seconds': round(statistics.median(seconds[1:]), 3),
    'state_gb': round(memory.argument_size_in_bytes / 1e9, 2),
    'temporary_gb': round(memory.temp_size_in_bytes / 1e9, 2),
    'peak_gb': round(memory_gb(), 2),
    'tflop': round(count_flops(traced.jaxpr) / 1e12, 3),
    'loss': loss,
  }


def in_own_process(*arguments) -> dict[str, Any] | None:
  """`measure`; None where memory does not suffice."""
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    try:
      return pool.submit(measure, *arguments).result()
    except concurrent.futures.process.BrokenProcessPool:
      return None
    except RuntimeError as error:
      if 'RESOURCE_EXHAUSTED' in str(error):
        return None
      raise


def speed(row: dict[str, Any], batch: int, peak: float | None) -> dict[str, Any]:
  """A measured row with what follows from it."""
  rate = row['tflop'] / row['seconds']
  share = {} if peak is None else {'share_of_peak': round(rate / peak, 3)}
  images = round(batch / row['seconds'], 3)
  return {
    **row,
    'images_per_second': images,
    'tflop_per_second': round(rate, 3),
  } | share


def machine_in_own_process() -> dict[str, Any]:
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return pool.submit(_machine).result()


def _machine() -> dict[str, Any]:
  from machine import machine

  return machine()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--stages', default=','.join(STAGES))
  parser.add_argument('--batch', default='1', help='one or several, by commas')
  parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
  parser.add_argument('--steps', type=int, default=3)
  parser.add_argument('--peak', type=float, help="the device's TFLOP/s")
  options = parser.parse_args()
  machine = machine_in_own_process()
  rows = {}
  for stage in options.stages.split(','):
    for batch in map(int, options.batch.split(',')):
      row = in_own_process(stage, batch, options.dtype, options.steps)
      name = f'{stage}, batch {batch}'
      if row is None:
        rows[name] = 'does not fit'
        print(f'{name}: does not fit', flush=True)
        break
      rows[name] = speed(row, batch, peak_of(machine['device'], options.peak))
      print(f'{name}: {json.dumps(rows[name])}', flush=True)
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  command = ' '.join(['python benchmarks/train_step.py', *sys.argv[1:]])
  record = {'command': command, 'machine': machine, 'steps': rows}
  results[f'{machine["device"]}, {options.dtype}'] = record
  RESULTS.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main()
