"""The pipeline that makes the miniature."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest
from tiny_stages import quick_draw

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.data.build import build
from maskclip_jax.data.examples import decode
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.views import find_view
from maskclip_jax.plain import change
from maskclip_jax.train import config_files, loop, starting
from maskclip_jax.train.config import read
from maskclip_jax.train.loop import train

ROOT = pathlib.Path(__file__).parent.parent.parent
# Networks of the same parts with fewer layers, which compile in half the time.
DECODER = {'decoder_layers': 1}
CLIP = {'vision_layers': 2, 'text_layers': 1}
CONVNEXT = {'depths': (1, 1, 1, 1), 'text_layers': 1}
MODELS = {
  **dict.fromkeys(('clip', 'clip_anywhere', 'clip_photos'), CLIP),
  **dict.fromkeys(('teacher', 'student'), DECODER),
  'masq': {'proposals': DECODER, 'clip': CLIP},
  'convnext': CONVNEXT,
  'fcclip': {**DECODER, 'clip': CONVNEXT},
}


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> pathlib.Path:
  """A little of the world, as `data build miniature` draws it."""
  directory = tmp_path_factory.mktemp('world')
  sizes = {'train': 8, 'test': 1, 'pairs': 40, 'photos': 9}
  build('miniature', None, directory, sizes=sizes)
  return directory


def test_scale_multiplies_the_steps_of_a_stage():
  part, one = (
    config_files.load(f'{ROOT}/configs/miniature.py:stage=teacher,scale={scale}')
    for scale in (0.4, 1)
  )
  assert part['total_steps'] == pytest.approx(0.4 * one['total_steps'], abs=0.5)
  part['total_steps'] = one['total_steps']
  assert part == one


@pytest.fixture
def stage(world, tmp_path, monkeypatch):
  """Runs a stage for two steps: its name, its run, and which runs it starts from."""
  # Programs for eight devices take long to compile; `test_devices` runs them.
  one = functools.partial(loop.make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(loop, 'make_mesh', one)
  monkeypatch.setattr(starting, 'draw', quick_draw)

  def run(name: str, to: str, **sources: str) -> pathlib.Path:
    values = config_files.load(f'{ROOT}/configs/miniature.py:stage={name}')
    values |= {'total_steps': 2, 'log': {'every': 1}, 'model': MODELS[name]}
    values['data'] |= {'batch_size': 8, 'data_dir': str(world)}
    if not values['data'].get('caption_tokens'):
      # Networks of scenes take any size; the towers of CLIPs have theirs.
      values['data'] |= {'batch_size': 2, 'canvas': 64}
    for part, source in sources.items():
      values['start'][part]['source'] = str(tmp_path / source)
    result = train(read(values), tmp_path / to)
    assert result.finished
    assert np.isfinite(result.metrics['loss'])
    return result.bundle

  return run


def scene_of(world: pathlib.Path) -> np.ndarray:
  return decode(
    open_source('miniature/panoptic', 'test', world)[0],
    find_view('miniature/panoptic'),
    crowd=True,
  ).image


@pytest.mark.slow
def test_the_pipeline_in_a_few_steps(world, stage, tmp_path):
  """Every stage starts from the one before, and the last is a model that segments."""
  stage('clip', 'close')
  stage('clip_anywhere', 'anywhere', clip='close')
  stage('clip_photos', 'clip', clip='anywhere')
  stage('teacher', 'teacher')
  stage('student', 'student', teacher='teacher')
  masq = stage('masq', 'masq', proposals='student', clip='clip')
  text, proposals = (
    {p: x for p, x in bundle.load(masq).parameters.items() if p.startswith(part)}
    for part in ('clip/text/', 'proposals/')
  )
  for part, source, arrays in (
    ('clip/', 'clip', text),
    ('proposals/', 'student', proposals),
  ):
    given = bundle.load(tmp_path / source / 'bundle').parameters
    assert arrays
    for path, array in arrays.items():
      np.testing.assert_array_equal(array, given[path.removeprefix(part)])
  preset = zoo.find_preset('clip_baseline_miniature')
  convert_checkpoint(
    tmp_path / 'teacher',
    tmp_path / 'baseline',
    clip=tmp_path / 'clip',
    preset=dataclasses.replace(
      preset, config=change(preset.config, MODELS['masq'], 'model')
    ),
  )
  # Nothing official is in it, so no official licence holds.
  card = (tmp_path / 'baseline' / 'MODEL_CARD.md').read_text()
  assert card.count('the terms of `bundle`') == 2
  assert 'CC BY-NC' not in card
  scene = scene_of(world)
  for model in (masq, tmp_path / 'baseline'):
    prediction = maskclip_jax.load(model)(scene, 'red star; stuff:grass')
    assert prediction.panoptic.shape == (256, 256)
  jax.clear_caches()


@pytest.mark.slow
def test_fcclip_on_a_convolutional_clip_in_a_few_steps(world, stage, tmp_path):
  """The second stage leaves its CLIP as it was, and knows what was annotated."""
  stage('convnext', 'clip')
  fcclip = stage('fcclip', 'fcclip', clip='clip')
  given = bundle.load(tmp_path / 'clip' / 'bundle').parameters
  parameters = bundle.load(fcclip).parameters
  for path, array in given.items():
    np.testing.assert_array_equal(parameters[f'clip/{path}'], array, err_msg=path)
  model = maskclip_jax.load(fcclip)
  assert model.preset.training == 'miniature-base'
  bank = model.text_bank(model.vocabulary('miniature-116'))
  assert bank.seen.sum() == 80
  assert model(scene_of(world), 'red star; stuff:grass').panoptic.shape == (256, 256)
  jax.clear_caches()
