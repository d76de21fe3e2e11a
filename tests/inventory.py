"""The parameters of every preset as text: paths, shapes and types are API.

    python tests/inventory.py    # writes tests/goldens/inventory/*.txt anew

Layers that differ only in their number share a line: `resblocks/0-23/ln_1/scale`.
"""

import functools
import math
import pathlib
from collections import defaultdict

import jax

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params

ROOT = pathlib.Path(__file__).parent / 'goldens' / 'inventory'


@functools.cache
def parameters(preset: str) -> dict[str, jax.ShapeDtypeStruct]:
  """Path -> shape and type of a preset's model."""
  chosen = zoo.presets()[preset]
  return params.flatten(params.abstract_model(chosen.system, chosen.config))


def text(flat: dict[str, jax.ShapeDtypeStruct]) -> str:
  """One line per path, type and shape, with ranges for the numbers of layers."""
  numbers = defaultdict(list)
  for path, leaf in flat.items():
    parts = path.split('/')
    found = [part for part in parts if part.isdigit()]
    assert len(found) <= 1, f'{path}: more than one number cannot be folded'
    folded = '/'.join('{}' if part.isdigit() else part for part in parts)
    shape = 'x'.join(map(str, leaf.shape)) or 'scalar'
    numbers[folded, leaf.dtype.name, shape] += map(int, found)
  lines = [
    f'{folded.format(_ranges(layers))} {dtype} {shape}'
    for (folded, dtype, shape), layers in numbers.items()
  ]
  return '\n'.join(sorted(lines)) + '\n'


def _ranges(numbers: list[int]) -> str:
  """'0-3,5' for 0, 1, 2, 3, 5."""
  runs = []
  for number in sorted(numbers):
    if runs and runs[-1][1] == number - 1:
      runs[-1][1] = number
    else:
      runs.append([number, number])
  return ','.join(str(a) if a == b else f'{a}-{b}' for a, b in runs)


def count(text: str) -> int:
  """How many parameters a list has."""
  total = 0
  for line in text.splitlines():
    path, _, shape = line.split(' ')
    layers = 1
    for part in path.split('/'):
      if part[0].isdigit():
        runs = [run.split('-') for run in part.split(',')]
        layers = sum(int(run[-1]) - int(run[0]) + 1 for run in runs)
    sides = () if shape == 'scalar' else map(int, shape.split('x'))
    total += layers * math.prod(sides)
  return total


def main() -> None:
  ROOT.mkdir(exist_ok=True)
  for stale in ROOT.glob('*.txt'):
    stale.unlink()
  for preset in zoo.presets():
    (ROOT / f'{preset}.txt').write_text(text(parameters(preset)))


if __name__ == '__main__':
  main()
