"""A system is added without touching a file outside its folder, a task and a config.

`toy_system/` is what docs/adding_a_system.md walks through; here its folders join those
of the package, as if they stood there.
"""

import pathlib

import numpy as np
import pytest
from PIL import Image

import maskclip_jax
from maskclip_jax import systems, zoo
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.random_weights import random_array
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping import rules
from maskclip_jax.systems import system_names
from maskclip_jax.systems.system import find_system
from maskclip_jax.train import tasks

FOLDER = pathlib.Path(__file__).parent / 'toy_system'


@pytest.fixture(autouse=True)
def joined(monkeypatch):
  monkeypatch.setattr(systems, '__path__', [*systems.__path__, str(FOLDER / 'systems')])
  monkeypatch.setattr(tasks, '__path__', [*tasks.__path__, str(FOLDER / 'tasks')])


def official_files(directory):
  """An official file of the toy and the CLIP that goes with it, of seeded weights."""
  clip = find_system('clip')
  config = zoo.find_preset('toy_tiny').config
  shapes = params.flatten(params.abstract_model('toy', config))
  flat = {path: random_array(path, leaf.shape, 0) for path, leaf in shapes.items()}
  stored = {
    p: a for p, a in flat.items() if not p.startswith(('clip/text', 'clip/log'))
  }
  toy = rules.invert(stored, find_system('toy').format.write(config, 'official', 0))
  tower = {p.removeprefix('clip/'): a for p, a in flat.items() if p.startswith('clip/')}
  write_tensors(directory / 'toy.safetensors', toy)
  openai = rules.invert(tower, clip.format.write(config.clip, 'openai', 0))
  write_tensors(directory / 'clip.safetensors', openai)
  return directory / 'toy.safetensors', directory / 'clip.safetensors'


def test_a_toy_system_converts_predicts_trains_and_is_listed(tmp_path, capsys):
  assert 'toy' in system_names()
  official, clip = official_files(tmp_path)
  model, run = tmp_path / 'model', tmp_path / 'run'
  assert main(['convert', str(official), '--clip', str(clip), '--to', str(model)]) == 0
  assert 'toy.safetensors: Toy' in capsys.readouterr().out
  assert bundle.load(model).config['system'] == 'toy'

  photo = tmp_path / 'photo.png'
  Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  ).save(photo)
  predict = ['predict', str(photo), '--vocabulary', 'cat; dog', '--no_cache']
  assert main([*predict, '--model', str(model), '--out', str(tmp_path / 'out')]) == 0
  assert (tmp_path / 'out' / 'photo.panoptic.png').is_file()

  train = ['train', '--config', f'{FOLDER / "toy.py"}', '--workdir', str(run)]
  assert main([*train, f'--config.start.model.source={model}']) == 0
  trained = maskclip_jax.load(run)
  before = bundle.load(model).parameters['queries']
  assert trained.preset.system == 'toy'
  assert not np.array_equal(trained.model.queries[...], before)

  back = tmp_path / 'back.safetensors'
  assert main(['export', '--model', str(model), '--to', str(back)]) == 0
  for key, array in TensorFile(official).items():
    np.testing.assert_array_equal(TensorFile(back)[key], array)

  capsys.readouterr()
  assert main(['models', 'list']) == 0
  assert 'toy_tiny' in capsys.readouterr().out
