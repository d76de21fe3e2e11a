"""MaskCLIP++'s file, and those of EVA-CLIP, become models [fcclip 9.4, 11].

No official file was seen: what is here has the prefixes that the specification names,
and EVA-CLIP's own names below them.
"""

import dataclasses
import pathlib

import numpy as np
import pytest
import tiny_stages

from maskclip_jax import zoo
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.cross import cross, open_ingredient
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.checkpoints.restore import read_preset
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping.rules import invert
from maskclip_jax.systems.eva_clip.checkpoint import EVA_RULES
from maskclip_jax.systems.system import find_system

CLIP = zoo.find_preset('clip_eva02_tiny_masks')
FCCLIP = {'encoder_layers': 1, 'decoder_layers': 1, 'encoder_ffn': 64}
ROPE = 'rope.freqs_cos'


def plain_clip(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A CLIP as EVA-CLIP's own code saves it."""
  own = {
    path: x
    for path, x in flat.items()
    if not path.startswith('mixer/') and path != 'visual/mask_scale'
  }
  constants = {
    f'visual.{place}{ROPE}': np.zeros((4, 64), np.float32)
    for place in ('', 'blocks.0.attn.', 'blocks.1.attn.')
  }
  return invert(own, EVA_RULES) | constants


def official_file(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same in MaskCLIP++'s file, with what it has learned beside."""
  prefixes = {'visual.': 'visual_encoder.proxy.', 'text.': 'text_encoder.proxy.'}
  state = {}
  for key, array in plain_clip(flat).items():
    found = [theirs for own, theirs in prefixes.items() if key.startswith(own)]
    rest = key.partition('.')[2] if found else key
    state[(found or ['text_encoder.'])[0] + rest] = array
  for layer, name in enumerate(('inner', 'outer')):
    state[f'psm.{layer}.weight'] = flat[f'mixer/{name}/kernel'].T
    state[f'psm.{layer}.bias'] = flat[f'mixer/{name}/bias']
  state['visual_encoder.mask_scale'] = flat['visual/mask_scale']
  return state | {'criterion.empty_weight': np.ones(172, np.float32)}


@pytest.fixture(scope='module')
def flat() -> dict[str, np.ndarray]:
  model = random_model('eva_clip', CLIP.config, seed=1)
  return {path: np.asarray(x) for path, x in params.flatten(model).items()}


@pytest.fixture(scope='module')
def file(flat, tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('official') / 'maskclippp.safetensors'
  write_tensors(path, official_file(flat))
  return path


@pytest.fixture(scope='module')
def fcclip(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('models') / 'fcclip'
  tiny_stages.random_bundle(folder, 'fcclip_tiny', **FCCLIP)
  return folder


def test_the_file_is_a_clip_that_reads_masks(flat, file, tmp_path):
  report = convert_checkpoint(file, tmp_path / 'clip')
  assert (report.system, report.preset) == ('eva_clip', 'clip_eva02_tiny_masks')
  opened = bundle.load(tmp_path / 'clip')
  assert opened.parameters.keys() == flat.keys()
  for path, array in flat.items():
    np.testing.assert_array_equal(opened.parameters[path], array, err_msg=path)
  with pytest.raises(ValueError, match='no place for what it has learned of masks'):
    export_official(tmp_path / 'clip', tmp_path / 'x.safetensors')


def test_a_file_of_eva_clip_goes_there_and_back(flat, tmp_path):
  write_tensors(tmp_path / 'eva.safetensors', plain_clip(flat))
  report = convert_checkpoint(tmp_path / 'eva.safetensors', tmp_path / 'clip')
  assert (report.system, report.preset) == ('eva_clip', 'clip_eva02_tiny')
  back = tmp_path / 'back.safetensors'
  export_official(tmp_path / 'clip', back, layout='eva_clip')
  ours, theirs = TensorFile(back), TensorFile(tmp_path / 'eva.safetensors')
  assert ours.keys() == {key for key in theirs if not key.endswith(ROPE)}
  for key in ours:
    assert ours[key].tobytes() == theirs[key].tobytes(), key


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'visual_encoder.mask_scale': None}, 'the scale of masks .* found nothing'),
    (
      {'visual_encoder.other': np.zeros(1, np.float32)},
      'the scale of masks .* found visual_encoder.mask_scale, visual_encoder.other',
    ),
    ({'text_encoder.logit_scale': None}, 'the temperature .* found nothing'),
    ({'psm.1.weight': None}, 'has 1 layers, expected two linear ones'),
    ({'psm.1.bias': None}, r'1 missing: psm\.1\.bias'),
    ({'sem_seg_head.x': np.zeros(1, np.float32)}, r'1 unknown: sem_seg_head\.x'),
  ],
)
def test_a_file_that_is_not_as_expected_is_told(flat, tmp_path, changes, message):
  state = official_file(flat) | changes
  state = {key: x for key, x in state.items() if x is not None}
  write_tensors(tmp_path / 'x.safetensors', state)
  with pytest.raises(ValueError, match=message):
    convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'clip')
  assert not (tmp_path / 'clip').exists()


