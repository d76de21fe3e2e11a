"""What deformable sampling of one full-size layer costs a TPU chip; no TPU needed.

    pip install libtpu
    python benchmarks/sampling_cycles.py --topology v5e:2x2 --size 1024
    python benchmarks/sampling_cycles.py --form chunks products --gradient

Every form is compiled alone: one photo, three levels, eight heads of 32 channels, four
points. Prints the cycles that the compiler counts, the rows of gathers, and the memory
for temporaries (`hlo_cycles.py`).

Of our own kernel the compiler says nothing but the instruction bundles that it wrote. A
bundle takes at least one cycle; how often each runs follows from the blocks of a level
that the points of a tile fall into, so from how far queries look. The kernel's cycles
are given for points as they are initialised (up to four pixels away), for points
anywhere within some pixels of their place, and for all blocks of all levels.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

from maskclip_jax.train import tpu_compiler

HEADS, WIDTH, POINTS = 8, 32, 4
STRIDES = (32, 16, 8)
# Pixels of each level.
REACHES = (4, 8, 16, 32)
# A line of the compiler's listing: address, label, and a '>' for every loop around it.
_BUNDLE = re.compile(r'^\s*(?:0x)?[0-9a-f]+\s+(\w*)\s*: *(>*)')


@dataclasses.dataclass(frozen=True)
class Bundles:
  """How many instruction bundles a kernel has.

  Attributes:
    once: that run once.
    step: of a step of the grid, without its loops over blocks.
    blocks: of each of these loops' bodies, in order: one loop for every level.
  """

  once: int
  step: int
  blocks: tuple[int, ...]

  def cycles(self, steps: int, touched: Sequence[int]) -> int:
    """At least, for a number of steps that look into so many blocks of each level."""
    pairs = zip(self.blocks, touched, strict=True)
    return self.once + steps * self.step + sum(each * runs for each, runs in pairs)


def read_bundles(text: str) -> Bundles:
  """Counts the bundles of a kernel whose steps have a loop for every level.

  Args:
    text: the compiler's listing, 'final_bundles'.

  Raises:
    ValueError: loops inside those: nothing says how often they run.
  """
  once, step, blocks, depth = 0, 0, [], 0
  for line in text.splitlines():
    if not (found := _BUNDLE.match(line)):
      continue
    # Bundles without instructions do not say where they are.
    depth = len(found[2]) or depth
    if depth > 2:
      raise ValueError('the kernel has loops inside its loops over blocks')
    if depth == 2 and found[1] == 'LB':
      blocks.append(0)
    if depth == 2:
      blocks[-1] += 1
    elif depth == 1:
      step += 1
    else:
      once += 1
  return Bundles(once, step, tuple(blocks))


def touched(shapes, reach: int | None) -> tuple[int, list[int]]:
  """Steps of the kernel's grid for a photo, and blocks of each level that they look at.

  Args:
    shapes: (height, width) of the levels.
    reach: how far points lie from their place, in pixels; None as initialised.
  """
  import jax.numpy as jnp
  import numpy as np

  from maskclip_jax.nn.deformable import own_places, ring_of_offsets
  from maskclip_jax.ops.deformable import kernel

  places = np.asarray(own_places(shapes))[:, None, :, None]
  shape = (len(places), HEADS, len(shapes), POINTS, 2)
  if reach is None:
    offsets = ring_of_offsets(*shape[1:-1]).reshape(shape[1:])
  else:
    offsets = np.random.default_rng(0).uniform(-reach, reach, shape)
  points = jnp.asarray(np.broadcast_to(places + offsets, shape), jnp.float32)[None]
  x, y, _ = kernel.on_tiles(points, points[..., 0])
  bits = np.asarray(kernel.touched_blocks(kernel.layout(shapes), x[0], y[0]))
  counts = np.bitwise_count(bits.astype(np.uint32)).sum((0, 2))
  return bits.shape[0] * bits.shape[2], counts.tolist()


def all_blocks(shapes) -> tuple[int, list[int]]:
  """The same where points fall into every block."""
  from maskclip_jax.ops.deformable import kernel

  steps, counts = touched(shapes, None)
  return steps, [steps * level.blocks for level in kernel.layout(shapes)[: len(counts)]]


def kernel_cycles(text: str, shapes) -> dict[str, float]:
  """The kernel's own cycles, by how far its queries look."""
  bundles = read_bundles(text)
  return {
    'as initialised': bundles.cycles(*touched(shapes, None)),
    **{f'within {n} pixels': bundles.cycles(*touched(shapes, n)) for n in REACHES},
    'all blocks': bundles.cycles(*all_blocks(shapes)),
  }


