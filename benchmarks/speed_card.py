"""How fast a model is on the device that is here: one command, one table.

    python benchmarks/speed_card.py                       # MasQCLIP, published size
    python benchmarks/speed_card.py --output card.json    # keeps the numbers, too
    pip install torch transformers open_clip_torch        # adds PyTorch's columns

Random weights, photos that fill their canvas. Per compute type, canvas and batch: the
network alone (proposals, CLIP with its mask tokens, words), by the clock and the median
of several runs; the same from photos to panoptic results, one photo after another where
the network is done; seconds of the first call, which compiles; and the most memory that
the device held. Then the same photo with more and more words.

Where they are installed, transformers' Mask2Former and open_clip's image tower of the
same sizes run in turns with ours on the same device; open_clip without mask tokens.

Rows begin until `--minutes` are over, the most telling ones first, so a GPU is done in
ten; what was left out is told. Numbers of a busy machine say little: its load is
printed beside them.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

# PyTorch needs memory on the same device.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import numpy as np
import torch_peer
from machine import machine
from turns import in_turns

from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import BUCKETS, Images, TextBank

# Words that are compiled for.
WORDS = (20, 150, 847, 10_000)
_BUCKETS = (*BUCKETS[:3], 16_384)


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


def bank_of(segmenter: Segmenter, count: int) -> TextBank:
  """Vectors of words that nobody wrote: which they are takes no time."""
  width = segmenter.preset.config.clip.embed_dim
  vectors = np.random.default_rng(count).standard_normal((count + 1, width), np.float32)
  return TextBank.build(vectors, np.ones(count, bool), void_last=True, buckets=_BUCKETS)


def peak_gb() -> float | None:
  """The most memory that the device held so far; None where it does not say."""
  found = jax.local_devices()[0].memory_stats() or {}
  peak = found.get('peak_bytes_in_use')
  return None if peak is None else round(peak / 1e9, 2)


class Card:
  """The measurements of a model, one compute type after another.

  Args:
    model: a preset, of a system with a CLIP and words.
    words: how many are looked for where results are made.
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
    self._segmenter = Segmenter.from_preset(self._model, dtype=dtype)
    forward, self._weights = self._segmenter.as_function()
    self._forward = jax.jit(forward)
    config = self._segmenter.preset.config
    if self._with_peer and torch_peer.fits(config):
      self._peer = torch_peer.Peer(config, dtype)
    self._dtype = dtype

  def measure(self, case: Case) -> dict[str, Any]:
    """The row of a case."""
    self._load(case.dtype)
    segmenter, scores = self._segmenter, self._segmenter.preset.scores
    side = (case.canvas, case.canvas)
    pixels = np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)
    photos = [pixels] * case.batch
    images = jax.device_put(Images.from_arrays(photos, side))
    bank = bank_of(segmenter, case.words)
    programs: dict[str, Callable[[], object]] = {
      'network': lambda: self._forward(self._weights, images, bank, scores)
    }
    if self._peer is not None:
      programs['peer'] = self._peer.program(case.batch, case.canvas)
    compiled = self._forward._cache_size()
    found = alternate(programs, self._repeats)
    row = {**dataclasses.asdict(case), 'first_s': round(found['network'][0], 2)}
    row |= rates('network', found['network'][1], case.batch)
    row['programs'] = self._forward._cache_size() - compiled
    # Once for a size of photo: words change the network's part alone.
    if case.words == self._words:
      whole = alternate({'whole': lambda: self._whole(photos)}, self._repeats)
      row |= rates('whole', whole['whole'][1], case.batch)
    if 'peer' in found:
      row |= rates('peer', found['peer'][1], case.batch)
      row['times_as_fast'] = round(found['peer'][1] / found['network'][1], 2)
    return row | {'peak_gb': peak_gb()}

  def _whole(self, photos: Sequence[np.ndarray]) -> None:
    """From photos of the network's size to panoptic results on the host."""
    segmenter = self._segmenter
    plan = segmenter.plan('; '.join(f'word {n}' for n in range(self._words)))
    sizes = [photo.shape[:2] for photo in photos]
    for outputs in segmenter.outputs(photos, sizes, plan):
      segmenter.prediction(outputs, plan)


def rates(name: str, seconds: float, batch: int) -> dict[str, float]:
  """A time as people read it."""
  return {
    f'{name}_ms': round(1e3 * seconds, 1),
    f'{name}_photos_s': round(batch / seconds, 2),
  }


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
}


def line(row: dict[str, Any]) -> str:
  """A row of the Markdown table."""
  cells = (row.get(key) for key in COLUMNS.values())
  return '| ' + ' | '.join('' if cell is None else str(cell) for cell in cells) + ' |'


def head() -> str:
  """The first two lines of the table."""
  names = ' | '.join(name.strip() for name in COLUMNS)
  return f'| {names} |\n|{"---|" * len(COLUMNS)}'


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
  for case in todo:
    print(f'not measured, for lack of time: {case}')
  if options.output is not None:
    content = {'machine': described, 'model': options.model, 'rows': rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
  main()