def test_the_command_puts_it_behind_a_segmenter(file, fcclip, tmp_path, capsys):
  made = tmp_path / 'made'
  flags = ['--proposals', str(fcclip), '--classifier', str(file), '--rule', 'bias']
  assert main(['convert', *flags, '--to', str(made)]) == 0
  assert 'MaskCLIP++: masks of' in capsys.readouterr().out
  opened, usual = bundle.load(made), zoo.find_preset('maskclippp_tiny')
  preset = read_preset(opened)
  assert preset.system == 'maskclippp'
  assert preset.config.proposal_words == 'fcclip'
  for field in ('words', 'scores', 'training', 'postprocessing'):
    assert getattr(preset, field) == getattr(usual, field), field
  own = bundle.load(fcclip).parameters
  text = 'clip/text/text_projection/kernel'
  np.testing.assert_array_equal(opened.parameters[f'proposals/{text}'], own[text])
  # Without what only FC-CLIP's second classifier reads.
  assert 'proposals/clip/logit_scale' not in opened.parameters
  expected = params.flatten(params.abstract_model(preset.system, preset.config))
  assert opened.parameters.keys() == expected.keys()
  # Its segmenter lends its masks on, without their words where nobody asks.
  again = cross(open_ingredient(made), open_ingredient(fcclip), 'pool')
  assert not any('/clip/text/' in path for path in again.parameters if 'prop' in path)
  kept = cross(open_ingredient(made), open_ingredient(made))
  assert kept.parameters.keys() == opened.parameters.keys()
  assert kept.preset.config == preset.config


def test_masks_without_words_of_their_own(file, fcclip, tmp_path):
  """A Mask2Former says what is an object, and this CLIP what it is."""
  tiny_stages.random_bundle(tmp_path / 'masks', 'proposals_tiny')
  masks, clip = open_ingredient(tmp_path / 'masks'), open_ingredient(file)
  made = cross(masks, clip, 'bias')
  assert made.preset.config.proposal_words == ''
  assert made.preset.words == 'maskclippp_alone'
  assert not made.preset.postprocessing.reject_void
  system = find_system('maskclippp')
  assert 'seen_weight' not in system.scores_of(made.preset.config)
  with pytest.raises(ValueError, match='no text tower of their own to name masks by'):
    cross(masks, clip, 'bias', {'seen_weight': 0.5})
  # SegCLIP has a text tower, and groups that say nothing of words.
  tiny_stages.random_bundle(tmp_path / 'groups', 'segclip_tiny')
  groups = cross(open_ingredient(tmp_path / 'groups'), clip, 'bias')
  assert groups.preset.config.proposal_words == ''
  assert groups.preset.words == 'maskclippp_alone'
  assert not any(path.startswith('proposals/clip/text/') for path in groups.parameters)
  # Its CLIP may name the masks of a segmenter that has words, too.
  made.save(tmp_path / 'alone')
  again = cross(open_ingredient(fcclip), open_ingredient(tmp_path / 'alone'))
  assert again.preset == cross(open_ingredient(fcclip), clip, 'bias').preset
  joint = dataclasses.replace(made.preset.config, proposal_words='fcclip')
  with pytest.raises(ValueError, match='no text tower by which it names its masks'):
    params.abstract_model('maskclippp', joint)


def test_a_clip_that_has_seen_no_masks_is_refused(tmp_path, fcclip):
  tiny_stages.random_bundle(tmp_path / 'eva', 'clip_eva02_tiny')
  models = open_ingredient(fcclip), open_ingredient(tmp_path / 'eva')
  with pytest.raises(
    ValueError, match=r'rule bias is not for .* take the CLIP of Mask'
  ):
    cross(*models, 'bias')
