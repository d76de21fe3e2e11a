"""Seconds of Mask2Former beside transformers' own, on the CPU.

  pip install '.[formats]'
  python benchmarks/beside_transformers.py
  python benchmarks/beside_transformers.py --sizes 640 --cores 2 --repeats 5

Both libraries have the same weights: those of a network of published size, drawn at
random by transformers and converted by ours. A square photo already resized goes
to mask and class logits, in float32, one photo at a time. The two take turns, so that
what else the machine does meets both; ours compiles before. Prints a table and writes
`results/beside_transformers.json`: the median and the least of the repeats, the largest
difference of the outputs, and the machine with its load: on a busy one the seconds say
little.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

RESULTS = pathlib.Path(__file__).parent / 'results' / 'beside_transformers.json'
NETWORKS = ('Swin-T', 'R50')
_STAGES = ['stage1', 'stage2', 'stage3', 'stage4']


def build(name: str):
  """A network of transformers with random weights."""
  import transformers

  if name == 'R50':
    backbone = transformers.ResNetConfig(out_features=_STAGES)
  else:
    backbone = transformers.SwinConfig(
      embed_dim=96,
      depths=[2, 2, 6, 2],
      num_heads=[3, 6, 12, 24],
      window_size=7,
      out_features=_STAGES,
    )
  config = transformers.Mask2FormerConfig(
    backbone_config=backbone, id2label={i: f'class {i}' for i in range(133)}
  )
  return transformers.Mask2FormerForUniversalSegmentation(config).eval()


def convert(model, folder: pathlib.Path):
  """The same network of ours."""
  from maskclip_jax import load_model
  from maskclip_jax.checkpoints.convert import convert_checkpoint

  model.save_pretrained(folder / 'saved')
  convert_checkpoint(folder / 'saved', folder / 'bundle')
  return load_model(folder / 'bundle')[0]


def runners(model, network, size: int) -> tuple[dict[str, Callable], float]:
  """What runs each library on one photo, and how far apart their outputs are."""
  import jax
  import numpy as np
  import torch
  from flax import nnx

  from maskclip_jax.systems.contract import Images

  photo = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
  images = Images.from_arrays([photo])
  config = network.config
  pixels = np.array(images.standardised(config.pixel_mean, config.pixel_std))
  pixels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
  graph, state = nnx.split(network)
  forward = jax.jit(lambda state, images: nnx.merge(graph, state)(images))

  def ours():
    found = jax.block_until_ready(forward(state, images))
    return np.asarray(found.mask_logits), np.asarray(found.class_logits)

  def theirs():
    with torch.inference_mode():
      found = model(pixel_values=pixels)
    return found.masks_queries_logits.numpy(), found.class_queries_logits.numpy()

  apart = max(
    float(np.abs(a - b).max() / np.abs(b).max())
    for a, b in zip(ours(), theirs(), strict=True)
  )
  return {'ours': ours, 'transformers': theirs}, apart


def measure(run: dict[str, Callable], repeats: int) -> dict[str, dict[str, float]]:
  """Seconds of each, taking turns."""
  seconds = {name: [] for name in run}
  for _ in range(repeats):
    for name, call in run.items():
      begin = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - begin)
  return {
    name: {'median_s': statistics.median(all_), 'least_s': min(all_)}
    for name, all_ in seconds.items()
  }


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--networks', nargs='+', default=NETWORKS, choices=NETWORKS)
  parser.add_argument('--sizes', nargs='+', type=int, default=(640, 1024))
  parser.add_argument('--cores', type=int, default=2, help='that both may use')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  arguments = parser.parse_args()
  # Before either library starts its threads.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
  import torch
  from machine import machine

  torch.set_num_threads(arguments.cores)
  rows = []
  print('| network | size | ours, s | transformers, s | difference |')
  print('|---|---|---|---|---|')
  for name in arguments.networks:
    with tempfile.TemporaryDirectory() as folder:
      model = build(name)
      network = convert(model, pathlib.Path(folder))
      for size in arguments.sizes:
        run, apart = runners(model, network, size)
        found = measure(run, arguments.repeats)
        rows.append({'network': name, 'size': size, 'difference': apart, **found})
        ours, theirs = (found[key]['median_s'] for key in ('ours', 'transformers'))
        print(f'| {name} | {size} | {ours:.2f} | {theirs:.2f} | {apart:.0e} |')
  versions = {'torch': torch.__version__, 'cores_used': arguments.cores}
  written = {'machine': machine() | versions, 'rows': rows}
  arguments.output.write_text(json.dumps(written, indent=2) + '\n')


if __name__ == '__main__':
  main()