def compiled_layer(form: str, shapes, device, *, gradient: bool):
  """Sampling of a photo, or its gradient by all inputs, compiled for one chip."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import SingleDeviceSharding

  from maskclip_jax.ops.deformable import sample_pyramid

  array = functools.partial(
    jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=SingleDeviceSharding(device)
  )
  queries = sum(height * width for height, width in shapes)
  weights = (1, queries, HEADS, len(shapes), POINTS)
  values = array((1, queries, HEADS, WIDTH))
  inputs = (values, array((*weights, 2)), array(weights))

  def sums(*inputs):
    values, points, weights = inputs
    return sample_pyramid(values, shapes, points, weights, form=form)

  def gradients(g, *inputs):
    return jax.vjp(sums, *inputs)[1](g)

  program, inputs = (gradients, (values, *inputs)) if gradient else (sums, inputs)
  return jax.jit(program).trace(*inputs).lower(lowering_platforms=('tpu',)).compile()


def report(form: str, shapes, device, listings: pathlib.Path, *, gradient: bool):
  """All figures of a form."""
  from hlo_cycles import Program

  before = set(listings.iterdir())
  compiled = compiled_layer(form, shapes, device, gradient=gradient)
  parts = Program(compiled.as_text()).parts().values()
  found = {
    'counted': sum(part.counted for part in parts),
    'rows': sum(part.rows for part in parts),
    'cycles': [sum(part.cycles()[i] for part in parts) for i in (0, 1)],
    'temporary_mb': compiled.memory_analysis().temp_size_in_bytes / 1e6,
  }
  own = [
    path
    for path in sorted(set(listings.iterdir()) - before)
    if re.search(r'deformable_sampling.*\d-final_bundles', path.name)
  ]
  if own:
    found['kernel'] = kernel_cycles(own[-1].read_text(), shapes)
  return found


def text_of(name: str, found: dict) -> str:
  """A report as people read it."""
  least, most = (cycles / 1e6 for cycles in found['cycles'])
  lines = [
    f'{name}: {found["counted"] / 1e6:.2f} M cycles counted, '
    f'{found["rows"] / 1e6:.2f} M rows: {least:.2f} to {most:.2f} M cycles; '
    f'{found["temporary_mb"]:.1f} MB for temporaries'
  ]
  for reach, cycles in found.get('kernel', {}).items():
    lines.append(f'  and the kernel, {reach}: {cycles / 1e6:.2f} M')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--topology', default='v5e:2x2', help='(%(default)s)')
  parser.add_argument('--size', type=int, default=1024, help='of the photo')
  parser.add_argument('--form', nargs='+', default=['pallas'])
  parser.add_argument('--gradient', action='store_true', help='instead of the sums')
  parser.add_argument('--json', type=pathlib.Path, help='a report for programs')
  options = parser.parse_args()
  listings = tempfile.TemporaryDirectory()
  os.environ |= tpu_compiler.ENVIRONMENT | {
    'LIBTPU_INIT_ARGS': (
      f'--xla_jf_dump_to={listings.name} --xla_jf_dump_llo_text=true '
      '--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*'
    ),
  }
  from maskclip_jax.train.compile_only import devices_of

  device = devices_of(options.topology)[0]
  shapes = tuple((options.size // stride,) * 2 for stride in STRIDES)
  found = {}
  with listings:
    for form in options.form:
      direction = 'gradient' if options.gradient else 'forward'
      name = f'{form}, {direction}, {options.size}, {device.device_kind}'
      found[name] = report(
        form, shapes, device, pathlib.Path(listings.name), gradient=options.gradient
      )
      print(text_of(name, found[name]), flush=True)
  if options.json is not None:
    options.json.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  main()
