"""A run that moves from one device to eight and back, that is interrupted, and that two
processes share."""

import json
import os
import re
import signal

import jax
import numpy as np
import pytest
import tiny_stages
from device_runs import STEPS, TOLERANCE, Run, on_one
from two_processes import run_both

from maskclip_jax.checkpoints import bundle
from maskclip_jax.train.checkpoint import Checkpoints
from maskclip_jax.train.loop import train
from maskclip_jax.train.mesh import MeshConfig
from maskclip_jax.train.step import Program

pytestmark = [pytest.mark.slow, pytest.mark.eight_devices]


@pytest.fixture(scope='module')
def start(tmp_path_factory) -> dict:
  """What all runs start from."""
  source = tmp_path_factory.mktemp('moves') / 'start'
  tiny_stages.random_bundle(source, 'masqclip_tiny')
  return {'model': {'source': str(source)}}


@pytest.fixture(scope='module')
def alone(start) -> list[dict[str, float]]:
  """The reference: one device."""
  return on_one('masq', start=start).go(STEPS)


def assert_same(a, b):
  for step, (x, y) in enumerate(zip(a, b, strict=True)):
    for name in ('loss', 'grad_norm'):
      rtol = TOLERANCE * (1 + step)
      np.testing.assert_allclose(x[name], y[name], rtol=rtol, err_msg=f'{step}')


def test_from_one_device_to_eight_and_back(alone, start, tmp_path):
  """Every move goes through a checkpoint; the losses are those of a run that stayed."""
  one, eight = MeshConfig(data=1), MeshConfig(data=2, fsdp=2, model=2, min_size=64)
  places = [(one, 1, 3), (eight, 8, 3), (one, 1, 3)]
  found = []
  for number, (mesh, devices, steps) in enumerate(places):
    run = Run('masq', mesh, jax.devices()[:devices], start=start)
    checkpoints = Checkpoints(tmp_path, run.config.checkpoint)
    if number:
      run.state = checkpoints.restore(run.state)
    found += run.go(steps)
    divided = [x.sharding.is_fully_replicated for x in run.state.params.values()]
    assert all(divided) == (devices == 1)
    checkpoints.save(run.state, {}, {})
    checkpoints.close()
  assert len(found) == STEPS
  assert_same(found, alone)


def test_an_interrupted_run_ends_with_the_same_bits(start, tmp_path, monkeypatch):
  """On eight devices: SIGTERM after the third step, saved, and resumed from there."""
  mesh = {'data': 2, 'fsdp': 1, 'model': 4}
  config = tiny_stages.stage('masq', start=start, mesh=mesh)
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


def test_two_processes(alone, start, tmp_path):
  """Each reads its half of every batch; parameters are divided over both."""
  values = tiny_stages.values(
    'masq',
    data={'batch_size': 8},
    total_steps=STEPS,
    start=start,
    mesh={'data': 2, 'fsdp': 4, 'model': 1, 'min_size': 64},
    checkpoint={'every': 5},
  )
  output = run_both(_PROGRAM, json.dumps(values), str(tmp_path))
  assert all(f'ended {STEPS} True' in text for text in output)
  # Only one of them reports.
  assert [f'step {STEPS}/{STEPS}' in text for text in output] == [True, False]
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
  assert_same(rows, alone)
  # What both wrote together is whole, and one process takes it up.
  run = on_one('masq', start=start)
  checkpoints = Checkpoints(tmp_path, run.config.checkpoint)
  restored = checkpoints.restore(run.state)
  checkpoints.close()
  exported = bundle.load(tmp_path / 'bundle').parameters
  assert int(restored.step) == STEPS
  for path, value in restored.params.items():
    np.testing.assert_array_equal(value, exported[path], err_msg=path)
