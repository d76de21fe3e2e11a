"""How fast a model is on the device that is here: one command, one table.

    python benchmarks/speed_card.py                       # MasQCLIP, published size
    python benchmarks/speed_card.py --output card.json    # keeps the numbers, too
    pip install torch transformers open_clip_torch        # adds PyTorch's columns

Random weights, photos that fill their canvas. Per compute type, canvas and batch: the
network alone (proposals, CLIP with its mask tokens, words), by the clock and the median
of several runs; the same from photos to panoptic results, one photo after another where
the network is done; seconds of the first call, which compiles; and the most memory that
the device held, or the process where the device does not say, as on a CPU, PyTorch's
among it. Then the same photo with more and more words, in turns with the fewest, whose
time the last column compares; their vectors are drawn, for words are encoded once in a
vocabulary's life.

Where they are installed, transformers' Mask2Former and open_clip's image tower of the
same sizes run in turns with ours on the same device, and a second table has them part
by part; open_clip's tower is without mask tokens, ours with them. It also has what the
products of our part would take at the device's best: large matrices are multiplied by
both libraries, and the fastest time of all is the best. "At most" is how many times as
fast as PyTorch's a part could be whose products all went so.

Rows begin until `--minutes` are over, the most telling ones first, so a GPU is done in
ten; what was left out is told. Numbers of a busy machine say little: its load is
printed beside them.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# PyTorch needs memory on the same device.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import jax.numpy as jnp
import numpy as np
import torch_peer
from machine import machine
from turns import in_turns

from maskclip_jax.checkpoints import params
from maskclip_jax.ops import fused_attention
from maskclip_jax.plan import Plan
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.text.bank import TextCache
from maskclip_jax.train.flops import count_flops

# Words that are compiled for.
WORDS = (20, 150, 847, 10_000)


@dataclasses.dataclass(frozen=True)
class Case:
  """What one row measures."""

  dtype: str
  canvas: int
  batch: int
  words: int


def cases(
  dtypes: Sequence[str],
  canvases: Sequence[int],
  batches: Sequence[int],
  words: Sequence[int],
) -> list[Case]:
  """All rows, the most telling first: the last type and the largest canvas, then words,
  then the others."""
  few, *more = words
  grid = [
    Case(dtype, canvas, batch, few)
    for dtype, canvas, batch in itertools.product(
      reversed(dtypes), sorted(canvases, reverse=True), batches
    )
  ]
  first = grid[0]
  worded = [dataclasses.replace(first, words=count) for count in more]
  own = len(batches)
  return [*grid[:own], *worded, *grid[own:]]


def alternate(
  programs: dict[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[float, float]]:
  """Seconds of the first call and the median of later ones, of programs in turns."""
  seconds = in_turns(programs, repeats)
  return {
    name: (first, statistics.median(later)) for name, (first, *later) in seconds.items()
  }


class Drawn(TextCache):
  """Vectors of words that nobody encodes: which they are takes no time.

  Args:
    width: how many numbers a vector has.
  """

  def __init__(self, width: int):
    super().__init__()
    self._width = width

  def vectors(self, prompts, encode):
    rng = np.random.default_rng(len(prompts))
    return rng.standard_normal((len(prompts), self._width), np.float32)


def peak_gb() -> float:
  """The most memory that the device held so far; where it does not say, the process."""
  found = jax.local_devices()[0].memory_stats() or {}
  peak = found.get('peak_bytes_in_use')
  if peak is None:
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return round(peak / 1e9, 2)


class Card:
  """The measurements of a model, one compute type after another.

  Args:
    model: a preset, of a system with a CLIP and words.
    words: how many are looked for where PyTorch's networks run, which read none.
    repeats: runs after the first.
    peer: whether PyTorch's networks run in turns with ours.
  """

  def __init__(self, model: str, words: int, repeats: int, peer: bool):
    self._model, self._words = model, words
    self._repeats, self._with_peer = repeats, peer
    self._dtype = ''

  def _load(self, dtype: str) -> None:
    """The model in a compute type, in place of the one before."""
    if dtype == self._dtype:
      return
    self._segmenter = self._forward = self._weights = self._peer = None
    self._parts, self._counted, self._best = {}, {}, None
    drawn = Segmenter.from_preset(self._model, dtype=dtype)
    config = drawn.preset.config
    cache = Drawn(config.clip.embed_dim)
    self._segmenter = Segmenter(drawn.model, drawn.preset, cache=cache)
    forward, self._weights = self._segmenter.as_function()
    self._forward = jax.jit(forward)
    if self._with_peer and torch_peer.fits(config):
      self._peer = torch_peer.Peer(config, dtype)
      self._parts, self._counted = parts_of(drawn), parts_of(drawn)
      self._best = best_flop_s(dtype, self._peer, self._repeats)
    self._dtype = dtype

  def measure(self, case: Case) -> dict[str, Any]:
    """The row of a case."""
    self._load(case.dtype)
    segmenter, scores = self._segmenter, self._segmenter.preset.scores
    side = (case.canvas, case.canvas)
    pixels = np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)
    photos = [pixels] * case.batch
    images = jax.device_put(Images.from_arrays(photos, side))
    plan = self._plan(case.words)
    bank = segmenter.text_bank(plan.words)

    def network(bank: TextBank) -> Callable[[], object]:
      return lambda: self._forward(self._weights, images, bank, scores)

    programs = {'network': network(bank)}
    peered = self._peer is not None and case.words == self._words
    inputs: dict[str, tuple[Any, ...]] = {}
    if peered:
      inputs['proposals'] = (self._weights, images)
      found = self._parts['proposals'](*inputs['proposals'])
      inputs['clip'] = (self._weights, images, found)
      programs |= {
        name: functools.partial(self._parts[name], *given)
        for name, given in inputs.items()
      }
      theirs = self._peer.programs(case.batch, case.canvas)
      programs |= {f'peer_{name}': program for name, program in theirs.items()}
    compiled = self._forward._cache_size()
    if case.words != self._words:
      few = segmenter.text_bank(self._plan(self._words).words)
      programs['few words'] = network(few)
    seconds = alternate(programs, self._repeats)
    took = seconds['network'][1]
    row = {**dataclasses.asdict(case), 'first_s': round(seconds['network'][0], 2)}
    row |= rates('network', took, case.batch)
    row['programs'] = self._forward._cache_size() - compiled
    if 'few words' in seconds:
      row['of_few_words'] = round(took / seconds['few words'][1], 2)
    whole = alternate({'whole': lambda: self._whole(photos, plan)}, self._repeats)
    row |= rates('whole', whole['whole'][1], case.batch)
    if peered:
      row['parts'] = {}
      for name, given in inputs.items():
        theirs = seconds[f'peer_{name}'][1]
        # Products inside cuDNN's kernel are not seen. What is traced is not called.
        with fused_attention.never():
          flops = count_flops(self._counted[name].trace(*given).jaxpr)
        floor = floored(flops, self._best, theirs)
        row['parts'][name] = both(seconds[name][1], theirs) | floor
      row['best_gflop_s'] = round(self._best / 1e9)
      row |= both(took, sum(seconds[f'peer_{name}'][1] for name in inputs))
    return row | {'peak_gb': peak_gb()}

  def _plan(self, words: int) -> Plan:
    """A number of words to look for."""
    return self._segmenter.plan('; '.join(f'word {n}' for n in range(words)))

  def _whole(self, photos: Sequence[np.ndarray], plan: Plan) -> None:
    """From photos of the network's size to panoptic results on the host."""
    segmenter = self._segmenter
    sizes = [photo.shape[:2] for photo in photos]
    for outputs in segmenter.outputs(photos, sizes, plan):
      segmenter.prediction(outputs, plan)


