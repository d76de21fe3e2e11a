"""OVSeg's files to bundles and back, and the CLIPs that were tuned on masked crops."""

import dataclasses

import golden
import numpy as np
import ovseg_golden
import pytest

from maskclip_jax.checkpoints import bundle, detect, params, restore
from maskclip_jax.checkpoints.choice import Sources, choose_preset
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping.rules import official_shapes
from maskclip_jax.systems.ovseg import checkpoint
from maskclip_jax.systems.ovseg.maskformer import DeepLabConfig, MaskFormerConfig
from maskclip_jax.systems.ovseg.model import OVSegConfig
from maskclip_jax.systems.ovseg.presets import PRESETS
from maskclip_jax.systems.system import find_system

PREFIX = 'clip_adapter.clip_model.'
PRESET = dataclasses.replace(PRESETS['ovseg_tiny'], config=ovseg_golden.CONFIG)
PROMPTS = 'visual.mask_embedding'


def own_clip() -> dict[str, np.ndarray]:
  """The CLIP inside the recorded OVSeg, in OpenAI's layout, prompts included."""
  weights = golden.weights('ovseg')
  return {k.removeprefix(PREFIX): a for k, a in weights.items() if k.startswith(PREFIX)}


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  """The recorded checkpoint as a file."""
  path = tmp_path_factory.mktemp('official') / 'ovseg.safetensors'
  write_tensors(path, golden.weights('ovseg'))
  return path


@pytest.fixture(scope='module')
def converted(file):
  directory = file.parent / 'bundle'
  return directory, convert_checkpoint(file, directory, preset=PRESET)


def same_tensors(path, official):
  back = TensorFile(path)
  assert back.keys() == official.keys()
  for key, array in official.items():
    assert back[key].dtype == array.dtype, key
    assert back[key].shape == array.shape, key
    assert back[key].tobytes() == array.tobytes(), key


