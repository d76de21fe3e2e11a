"""The same losses on one device, on eight, and on two processes (20 steps)."""

import dataclasses
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_stages

from maskclip_jax.train import feed
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.run import make_program, read_start, run_key, start_state

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 20
# Sums over devices are in another order: a few units in the last place of float32.
TOLERANCE = 1e-5


def config_of(stage: str):
  return tiny_stages.stage(stage, data={'batch_size': 8}, total_steps=STEPS)


def losses(stage: str, mesh_config: MeshConfig, devices) -> list[dict[str, float]]:
  """What every step reports, on some of the fake devices."""
  config = dataclasses.replace(config_of(stage), mesh=mesh_config)
  starting, constants = read_start(config)
  mesh = make_mesh(mesh_config, devices)
  program = make_program(config, mesh, constants)
  state, found = start_state(program, starting), []
  with feed.open_stream(config.data, mesh, 0) as stream:
    for _ in range(STEPS):
      batch = feed.to_devices(next(stream), mesh)
      state, terms = program.step(state, batch, run_key(config))
      found.append({name: float(value) for name, value in terms.items()})
  return found


def assert_same(a, b):
  for step, (x, y) in enumerate(zip(a, b, strict=True)):
    for name in ('loss', 'grad_norm'):
      np.testing.assert_allclose(x[name], y[name], rtol=TOLERANCE, err_msg=f'{step}')


@functools.cache
def alone(stage: str) -> list[dict[str, float]]:
  """The reference: one device."""
  return losses(stage, MeshConfig(data=1), jax.devices()[:1])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('stage', 'mesh'),
  [
    ('teacher', MeshConfig(data=2, fsdp=2, model=2, min_size=64)),
    ('masq', MeshConfig(data=1, fsdp=4, model=2, min_size=64)),
  ],
)
def test_eight_devices(stage, mesh):
  assert len(jax.devices()) == 8
  assert_same(losses(stage, mesh, jax.devices()), alone(stage))


_PROCESS = """
import json, sys
from absl import flags
import jax
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_default_matmul_precision', 'highest')
from maskclip_jax.train.mesh import start_processes
values, workdir, address, number = sys.argv[1:]
start_processes(address, 2, int(number), heartbeat_seconds=20)
from maskclip_jax.train.config import read
from maskclip_jax.train.loop import train
flags.FLAGS.mark_as_parsed()
result = train(read(json.loads(values)), workdir)
print('ended', result.step, result.finished)
"""


def two_processes(values: dict, workdir: pathlib.Path) -> list[subprocess.Popen]:
  """Starts a run on two processes with four devices each."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
  env = {
    **os.environ,
    'PYTHONPATH': path,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
  }
  command = [sys.executable, '-c', _PROCESS, json.dumps(values), str(workdir), address]
  return [
    subprocess.Popen(
      [*command, str(number)],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for number in (0, 1)
  ]


@pytest.mark.slow
def test_two_processes(tmp_path):
  """Each reads its half of every batch; parameters are divided over both."""
  values = tiny_stages.values(
    'masq',
    data={'batch_size': 8},
    total_steps=STEPS,
    mesh={'data': 2, 'fsdp': 4, 'model': 1, 'min_size': 64},
    checkpoint={'every': 10},
  )
  processes = two_processes(values, tmp_path)
  output = [process.communicate(timeout=600)[0] for process in processes]
  assert [p.returncode for p in processes] == [0, 0], '\n'.join(output)
  assert all(f'ended {STEPS} True' in text for text in output)
  # Only one of them reports.
  assert [f'step {STEPS}/{STEPS}' in text for text in output] == [True, False]
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
  assert_same(rows, alone('masq'))
  assert (tmp_path / 'bundle' / 'model.safetensors').exists()
