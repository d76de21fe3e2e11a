"""The same losses on one device, on eight, and on two processes; a run that moves from
one to eight and back."""

import dataclasses
import functools
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
import tiny_stages
from two_processes import run_both

from maskclip_jax.checkpoints import bundle
from maskclip_jax.train.checkpoint import Checkpoints
from maskclip_jax.train.loop import train
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.step import Program, make_program

pytestmark = [pytest.mark.slow, pytest.mark.eight_devices]

STEPS = 20
# Sums over devices are in another order: a few units in the last place of float32. Adam
# moves as far by gradients that are mostly rounding as by others, so that grows with
# every step.
TOLERANCE = 1e-5


def config_of(stage: str):
  return tiny_stages.stage(stage, data={'batch_size': 8}, total_steps=STEPS)


class Run:
  """A run on some of the fake devices, step by step."""

  def __init__(self, stage: str, mesh_config: MeshConfig, devices):
    self.config = dataclasses.replace(config_of(stage), mesh=mesh_config)
    self._program = make_program(self.config, make_mesh(mesh_config, devices))
    starting = starting_values(self._program.task, (), self.config.seed)
    self.state = self._program.start(starting)

  def go(self, steps: int, before=None) -> list[dict[str, float]]:
    """Takes steps; what each reports. `before` is called with a step's number."""
    found, key = [], jax.random.key(self.config.seed)
    with self._program.stream(int(self.state.step)) as stream:
      for number in range(steps):
        if before is not None:
          before(number)
        batch = self._program.batch(next(stream))
        self.state, terms = self._program.step(self.state, batch, key)
        found.append({name: float(value) for name, value in terms.items()})
    return found

  def take_over(self, state):
    """Goes on from another run's state, laid out as this run's."""
    self.state = jax.tree.map(
      lambda value, own: jax.device_put(value, own.sharding), state, self.state
    )


def assert_same(a, b):
  for step, (x, y) in enumerate(zip(a, b, strict=True)):
    for name in ('loss', 'grad_norm'):
      rtol = TOLERANCE * (1 + step)
      np.testing.assert_allclose(x[name], y[name], rtol=rtol, err_msg=f'{step}')


@functools.cache
def alone(stage: str) -> list[dict[str, float]]:
  """The reference: one device."""
  return Run(stage, MeshConfig(data=1), jax.devices()[:1]).go(STEPS)


# The student's loss is the teacher's and more. Matching and pseudo masks choose: two
# runs left to themselves part for good where two choices are equal but for rounding, so
# here every step starts from what one device has reached.
@pytest.mark.parametrize(
  ('stage', 'mesh'),
  [
    ('student', MeshConfig(data=2, fsdp=2, model=2, min_size=64)),
    ('masq', MeshConfig(data=1, fsdp=4, model=2, min_size=64)),
    ('rma', MeshConfig(data=2, fsdp=4, model=1, min_size=64)),
    ('ovseg_proposals', MeshConfig(data=2, fsdp=2, model=2, min_size=64)),
    ('ovseg_pairs', MeshConfig(data=1, fsdp=4, model=2, min_size=64)),
    ('ovseg_prompts', MeshConfig(data=2, fsdp=4, model=1, min_size=64)),
    ('fcclip', MeshConfig(data=1, fsdp=4, model=2, min_size=64)),
  ],
)
def test_eight_devices(stage, mesh):
  assert len(jax.devices()) == 8
  one = Run(stage, MeshConfig(data=1), jax.devices()[:1])
  states = []
  expected = one.go(8, lambda _: states.append(jax.device_get(one.state)))
  eight = Run(stage, mesh, jax.devices())
  found = eight.go(8, lambda number: eight.take_over(states[number]))
  for step, (x, y) in enumerate(zip(found, expected, strict=True)):
    assert x == pytest.approx(y, rel=TOLERANCE, abs=1e-6), step


def test_from_one_device_to_eight_and_back(tmp_path):
  """Every move goes through a checkpoint; the losses are those of a run that stayed."""
  one, eight = MeshConfig(data=1), MeshConfig(data=2, fsdp=2, model=2, min_size=64)
  places = [(one, 1, 7), (eight, 8, 7), (one, 1, 6)]
  found = []
  for number, (mesh, devices, steps) in enumerate(places):
    run = Run('masq', mesh, jax.devices()[:devices])
    checkpoints = Checkpoints(tmp_path, run.config.checkpoint)
    if number:
      run.state = checkpoints.restore(run.state)
    found += run.go(steps)
    divided = [x.sharding.is_fully_replicated for x in run.state.params.values()]
    assert all(divided) == (devices == 1)
    checkpoints.save(run.state, {}, {})
    checkpoints.close()
  assert len(found) == STEPS
  assert_same(found, alone('masq'))


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch):
  """On eight devices: SIGTERM after the third step, saved, and resumed from there."""
  config = tiny_stages.stage('masq', mesh={'data': 2, 'fsdp': 1, 'model': 4})
  notes = []
  whole = train(config, tmp_path / 'whole', say=notes.append)
  assert re.search(r'mesh data 2 x fsdp 1 x model 4', '\n'.join(notes))
  real, calls = Program.batch, []

  def batch(program, rows):
    calls.append(rows['image_id'])
    if len(calls) == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(program, rows)

  monkeypatch.setattr(Program, 'batch', batch)
  first = train(config, tmp_path / 'broken', say=lambda _: None)
  assert (first.step, first.finished) == (3, False)
  second = train(config, tmp_path / 'broken', say=lambda _: None)
  assert second.finished
  for path, value in whole.state.params.items():
    np.testing.assert_array_equal(second.state.params[path], value, err_msg=path)


_PROGRAM = """
import json
from maskclip_jax.train.config import read
from maskclip_jax.train.loop import train
values, workdir = arguments
result = train(read(json.loads(values)), workdir)
print('ended', result.step, result.finished)
"""


def test_two_processes(tmp_path):
  """Each reads its half of every batch; parameters are divided over both."""
  values = tiny_stages.values(
    'masq',
    data={'batch_size': 8},
    total_steps=STEPS,
    mesh={'data': 2, 'fsdp': 4, 'model': 1, 'min_size': 64},
    checkpoint={'every': 10},
  )
  output = run_both(_PROGRAM, json.dumps(values), str(tmp_path))
  assert all(f'ended {STEPS} True' in text for text in output)
  # Only one of them reports.
  assert [f'step {STEPS}/{STEPS}' in text for text in output] == [True, False]
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
  assert_same(rows, alone('masq'))
  # What both wrote together is whole, and one process takes it up.
  run = Run('masq', MeshConfig(data=1), jax.devices()[:1])
  checkpoints = Checkpoints(tmp_path, run.config.checkpoint)
  restored = checkpoints.restore(run.state)
  checkpoints.close()
  exported = bundle.load(tmp_path / 'bundle').parameters
  assert int(restored.step) == STEPS
  for path, value in restored.params.items():
    np.testing.assert_array_equal(value, exported[path], err_msg=path)
