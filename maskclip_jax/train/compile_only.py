"""Compiling a step ahead of time, also for a slice of TPUs that is not there.

The compiler that a pod runs comes with the `libtpu` package and works on any Linux
machine. It reports memory per chip, operations, and the collectives that it put in, and
fails where the pod would.
"""

import collections
import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maskclip_jax import jax_settings
from maskclip_jax.nn.layers import compiling_for
from maskclip_jax.systems.system import sampling_form
from maskclip_jax.train.config import TrainConfig, read
from maskclip_jax.train.flops import count_flops
from maskclip_jax.train.mesh import make_mesh
from maskclip_jax.train.step import make_program, step_memory

# High-bandwidth memory of a chip, in GiB.
HBM = {'TPU v4': 32, 'TPU v5 lite': 16, 'TPU v5': 95, 'TPU v6 lite': 32, 'TPU7x': 192}
_COLLECTIVE = re.compile(
  r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)'
  r'(?:-start)?\('
)
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2}
_BYTES |= {'s32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}


@dataclasses.dataclass(frozen=True)
class CompileReport:
  """What the compiler says of a step, per chip.

  Attributes:
    stage: the task.
    devices: how many, and of which kind.
    mesh: axis -> size.
    batch: photos of all chips together.
    sampling: the form of deformable sampling, None where there is none.
    seconds: to compile.
    arguments: bytes of state and batch.
    temporaries: bytes of everything else.
    flops: operations of the matrix products and convolutions of a step.
    collectives: kind -> (how many, bytes of their results).
    capacity: bytes of memory, None where unknown.
  """

  stage: str
  devices: str
  mesh: Mapping[str, int]
  batch: int
  sampling: str | None
  seconds: float
  arguments: int
  temporaries: int
  flops: float
  collectives: Mapping[str, tuple[int, int]]
  capacity: int | None

  @property
  def memory(self) -> int:
    """Bytes per chip; the new state takes the place of the old."""
    return self.arguments + self.temporaries

  @property
  def fits(self) -> bool:
    """Whether a chip has that much."""
    return self.capacity is None or self.memory <= self.capacity

  def to_json(self) -> str:
    return json.dumps(
      {**dataclasses.asdict(self), 'memory': self.memory, 'fits': self.fits}, indent=2
    )

  def __str__(self) -> str:
    gib = 2**30
    of = '' if self.capacity is None else f' of {self.capacity / gib:.0f}'
    verdict = 'fits' if self.fits else 'DOES NOT FIT'
    parts = f'{self.arguments / gib:.2f} + {self.temporaries / gib:.2f} temporary'
    shape = ' x '.join(f'{axis} {size}' for axis, size in self.mesh.items())
    lines = [
      f'{self.stage}: batch {self.batch} on {self.devices}, mesh {shape}; compiled in '
      f'{self.seconds:.0f} s',
      f'  memory per chip  {self.memory / gib:8.2f}{of} GiB ({verdict}): {parts}',
      f'  operations       {self.flops / 1e12:8.2f} TFLOP per chip and step',
    ]
    if self.sampling:
      lines.append(f'  deformable sampling by {self.sampling}')
    for kind, (count, size) in sorted(self.collectives.items()):
      lines.append(f'  {kind:<16} {count:>8} with {size / 1e6:.1f} MB')
    return '\n'.join(lines)


def devices_of(topology: str | None) -> Sequence[jax.Device]:
  """The chips of a slice such as 'v5e:16x16'; those that are here by default.

  Raises:
    ValueError: an unknown topology, or no compiler for it.
  """
  if topology is None:
    return jax.devices()
  from jax.experimental import topologies

  # Programs see the two cores of a v4 chip as one.
  options = {'chip_config_name': 'megacore'} if topology.startswith('v4:') else {}
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **options
    )
  except (RuntimeError, ValueError, NotImplementedError) as error:
    text = str(error).partition('\n')[0]
    raise ValueError(
      f'cannot compile for {topology!r}: {text} (a slice is named like v5e:16x16, and '
      'the compiler comes with `pip install libtpu`)'
    ) from error
  return found.devices


@jax_settings.own()
def compile_step(
  values: Mapping[str, Any], devices: Sequence[jax.Device]
) -> CompileReport:
  """Compiles the real step of a configuration, from shapes alone.

  Args:
    values: plain values of the configuration; sources need not be given.
    devices: here or not.

  Raises:
    ValueError: parts of the configuration that do not fit each other.
  """
  start = time.perf_counter()
  config, mesh, traced, compiled = compiled_program(values, devices)
  seconds = time.perf_counter() - start
  platform = devices[0].platform
  arguments, temporaries = step_memory(compiled)
  kind = devices[0].device_kind
  gib = HBM.get(kind)
  return CompileReport(
    stage=config.task,
    devices=f'{len(devices)} x {kind}',
    mesh=dict(mesh.shape),
    batch=config.data.batch_size,
    sampling=sampling_form(config.chosen_preset.config, platform),
    seconds=seconds,
    arguments=arguments,
    temporaries=temporaries,
    flops=count_flops(traced.jaxpr) / len(devices),
    collectives=collectives(compiled.as_text()),
    capacity=None if gib is None else gib * 2**30,
  )


def compiled_program(
  values: Mapping[str, Any], devices: Sequence[jax.Device]
) -> tuple[TrainConfig, Mesh, jax.stages.Traced, jax.stages.Compiled]:
  """The real step of a configuration, traced and compiled; as `compile_step`."""
  config = read({**values, 'start': {}})
  mesh = make_mesh(config.mesh, devices)
  platform = devices[0].platform
  with compiling_for(platform):
    traced = make_program(config, mesh).trace()
  compiled = traced.lower(lowering_platforms=(platform,)).compile()
  return config, mesh, traced, compiled


def collectives(program: str) -> dict[str, tuple[int, int]]:
  """Kind -> how many there are in a compiled program, and the bytes they deliver.

  A collective inside a loop counts once.
  """
  found: dict[str, list[int]] = collections.defaultdict(list)
  for match in _COLLECTIVE.finditer(program):
    found[match[2]].append(sum(_size(*shape) for shape in _SHAPE.findall(match[1])))
  return {kind: (len(sizes), sum(sizes)) for kind, sizes in found.items()}


def _size(kind: str, dims: str) -> int:
  count = 1
  for side in filter(None, dims.split(',')):
    count *= int(side)
  return count * _BYTES.get(kind, jnp.dtype('float32').itemsize)