def test_one_file_makes_a_model_and_comes_back_byte_for_byte(converted, tmp_path):
  directory, report = converted
  model, preset, opened = restore.load_model(directory)
  assert preset == PRESET
  assert model.config == ovseg_golden.CONFIG
  assert opened.source['criterion_classes'] == 7
  assert 'ovseg.safetensors: OVSeg, 316 tensors' in str(report)
  assert (
    'CC BY-NC 4.0 (the authors of OVSeg)' in (directory / 'MODEL_CARD.md').read_text()
  )
  export_official(directory, tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', golden.weights('ovseg'))


def test_pytorch_files_come_back(converted, tmp_path):
  torch = pytest.importorskip('torch')
  export_official(converted[0], tmp_path / 'x.pth')
  content = torch.load(tmp_path / 'x.pth', weights_only=True)
  assert list(content) == ['model']
  convert_checkpoint(tmp_path / 'x.pth', tmp_path / 'b', preset=PRESET)
  first = bundle.load(converted[0]).fingerprint
  assert bundle.load(tmp_path / 'b').fingerprint == first


def published(config: OVSegConfig) -> dict[str, tuple[int, ...]]:
  """Official key -> shape of a file of some sizes, without constants."""
  from maskclip_jax.checkpoints.params import flatten

  model = params.abstract_model('ovseg', config)
  return official_shapes(checkpoint.rules(), flatten(model))


def test_the_published_swin_has_exactly_the_recorded_tensors():
  record = golden.full_size('ovseg')['state_dict']
  constants = ('relative_position_index', 'pixel_mean', 'pixel_std', 'empty_weight')
  theirs = {
    key: tuple(row['shape'])
    for key, row in record.items()
    if not key.endswith(constants)
  }
  assert published(PRESETS['ovseg_swin_b_vit_l14'].config) == theirs


def test_the_published_residual_network_has_the_tensors_of_the_specification():
  """530 of the backbone, 147 of the heads less the buffer of the loss, and 306 of the
  adapter less its two buffers [ovseg 1.8]."""
  shapes = published(PRESETS['ovseg_r101c_vit_b16'].config)
  assert len(shapes) == 983 - 3
  assert sum(key.startswith('backbone.') for key in shapes) == 530
  assert shapes['sem_seg_head.pixel_decoder.layer_4.weight'] == (256, 2048, 3, 3)
  assert shapes[PREFIX + PROMPTS] == (3, 196, 768)
  assert shapes['sem_seg_head.predictor.class_embed.layers.1.weight'] == (512, 1024)


@pytest.mark.parametrize('preset', ['ovseg_swin_b_vit_l14', 'ovseg_r101c_vit_b16'])
@pytest.mark.parametrize('prompts', [True, False])
def test_published_files_are_recognised(tmp_path, preset, prompts):
  """By shapes alone: the arrays take no memory. A file without prompts is one whose
  CLIP was only fine-tuned, or not at all."""
  shapes = published(PRESETS[preset].config)
  number = np.zeros((), np.float32)
  arrays = {
    key: np.broadcast_to(number, shape)
    for key, shape in shapes.items()
    if prompts or key != PREFIX + PROMPTS
  }
  kind, layout = detect.detect(arrays, 'x')
  assert kind == 'ovseg'
  main = detect.Checkpoint(tmp_path, arrays, kind, layout, checkpoint.rules())
  sources = Sources.of(main, None, find_system('ovseg'))
  chosen, sized = choose_preset(sources, None)
  if prompts:
    assert chosen == preset
    assert sized == PRESETS[preset]
  else:
    assert chosen.startswith('ovseg of its own sizes')
    assert sized.config.clip.prompt_depth == 0
    assert sized.config.proposals == PRESETS[preset].config.proposals


def test_the_adapted_clip_comes_out(file, tmp_path):
  report = convert_checkpoint(file, tmp_path / 'clip', system='clip')
  assert 'took the CLIP out of ovseg.safetensors' in str(report)
  config = bundle.load(tmp_path / 'clip').config['config']
  assert config['prompt_depth'] == 3
  assert config['activation'] == 'quick_gelu'
  export_official(tmp_path / 'clip', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', own_clip())
  export_official(tmp_path / 'clip', tmp_path / 'y.safetensors', layout='mask_prompts')
  same_tensors(tmp_path / 'y.safetensors', {PROMPTS: own_clip()[PROMPTS]})


def tuned(**changes) -> dict[str, np.ndarray]:
  """A CLIP tuned on crops, as open_clip saves it: its text tower is as it was."""
  arrays = own_clip() | {'visual.proj': own_clip()['visual.proj'] * 2} | changes
  return {f'module.{key}': array for key, array in arrays.items() if array is not None}


def assemble(file, tmp_path, arrays):
  """The recorded OVSeg with a CLIP, or a part of one, from another file."""
  write_tensors(tmp_path / 'tuned.safetensors', arrays)
  to = tmp_path / 'b'
  convert_checkpoint(file, to, preset=PRESET, clip=tmp_path / 'tuned.safetensors')
  return bundle.load(to)


def test_a_tuned_clip_takes_the_place_of_the_one_inside(file, converted, tmp_path):
  """How the released models were assembled [ovseg 1.8]."""
  arrays = tuned()
  opened, before = assemble(file, tmp_path, arrays), bundle.load(converted[0])
  np.testing.assert_array_equal(
    opened.parameters['clip/visual/proj/kernel'], arrays['module.visual.proj']
  )
  for path in ('non_object_embedding', 'proposals/predictor/query_embed/embedding'):
    np.testing.assert_array_equal(opened.parameters[path], before.parameters[path])


def test_prompts_alone_replace_prompts_only(file, converted, tmp_path):
  prompts = own_clip()[PROMPTS] + 1
  opened = assemble(file, tmp_path, {PROMPTS: prompts})
  before = bundle.load(converted[0])
  for path, array in opened.parameters.items():
    expected = (
      prompts if path == 'clip/visual/mask_prompts' else before.parameters[path]
    )
    np.testing.assert_array_equal(array, expected)


def refused(match, file, tmp_path, arrays):
  with pytest.raises(ValueError, match=match) as error:
    assemble(file, tmp_path, arrays)
  assert not (tmp_path / 'b').exists()
  return str(error.value)


def test_a_clip_with_other_words_is_refused(file, tmp_path):
  other = tuned(text_projection=own_clip()['text_projection'][::-1])
  refused('their text towers differ', file, tmp_path, other)


def test_prompts_of_another_clip_are_refused(file, tmp_path):
  message = refused(
    r'does not fit|misshapen', file, tmp_path, {PROMPTS: np.zeros((3, 16, 128), 'f4')}
  )
  assert '3x16x128, expected 3x49x128' in message


def test_a_clip_without_prompts_leaves_none(file, tmp_path):
  """Fine-tuned CLIPs have none; those inside belong to another image tower."""
  write_tensors(tmp_path / 'tuned.safetensors', tuned(**{PROMPTS: None}))
  bare = dataclasses.replace(ovseg_golden.CONFIG.clip, prompt_depth=0)
  preset = dataclasses.replace(
    PRESET, config=dataclasses.replace(ovseg_golden.CONFIG, clip=bare)
  )
  clip = tmp_path / 'tuned.safetensors'
  convert_checkpoint(file, tmp_path / 'b', preset=preset, clip=clip)
  assert 'clip/visual/mask_prompts' not in bundle.load(tmp_path / 'b').parameters


def test_missing_and_unknown_tensors_are_listed(tmp_path):
  weights = dict(golden.weights('ovseg'))
  del weights['sem_seg_head.predictor.query_embed.weight']
  weights['sem_seg_head.predictor.extra'] = np.zeros(1, np.float32)
  write_tensors(tmp_path / 'x.safetensors', weights)
  with pytest.raises(ValueError, match=r'1 unknown: sem_seg_head\.predictor\.extra'):
    convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b', preset=PRESET)


def test_a_backbone_has_its_own_sizes():
  """A residual network of another size is read off the file."""
  small = MaskFormerConfig(
    swin=None, deeplab=DeepLabConfig(26, 8, 16), hidden=64, queries=10, decoder_layers=2
  )
  config = dataclasses.replace(ovseg_golden.CONFIG, proposals=small)
  shapes = published(config)
  main = detect.Checkpoint(
    'x',
    {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()},
    'ovseg',
    'official',
    checkpoint.rules(),
  )
  found = Sources.of(main, None, find_system('ovseg')).found()
  sized = checkpoint.sized(PRESETS['ovseg_swin_b_vit_l14'].config, found)
  assert sized.proposals.swin is None
  assert sized.proposals.deeplab == small.deeplab
  assert sized.proposals.hidden == 64
  assert sized.proposals.queries == 10