def rates(name: str, seconds: float, batch: int) -> dict[str, float]:
  """A time as people read it."""
  return {
    f'{name}_ms': round(1e3 * seconds, 1),
    f'{name}_photos_s': round(batch / seconds, 2),
  }


def both(ours: float, theirs: float) -> dict[str, float]:
  """Our seconds beside PyTorch's."""
  return {
    'ours_ms': round(1e3 * ours, 1),
    'peer_ms': round(1e3 * theirs, 1),
    'times_as_fast': round(theirs / ours, 2),
  }


def best_flop_s(dtype: str, peer: torch_peer.Peer, repeats: int) -> float:
  """Operations a second of the fastest large matrix product of either library."""
  side = 2048 if jax.default_backend() == 'cpu' else 8192
  square = jnp.ones((side, side), dtype)
  multiply = jax.jit(jnp.matmul)
  seconds = in_turns(
    {'ours': lambda: multiply(square, square), 'theirs': peer.product(side)}, repeats
  )
  fastest = min(second for _, *later in seconds.values() for second in later)
  return 2 * side**3 / fastest


def floored(flops: int, best: float, theirs: float) -> dict[str, float]:
  """What the products of a part take at the device's best, and what that allows.

  Args:
    flops: operations of our part's products.
    best: operations a second.
    theirs: PyTorch's seconds.
  """
  floor = flops / best
  return {
    'gflop': round(flops / 1e9),
    'floor_ms': round(1e3 * floor, 1),
    'at_most': round(theirs / floor, 2),
  }


