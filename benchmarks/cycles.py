"""Where a TPU chip spends its time, by estimates of its own compiler; no TPU needed.

    pip install libtpu
    python benchmarks/cycles.py --topology v5e:2x2 --model masqclip_r50_vit_l14_336 \
      --stage predict
    python benchmarks/cycles.py --stage masq       # a training step, published sizes
    python benchmarks/cycles.py --stage teacher --json teacher.json
    python benchmarks/cycles.py --stage masq --sampling chunks  # gathers, as on a CPU
    python benchmarks/cycles.py --batch 8                       # photos at a time

One chip, bfloat16. Prints per part the cycles that the compiler counts and
the rows of gathers, of which it says nothing (`hlo_cycles.py`), photos a second and the
share of the chip's peak that follow, and the roofline: the time that the operations
take at peak, and that the memory takes to deliver what the compiler says is read and
written (the body of a loop once). Kernels of our own are not in the sums where the
compiler says nothing of them; how often they run is told, and `sampling_cycles.py` has
their own cycles. Full-size models take some minutes and up to 6 GB.
"""

import argparse
import dataclasses
import json
import os
import pathlib

from maskclip_jax.train import tpu_compiler

CONFIGS = {'teacher': 'masqclip:stage=teacher', 'masq': 'masqclip:stage=masq'}
# Where the teacher and the whole model say how they sample.
SAMPLING = {'teacher': 'sampling'}
# Losses of proposals are means over the two photos that a device of the paper had, and
# are taken of 16 masks at a time as long as there are more: a compiler counts all of
# 100, and most photos of COCO have less than 16.
OVERRIDES = {
  'teacher': [
    '--config.settings.criterion.images_per_mean=1',
    '--config.data.max_segments=16',
  ]
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """Operations a second in bfloat16, bytes a second, and the clock in Hz."""

  flops: float
  bandwidth: float
  clock: float


CHIPS = {
  'TPU v4': Chip(275e12, 1228e9, 1.05e9),
  'TPU v5 lite': Chip(197e12, 819e9, 1.5e9),
  'TPU v6 lite': Chip(918e12, 1640e9, 1.75e9),
}


def compiled_forward(model: str, size: int, batch: int, sampling: str, device):
  """The program of photos and 64 words, compiled for one chip, and its jaxpr."""
  import jax
  import jax.numpy as jnp
  from flax import nnx
  from jax.sharding import SingleDeviceSharding

  from maskclip_jax import plain, zoo
  from maskclip_jax.nn.layers import compiling_for
  from maskclip_jax.systems.contract import Images, TextBank
  from maskclip_jax.systems.system import find_system

  preset, place = zoo.find_preset(model), SingleDeviceSharding(device)
  config = preset.config
  if sampling != 'auto':
    config = plain.change(config, {'proposals': {'sampling': sampling}}, 'config')

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  def build():
    system = find_system(preset.system)
    return system.model(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

  graphdef, state = nnx.split(nnx.eval_shape(build))
  state = jax.tree.map(lambda x: array(x.shape, x.dtype), state)
  hw = array((batch, 2), jnp.int32)
  images = Images(array((batch, size, size, 3), jnp.uint8), hw, hw)
  vectors = array((64, config.clip.embed_dim), jnp.float32)
  text = TextBank(vectors, *[array((64,), jnp.bool)] * 4)
  with compiling_for('tpu'):
    program = jax.jit(lambda s, i, t: nnx.merge(graphdef, s)(i, t))
    traced = program.trace(state, images, text)
  return traced, traced.lower(lowering_platforms=('tpu',)).compile()


def stage_values(stage: str, argument: str, batch: int, sampling: str) -> dict:
  """The configuration of a stage for a chip.

  Args:
    stage: one of `CONFIGS`.
    argument: more of its argument, such as 'runlocal'.
    batch: photos a step.
    sampling: form of deformable sampling.
  """
  from maskclip_jax.train import config_files

  config = ','.join(filter(None, [CONFIGS[stage], argument]))
  field = SAMPLING.get(stage, 'proposals.sampling')
  overrides = [
    f'--config.data.batch_size={batch}',
    f'--config.model.{field}={sampling}',
  ]
  return config_files.load(config, [*overrides, *OVERRIDES.get(stage, [])])


def compiled_stage(values: dict, device):
  """A training step, compiled for one chip, and its jaxpr."""
  from maskclip_jax.train.compile_only import compiled_program

  *_, traced, compiled = compiled_program(values, [device])
  return traced, compiled


def report(traced, compiled, kind: str, batch: int) -> dict:
  """All figures of a compiled program of so many photos."""
  from hlo_cycles import Program

  from maskclip_jax.train.flops import count_flops

  chip = CHIPS[kind]
  parts = Program(compiled.as_text()).parts()
  flops, costs = count_flops(traced.jaxpr), compiled.cost_analysis()
  least, most = (sum(part.cycles()[i] for part in parts.values()) for i in (0, 1))
  return {
    'chip': kind,
    'parts': {
      name: {**dataclasses.asdict(part), 'cycles': part.cycles()}
      for name, part in parts.items()
    },
    'cycles': (least, most),
    'photos': batch,
    'photos_a_second': (batch * chip.clock / most, batch * chip.clock / least),
    'share_of_peak': tuple(
      flops * chip.clock / (cycles * chip.flops) for cycles in (most, least)
    ),
    'tflop': flops / 1e12,
    'roofline_ms': {
      'operations': 1e3 * flops / chip.flops,
      'memory': 1e3 * costs.get('bytes accessed', 0.0) / chip.bandwidth,
    },
  }


def span(form: str, pair) -> str:
  """A range of numbers, or the number that both ends are."""
  ends = [form.format(end) for end in pair]
  return ends[0] if ends[0] == ends[1] else ' to '.join(ends)


def text_of(found: dict) -> str:
  """The report as people read it."""
  lines = [
    f'{"part":22}{"counted, M":>12}{"rows, M":>10}{"cycles, M":>20}{"kernels":>9}'
  ]
  for name, part in found['parts'].items():
    cycles = span('{:.2f}', [c / 1e6 for c in part['cycles']])
    lines.append(
      f'{name:22}{part["counted"] / 1e6:12.2f}{part["rows"] / 1e6:10.2f}{cycles:>20}'
      f'{part["kernels"]:9}'
    )
  kernels = sum(part['kernels'] for part in found['parts'].values())
  cycles = span('{:.1f}', [c / 1e6 for c in found['cycles']])
  speed = span('{:.1f}', found['photos_a_second'])
  share = span('{:.1%}', found['share_of_peak'])
  most, roofline = 'at most ' * bool(kernels), found['roofline_ms']
  of = 'a photo' if found['photos'] == 1 else f'for {found["photos"]} photos'
  lines += [
    f'{found["chip"]}: {cycles} M cycles {of}, {most}{speed} photos/s, '
    f'{most}{share} of peak',
    f'roofline: {roofline["operations"]:.2f} ms for {found["tflop"]:.2f} TFLOP, '
    f'{roofline["memory"]:.2f} ms for the memory',
  ]
  if kernels:
    lines.append(f'{kernels} runs of kernels of our own come on top of these cycles')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--topology', default='v5e:2x2', help='(%(default)s)')
  parser.add_argument('--model', default='masqclip_r50_vit_l14_336')
  parser.add_argument('--size', type=int, default=1024, help='of the photo')
  parser.add_argument('--batch', type=int, default=1, help='photos at a time')
  parser.add_argument('--stage', default='predict', choices=['predict', *CONFIGS])
  parser.add_argument('--sampling', default='auto', help='form, of `ops/deformable/`')
  parser.add_argument('--argument', default='', help='of the configuration: runlocal')
  parser.add_argument('--text', type=pathlib.Path, help='keep the compiled program')
  parser.add_argument('--json', type=pathlib.Path, help='a report for programs')
  options = parser.parse_args()
  os.environ |= tpu_compiler.ENVIRONMENT
  from maskclip_jax.train.compile_only import devices_of

  device = devices_of(options.topology)[0]
  if options.stage == 'predict':
    program = compiled_forward(
      options.model, options.size, options.batch, options.sampling, device
    )
  else:
    values = stage_values(
      options.stage, options.argument, options.batch, options.sampling
    )
    program = compiled_stage(values, device)
  if options.text is not None:
    options.text.write_text(program[1].as_text())
  found = report(*program, device.device_kind, options.batch)
  print(text_of(found))
  if options.json is not None:
    options.json.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  main()
