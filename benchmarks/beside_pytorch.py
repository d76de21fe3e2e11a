"""Seconds of our networks beside PyTorch's libraries, on the CPU.

  pip install '.[formats]'
  python benchmarks/beside_pytorch.py
  python benchmarks/beside_pytorch.py --networks R50 --sizes 640 --output r50.json

Mask2Former beside transformers, from a photo to mask and class logits; and the
ConvNeXt-L trunk of a CLIP beside open_clip and timm, from a photo to the four maps that
FC-CLIP reads. Both have the same weights: those of a network of published size, drawn
at random by the library and converted by ours. A square photo already resized,
float32, one at a time. The two take turns, so that what else the machine does meets
both; ours compiles before.

Prints a table and writes `results/beside_pytorch.json`: the median and the least of the
repeats, the largest difference of the outputs, and the machine with its load: on a busy
one the seconds say little. With all networks and sizes it fills the table of
`docs/benchmarks.md` as well.

A query of Mask2Former reads where its mask is above a half. Where rounding decides
that, the outputs of the query part; random weights have such places.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'beside_pytorch.json'
PAGE = ROOT / 'docs' / 'benchmarks.md'
SIZES = 640, 1024
_STAGES = ['stage1', 'stage2', 'stage3', 'stage4']
# Of open_clip; FC-CLIP's.
_CONVNEXT = 'convnext_large_d_320'


@dataclasses.dataclass(frozen=True)
class Pair:
  """A network in both libraries, with the same weights.

  Attributes:
    model: the module of ours.
    ours: the outputs of such a module for `Images`, channels first.
    theirs: the same outputs of the library for normalised pixels (1, 3, h, w).
    statistics: RGB mean and deviation of the pixels, 0..255.
  """

  model: Any
  ours: Callable[[Any, Any], Sequence[Any]]
  theirs: Callable[[Any], Sequence[Any]]
  statistics: tuple[Sequence[float], Sequence[float]]


def mask2former(backbone: str, folder: pathlib.Path) -> Pair:
  """Mask2Former of transformers, with a Swin-T or a ResNet-50.

  Args:
    backbone: 'Swin-T' or 'R50'.
    folder: for its files.
  """
  import transformers

  from maskclip_jax import load_model
  from maskclip_jax.checkpoints.convert import convert_checkpoint

  if backbone == 'R50':
    sizes = transformers.ResNetConfig(out_features=_STAGES)
  else:
    sizes = transformers.SwinConfig(
      embed_dim=96,
      depths=[2, 2, 6, 2],
      num_heads=[3, 6, 12, 24],
      window_size=7,
      out_features=_STAGES,
    )
  config = transformers.Mask2FormerConfig(
    backbone_config=sizes, id2label={i: f'class {i}' for i in range(133)}
  )
  network = transformers.Mask2FormerForUniversalSegmentation(config).eval()
  network.save_pretrained(folder / 'saved')
  convert_checkpoint(folder / 'saved', folder / 'bundle')
  model = load_model(folder / 'bundle')[0]

  def ours(model, images):
    found = model(images)
    return found.mask_logits, found.class_logits

  def theirs(pixels):
    found = network(pixel_values=pixels)
    return found.masks_queries_logits, found.class_queries_logits

  return Pair(model, ours, theirs, (model.config.pixel_mean, model.config.pixel_std))


def convnext(folder: pathlib.Path) -> Pair:
  """The trunk of open_clip's CLIP with a ConvNeXt-L.

  Args:
    folder: for its files.
  """
  import open_clip
  from safetensors.torch import save_file

  from maskclip_jax import load_clip
  from maskclip_jax.systems.pooling import feature_maps

  network = open_clip.create_model(_CONVNEXT)
  for name, value in network.named_parameters():
    # The library's 1e-6 would hide what the blocks compute.
    if name.endswith('.gamma'):
      value.data.fill_(0.1)
  told = {'model_cfg': open_clip.get_model_config(_CONVNEXT)}
  (folder / 'open_clip_config.json').write_text(json.dumps(told))
  save_file(network.state_dict(), folder / 'open_clip_model.safetensors')
  trunk = network.visual.trunk.eval()
  model = load_clip(folder).model

  def ours(model, images):
    return [maps.transpose(0, 3, 1, 2) for maps in feature_maps(model, images).values()]

  def theirs(pixels):
    return trunk.forward_intermediates(pixels, intermediates_only=True)

  both = model.config.pixel_mean, model.config.pixel_std
  mean, deviation = ([255 * x for x in values] for values in both)
  return Pair(model, ours, theirs, (mean, deviation))


# By what the command line calls them: title, library, and how the pair is made.
NETWORKS = {
  'Swin-T': (
    'Mask2Former, Swin-T',
    'transformers',
    functools.partial(mask2former, 'Swin-T'),
  ),
  'R50': (
    'Mask2Former, ResNet-50',
    'transformers',
    functools.partial(mask2former, 'R50'),
  ),
  'ConvNeXt-L': ('trunk of CLIP, ConvNeXt-L', 'open_clip_torch', convnext),
}


def programs(pair: Pair, size: int) -> dict[str, Callable[[], list]]:
  """What runs each library on one photo, and gives the outputs as arrays."""
  import jax
  import numpy as np
  import torch
  from flax import nnx

  from maskclip_jax.systems.contract import Images

  photo = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
  images = Images.from_arrays([photo])
  pixels = np.array(images.standardised(*map(tuple, pair.statistics)))
  pixels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
  graph, state = nnx.split(pair.model)
  forward = jax.jit(lambda state, images: pair.ours(nnx.merge(graph, state), images))

  def theirs():
    with torch.inference_mode():
      return [found.numpy() for found in pair.theirs(pixels)]

  return {
    'ours': lambda: [np.asarray(found) for found in forward(state, images)],
    'theirs': theirs,
  }


def measured(pair: Pair, size: int, repeats: int) -> dict[str, Any]:
  """The seconds of both, and how far apart their outputs are."""
  import numpy as np
  from turns import in_turns

  found = programs(pair, size)
  # The first run, which compiles ours.
  apart = max(
    float(np.abs(a - b).max() / np.abs(b).max())
    for a, b in zip(found['ours'](), found['theirs'](), strict=True)
  )
  return {'difference': apart} | {
    name: {'median_s': statistics.median(runs), 'least_s': min(runs)}
    for name, runs in in_turns(found, repeats - 1).items()
  }


HEAD = """| network | photo | ours, s | PyTorch, s | times as fast | difference |
|---|---|---|---|---|---|"""


def line(row: Mapping[str, Any]) -> str:
  """A row of the Markdown table."""
  ours, theirs = (row[name]['median_s'] for name in ('ours', 'theirs'))
  return (
    f'| {row["network"]}; {row["library"]} {row["version"]} | {row["size"]} | '
    f'{ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} | {row["difference"]:.0e} |'
  )


def table(content: Mapping[str, Any]) -> str:
  """The results in Markdown."""
  used = content['machine']
  told = (
    f'{used["processor"]}, {used["cores_used"]} cores, load {used["load"]} before;\n'
    f'jax {used["jax"]}, torch {used["torch"]}.'
  )
  return '\n'.join([HEAD, *map(line, content['rows']), '', told])


def main(given: Sequence[str] | None = None) -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--networks', nargs='+', default=[*NETWORKS], choices=NETWORKS)
  parser.add_argument('--sizes', nargs='+', type=int, default=SIZES)
  parser.add_argument('--cores', type=int, default=2, help='that both may use')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--output', type=pathlib.Path, default=RESULTS)
  options = parser.parse_args(given)
  if options.repeats < 1 or options.cores < 1:
    parser.error('--repeats and --cores are 1 or more')
  if bad := [size for size in options.sizes if size < 32 or size % 32]:
    parser.error(f'--sizes {bad[0]}: the networks take multiples of 32')
  complete = {*NETWORKS} == {*options.networks} and {*SIZES} == {*options.sizes}
  if options.output == RESULTS and not complete:
    parser.error('a part of the table is not kept beside it: give it an --output')
  # Before either library starts its threads.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
  import torch
  from machine import machine
  from pages import fill

  torch.set_num_threads(options.cores)
  torch.manual_seed(0)
  # The load before it is made here.
  used = machine() | {'torch': torch.__version__, 'cores_used': options.cores}
  rows = []
  print(HEAD)
  for name in options.networks:
    title, library, build = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
      pair = build(pathlib.Path(folder))
    for size in options.sizes:
      version = importlib.metadata.version(library)
      row = {'network': title, 'library': library, 'version': version, 'size': size}
      rows.append(row | measured(pair, size, options.repeats))
      print(line(rows[-1]), flush=True)
    del pair
  content = {'machine': used, 'rows': rows}
  options.output.parent.mkdir(parents=True, exist_ok=True)
  options.output.write_text(json.dumps(content, indent=2) + '\n')
  if options.output == RESULTS:
    fill(PAGE, 'benchmarks/beside_pytorch.py', table(content))


if __name__ == '__main__':
  main()