def parts_of(segmenter: Segmenter) -> dict[str, Callable[..., Any]]:
  """The two networks of a model, each compiled by itself."""
  whole, _ = params.split(segmenter.model)

  def proposals(weights, images):
    return whole(weights).proposals.propose_masks(images)

  def clip(weights, images, found):
    return whole(weights).encode_masks(images, found.mask_logits, found.mask_hw)

  return {'proposals': jax.jit(proposals), 'clip': jax.jit(clip)}


COLUMNS = {
  'type': 'dtype',
  'canvas': 'canvas',
  'batch': 'batch',
  'words': 'words',
  'network, ms': 'network_ms',
  'photos/s': 'network_photos_s',
  'to results, ms': 'whole_ms',
  'photos/s ': 'whole_photos_s',
  'first, s': 'first_s',
  'GB': 'peak_gb',
  'PyTorch, ms': 'peer_ms',
  'times as fast': 'times_as_fast',
  'of few words': 'of_few_words',
}

PART_COLUMNS = {
  'type': 'dtype',
  'canvas': 'canvas',
  'batch': 'batch',
  'part': 'part',
  'ours, ms': 'ours_ms',
  'PyTorch, ms': 'peer_ms',
  'times as fast': 'times_as_fast',
  'GFLOP': 'gflop',
  'at best, ms': 'floor_ms',
  'at most': 'at_most',
}


def line(row: Mapping[str, Any], columns: Mapping[str, str] = COLUMNS) -> str:
  """A row of a Markdown table."""
  cells = (row.get(key) for key in columns.values())
  return '| ' + ' | '.join('' if cell is None else str(cell) for cell in cells) + ' |'


def head(columns: Mapping[str, str] = COLUMNS) -> str:
  """The first two lines of a table."""
  names = ' | '.join(name.strip() for name in columns)
  return f'| {names} |\n|{"---|" * len(columns)}'


def beside(rows: Sequence[dict[str, Any]]) -> str:
  """The parts beside PyTorch's, as a table; nothing where none were measured."""
  lines = [
    line(row | part | {'part': name}, PART_COLUMNS)
    for row in rows
    for name, part in row.get('parts', {}).items()
  ]
  return '\n'.join(['', head(PART_COLUMNS), *lines]) if lines else ''


def versions() -> dict[str, str]:
  """Of PyTorch's libraries."""
  packages = {'torch', 'transformers', 'open_clip_torch'}
  return {name: importlib.metadata.version(name) for name in sorted(packages)}


def numbers(text: str) -> tuple[int, ...]:
  """'1,4,16' as numbers."""
  return tuple(int(part) for part in text.split(','))


def main(given: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--model', default='masqclip_r50_vit_l14_336', help='a preset')
  parser.add_argument('--dtypes', default='float32,bfloat16')
  parser.add_argument('--canvases', type=numbers, default=(640, 1024))
  parser.add_argument('--batches', type=numbers, help='1,4,16; on CPUs 1')
  parser.add_argument('--words', type=numbers, default=WORDS)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--minutes', type=float, default=8, help='rows begin until then')
  parser.add_argument('--no_peer', action='store_true', help='leave PyTorch out')
  parser.add_argument('--output', type=pathlib.Path, help='a JSON file of the numbers')
  options = parser.parse_args(given)
  on_cpu = jax.default_backend() == 'cpu'
  batches = options.batches or ((1,) if on_cpu else (1, 4, 16))
  todo = cases(options.dtypes.split(','), options.canvases, batches, options.words)
  absent = [] if options.no_peer else torch_peer.missing()
  peer = not options.no_peer and not absent
  described = machine() | (versions() if peer else {})
  print(described)
  if absent:
    print(f'PyTorch is left out: {", ".join(absent)} not installed')
  card = Card(options.model, options.words[0], options.repeats, peer)
  begin, rows = time.monotonic(), []
  print(head())
  while todo and time.monotonic() - begin < 60 * options.minutes:
    case = todo.pop(0)
    try:
      rows.append(card.measure(case))
    except RuntimeError as error:
      # JAX and PyTorch say so where a device has too little memory.
      print(f'not measured: {case}: {str(error).partition(chr(10))[0]}')
      continue
    print(line(rows[-1]), flush=True)
  if parts := beside(rows):
    print(parts)
  for case in todo:
    print(f'not measured, for lack of time: {case}')
  if options.output is not None:
    content = {'machine': described, 'model': options.model, 'rows': rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
