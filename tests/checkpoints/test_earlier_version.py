"""What version 0.1.0 left on disks: its bundles load, its runs are recognised.

`goldens/version_0.1.0` holds the configs of a tiny bundle of every system and of a tiny
run of every stage, and the names and shapes in the checkpoints of two runs, as that
version wrote them. Parameter names are kept by `test_inventory.py`.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from maskclip_jax import plain
from maskclip_jax.checkpoints import bundle, params, restore
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.systems.system import Preset
from maskclip_jax.train import checkpoint, config_files
from maskclip_jax.train.config import TrainConfig, read
from maskclip_jax.train.optim import make_optimizer
from maskclip_jax.train.records import workdir as workdirs
from maskclip_jax.train.records.log import METRICS
from maskclip_jax.train.stages import read_stages
from maskclip_jax.train.step import abstract_state
from maskclip_jax.train.task import Layout, make_task

EARLIER = pathlib.Path(__file__).parents[1] / 'goldens' / 'version_0.1.0'
BUNDLES = sorted(p.name.removesuffix('.bundle.json') for p in EARLIER.glob('*.bundle*'))


@pytest.mark.parametrize('system', BUNDLES)
def test_a_bundle_loads(system, tmp_path):
  """The config as it was, with weights of today's names."""
  config = json.loads((EARLIER / f'{system}.bundle.json').read_text())
  preset = Preset.from_dict(config['preset'])
  shapes = params.flatten(params.abstract_model(preset.system, preset.config))
  rng = np.random.default_rng(0)
  flat = {k: rng.normal(size=s.shape).astype(np.float32) for k, s in shapes.items()}
  tie = {'fingerprint': config['fingerprint']}
  write_tensors(tmp_path / bundle.TENSORS, flat, tie)
  (tmp_path / bundle.CONFIG).write_text(json.dumps(config))
  model, loaded, opened = restore.load_model(tmp_path)
  assert loaded == preset
  assert opened.library_version == '0.1.0'
  for path, value in params.flatten(model).items():
    np.testing.assert_array_equal(value, flat[path])


def config_today(name: str) -> TrainConfig:
  """What today's code makes of the command that made a run."""
  changes = ['--config.checkpoint.keep=9']
  if name == 'maskclip':
    return read(config_files.load('maskclip:stage=rma,runlocal', changes))
  stage = {'masqclip': 'masq', 'student': 'student_1'}.get(name, name)
  changes = ['--config.stages.masq.total_steps=4']
  values = config_files.load('masqclip:stage=pipeline,runlocal', changes)
  return read_stages(values, '{workdir}')[stage]


@pytest.mark.parametrize('name', ['teacher', 'student', 'masqclip', 'maskclip'])
def test_the_same_command_resumes_a_run(name, tmp_path):
  recorded = (EARLIER / f'{name}.run.json').read_text()
  (tmp_path / workdirs.CONFIG).write_text(recorded)
  (tmp_path / METRICS).write_text('{"step": 1}\n')
  config = config_today(name)
  workdirs.check(tmp_path, config)
  # Its own record reads as today's configuration too: `export` needs nothing else.
  written = plain.to_dict(read(json.loads(recorded)))
  assert written['settings'] == plain.to_dict(config)['settings']


@pytest.mark.parametrize('name', ['masqclip', 'maskclip'])
def test_checkpoints_hold_the_same_arrays(name):
  config = config_today(name)
  task = make_task(config)
  layout = Layout.of(task)
  tx = make_optimizer(config.optim, layout.trained, config.total_steps)
  state = jax.eval_shape(lambda: checkpoint.kept_part(abstract_state(layout, tx)))
  lines = [
    f'{path} {"x".join(map(str, shape))}\n'
    for path, shape in sorted(checkpoint.shapes_by_name(state).items())
  ]
  assert ''.join(lines) == (EARLIER / f'{name}.state.txt').read_text()
