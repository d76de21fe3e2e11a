"""Mistakes on the command line of `train`: one line that says what to do, status 2, and
nothing half-written."""

import pathlib
import re

import pytest
from tiny_stages import random_bundle

from maskclip_jax.__main__ import main
from maskclip_jax.train import checkpoint
from maskclip_jax.train.records import log

ROOT = pathlib.Path(__file__).parent.parent.parent
MASQ = f'{ROOT}/configs/masqclip.py:stage=masq,runlocal'
FAST = (
  '--config.total_steps=4',
  '--config.settings.label_size=64',
)


def train(workdir, *changes: str, config: str = MASQ) -> int:
  return main(['train', '--config', config, '--workdir', str(workdir), *changes])


def complaint(capsys, status: int) -> str:
  """The only line on stderr of a command that failed."""
  assert status == 2
  lines = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith('maskclip_jax: ') or 'Traceback' in line
  ]
  assert len(lines) == 1, lines
  return lines[0]


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  """A CLIP, which is no proposal network."""
  directory = tmp_path_factory.mktemp('mistakes') / 'clip'
  random_bundle(directory, 'clip_vit_tiny')
  return directory


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that went well."""
  workdir = tmp_path_factory.mktemp('mistakes') / 'run'
  assert train(workdir, *FAST) == 0
  return workdir


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (['--config.optim.lrr=1'], 'config.optim.lrr is not a field: '),
    (['--config.optm.lr=1'], "config.optm is not a field: did you mean 'optim'"),
    (['--config.settings.rul=1'], 'config.settings.rul is not a field'),
    (['--config.optim.lr=fast'], "config.optim.lr must be float, not 'fast'"),
    (
      ["--config.settings.trainable=['new_k_proj/.*']"],
      r"no parameter matches 'new_k_proj/\.\*'",
    ),
    (
      ["--config.optim.lr_factors=[['backbone/.*', 0.1]]"],
      r"the optimiser rule 'backbone/\.\*' matches no trained parameter",
    ),
    (
      ["--config.mesh.rules=[['text/.*', 'fsdp']]", '--config.mesh.min_size=1'],
      'no sharding rule matches .*: end the rules with',
    ),
    (['--config.mesh.model=3'], 'does not fit 1 devices'),
    (['--config.mesh.fsdp=0'], 'does not fit 1 devices'),
    (
      ['--config.optim.accumulate=2', '--config.data.batch_size=3'],
      r'a batch of 3 does not divide into 2 parts \(optim.accumulate\)',
    ),
    pytest.param(
      ['--config.mesh.data=8', '--config.data.batch_size=3'],
      'a batch of 3 does not divide over 8 devices',
      marks=pytest.mark.eight_devices,
    ),
    (
      ['--config.preset=maskclip_tiny', '--config.model={}'],
      'MasQ-tuning trains a masqclip',
    ),
    (['--config.preset=masqclip'], "there is no model 'masqclip': .* names them all"),
    (['--config.vocabulary=cat; dog'], 'has 2 classes and the training data has 133'),
    (['--config.start.clip.source=nowhere'], 'nowhere'),
    (['--config.log.every'], 'has no value: write --config.log.every=VALUE'),
  ],
)
def test_what_cannot_work_leaves_nothing(capsys, tmp_path, changes, message):
  workdir = tmp_path / 'run'
  status = train(workdir, *FAST, *changes)
  line = complaint(capsys, status)

  assert re.search(message, line), line
  assert not workdir.exists()


def test_no_workdir(capsys):
  assert 'needed' in complaint(capsys, main(['train', '--config', MASQ]))


def test_the_checkpoint_of_another_system(capsys, tmp_path, clip):
  changes = [
    f'--config.start.proposals.source={clip}',
    '--config.start.proposals.target_prefix=proposals',
  ]
  line = complaint(capsys, train(tmp_path / 'run', *FAST, *changes))
  assert 'does not fit what is trained' in line
  assert str(clip) in line
  assert 'missing: proposals/backbone' in line
  assert not (tmp_path / 'run').exists()


def test_the_workdir_of_another_configuration(capsys, whole):
  before = {p: p.stat().st_mtime_ns for p in whole.rglob('*')}
  line = complaint(capsys, train(whole, *FAST, '--config.optim.lr=0.5'))
  assert f'{whole} belongs to a run of another configuration' in line
  assert 'optim.lr is 0.0001 there and 0.5 here' in line
  assert {p: p.stat().st_mtime_ns for p in whole.rglob('*')} == before


def test_a_directory_that_is_no_run(capsys, tmp_path):
  (tmp_path / 'thesis.tex').write_text('...')
  line = complaint(capsys, train(tmp_path, *FAST))
  assert 'exists and holds no run' in line
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.slow
def test_a_loss_that_is_not_a_number(capsys, tmp_path):
  """A learning rate of 1e38 leaves no finite parameter after one step."""
  changes = ['--config.optim.lr=1e38', '--config.optim.clip_norm=None']
  line = complaint(capsys, train(tmp_path, *FAST, *changes))
  assert 'step 2: ' in line
  assert 'is not finite, on the images generated-' in line
  # The checkpoint is of the first step, before the loss broke.
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['step_00000001']


def test_no_room_for_a_checkpoint(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, '_SPARE', 1e12)
  line = complaint(capsys, train(tmp_path, *FAST))
  assert 'no room for the checkpoint of step 1: it needs' in line
  assert not list((tmp_path / 'checkpoints').iterdir())


@pytest.mark.skipif(
  not pathlib.Path('/dev/full').exists(), reason='no device that is always full'
)
def test_no_room_for_the_log(capsys, tmp_path, monkeypatch):
  workdir = tmp_path / 'run'
  # The device takes no bytes, and nothing ends when it is read.
  monkeypatch.setattr(log, 'trim', lambda path, step: path.symlink_to('/dev/full'))
  line = complaint(capsys, train(workdir, *FAST))
  assert f'the log of step 1 cannot be written to {workdir}: no space left' in line
  assert 'start again' in line
  assert not (workdir / 'bundle').exists()
