"""FC-CLIP's official files to bundles and back: one file or two."""

import dataclasses

import fcclip_golden
import golden
import numpy as np
import pytest
import seeded

from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle, params, restore
from maskclip_jax.checkpoints.choice import Sources, choose_preset
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.detect import Checkpoint, detect
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping.rules import official_shapes
from maskclip_jax.systems.fcclip.adapter import MaskAdapterConfig
from maskclip_jax.systems.fcclip.checkpoint import rules
from maskclip_jax.systems.fcclip.model import FCCLIPConfig
from maskclip_jax.systems.system import find_system

_CLIP = 'backbone.clip_model.'
# Shapes do not tell how large the photos of a CLIP are, nor its heads.
PRESET = dataclasses.replace(
  zoo.find_preset('fcclip_convnext_large'), config=fcclip_golden.CONFIG
)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A whole file, its part that was trained, and the CLIP of both."""
  directory = tmp_path_factory.mktemp('official')
  whole = dict(golden.weights('fcclip'))
  whole['criterion.empty_weight'] = np.float32([1] * 5 + [0.1])
  clip = {k.removeprefix(_CLIP): a for k, a in whole.items() if k.startswith(_CLIP)}
  head = {k: a for k, a in whole.items() if not k.startswith(_CLIP)}
  paths = {}
  for name, arrays in {'whole': whole, 'head': head, 'clip': clip}.items():
    paths[name] = directory / f'{name}.safetensors'
    write_tensors(paths[name], arrays)
  return paths


def same_tensors(path, official):
  ours, theirs = TensorFile(path), TensorFile(official)
  assert ours.keys() == theirs.keys()
  for key, array in theirs.items():
    assert ours[key].tobytes() == array.tobytes(), key


def test_one_file_goes_there_and_back_byte_for_byte(files, tmp_path):
  report = convert_checkpoint(files['whole'], tmp_path / 'b', preset=PRESET)
  assert 'whole.safetensors: FC-CLIP, ' in str(report)
  model, preset, _ = restore.load_model(tmp_path / 'b')
  assert preset.config == fcclip_golden.CONFIG
  assert (preset.words, preset.training) == ('fcclip', 'coco-panoptic-133')
  recorded = params.flatten(fcclip_golden.model())
  for path, array in params.flatten(model).items():
    np.testing.assert_array_equal(array, recorded[path], err_msg=path)
  export_official(tmp_path / 'b', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', files['whole'])


def test_two_files_make_the_same_model(files, tmp_path):
  convert_checkpoint(files['whole'], tmp_path / 'one')
  convert_checkpoint(files['head'], tmp_path / 'two', clip=files['clip'])
  one, two = (bundle.load(tmp_path / name) for name in ('one', 'two'))
  assert one.fingerprint == two.fingerprint
  export_official(tmp_path / 'two', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', files['head'])


def test_what_a_descendant_trained_wins_over_open_clips_file(files, tmp_path):
  """Its trunk is its own, whatever the file of the text tower holds."""
  whole = {k: TensorFile(files['whole'])[k] for k in TensorFile(files['whole'])}
  text = ('token_embedding', 'transformer.', 'positional_', 'ln_final', 'text_proj')
  tuned = {
    k: a + 1 if k.endswith('.gamma') else a
    for k, a in whole.items()
    if not k.removeprefix(_CLIP).startswith((*text, 'logit_scale'))
  }
  write_tensors(tmp_path / 'tuned.safetensors', tuned)
  convert_checkpoint(tmp_path / 'tuned.safetensors', tmp_path / 'b', clip=files['clip'])
  flat = bundle.load(tmp_path / 'b').parameters
  np.testing.assert_array_equal(
    flat['clip/visual/trunk/res2/0/gamma'],
    whole[f'{_CLIP}visual.trunk.stages.0.blocks.0.gamma'] + 1,
  )
  export_official(tmp_path / 'b', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', tmp_path / 'tuned.safetensors')


def test_a_file_without_its_clip_is_refused(files, tmp_path):
  """The official loader only warns, and runs with random numbers."""
  with pytest.raises(ValueError, match=r'missing: backbone\.clip_model') as error:
    convert_checkpoint(files['head'], tmp_path / 'b')
  assert '--clip FILE (laion/CLIP-convnext_large_d_320' in str(error.value)
  assert not (tmp_path / 'b').exists()


def test_another_kind_of_clip_is_refused(files, tmp_path):
  write_tensors(tmp_path / 'vit.safetensors', golden.weights('clip'))
  match = 'holds a CLIP and a ConvNeXt-CLIP or a ResNet-CLIP is needed'
  with pytest.raises(ValueError, match=match):
    convert_checkpoint(files['head'], tmp_path / 'b', clip=tmp_path / 'vit.safetensors')


def test_maft_files_with_their_teacher(files, tmp_path):
  """The frozen teacher is left out and told; the transfer goes there and back."""
  state = dict(TensorFile(files['whole']).items())
  config = dataclasses.replace(
    fcclip_golden.CONFIG, transfer='panoptic', transfer_heads=4
  )
  model = params.flatten(params.abstract_model('fcclip', config))
  shapes = official_shapes(rules(), model)
  added = {key: shape for key, shape in shapes.items() if key.startswith('cdt.')}
  assert len(added) == 8
  state |= seeded.seeded_state_dict(added)
  write_tensors(tmp_path / 'student.safetensors', state)
  teacher = {f'backbone_t.{k[9:]}': a for k, a in state.items() if k.startswith(_CLIP)}
  write_tensors(tmp_path / 'x.safetensors', state | teacher)
  preset = dataclasses.replace(
    zoo.find_preset('maftp_convnext_large_panoptic'), config=config
  )
  report = convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b', preset=preset)
  told = f'left out {len(teacher)} tensors of backbone_t: a copy of CLIP'
  assert told in str(report)
  _, chosen, _ = restore.load_model(tmp_path / 'b')
  assert chosen == preset
  export_official(tmp_path / 'b', tmp_path / 'back.safetensors')
  same_tensors(tmp_path / 'back.safetensors', tmp_path / 'student.safetensors')


def test_ovrcoat_files_with_their_frozen_copy(files, tmp_path):
  """The CLIP that was trained wins over its copy, which is left out and told."""
  state = dict(TensorFile(files['whole']).items())
  copy = {f'frozen_{k}': a + 1 for k, a in state.items() if k.startswith(_CLIP)}
  write_tensors(tmp_path / 'x.safetensors', state | copy)
  report = convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b')
  told = f'left out {len(copy)} tensors of frozen_backbone: a copy of CLIP'
  assert told in str(report)
  convert_checkpoint(files['whole'], tmp_path / 'one')
  one, two = (bundle.load(tmp_path / name) for name in ('one', 'b'))
  assert one.fingerprint == two.fingerprint


def test_an_adapter_goes_there_and_back(files, tmp_path):
  """Its host beside it; sizes are the file's."""
  state = dict(TensorFile(files['whole']).items())
  config = dataclasses.replace(fcclip_golden.CONFIG, adapter=MaskAdapterConfig(24, 3))
  model = params.flatten(params.abstract_model('fcclip', config))
  shapes = official_shapes(rules(), model)
  added = {key: shape for key, shape in shapes.items() if 'mask_adapter.' in key}
  assert len(added) == 43
  state |= seeded.seeded_state_dict(added)
  write_tensors(tmp_path / 'x.safetensors', state)
  convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b')
  _, chosen, _ = restore.load_model(tmp_path / 'b')
  assert chosen.config.adapter == config.adapter
  export_official(tmp_path / 'b', tmp_path / 'back.safetensors')
  same_tensors(tmp_path / 'back.safetensors', tmp_path / 'x.safetensors')


@pytest.mark.parametrize(
  'name',
  [
    'fcclip_convnext_large',
    'maftp_convnext_base',
    'maftp_convnext_large',
    'maskadapter_fcclip_convnext_large',
    'maskadapter_maftp_convnext_large',
  ],
)
def test_published_sizes_are_recognised(tmp_path, name):
  """By shapes alone: the arrays take no memory."""
  preset = zoo.find_preset(name)
  model = params.flatten(params.abstract_model('fcclip', preset.config))
  number = np.zeros((), np.float32)
  arrays = {
    key: np.broadcast_to(number, shape)
    for key, shape in official_shapes(rules(), model).items()
  }
  main = Checkpoint(tmp_path, arrays, *detect(arrays, 'x'), rules())
  chosen, sized = choose_preset(Sources.of(main, None, find_system('fcclip')), None)
  assert (chosen, sized) == (name, preset)


def test_a_clip_alone(files, tmp_path):
  convert_checkpoint(files['clip'], tmp_path / 'clip')
  assert bundle.load(tmp_path / 'clip').config['system'] == 'convnext_clip'
  export_official(tmp_path / 'clip', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', files['clip'])
  convert_checkpoint(files['head'], tmp_path / 'b', clip=tmp_path / 'clip')
  convert_checkpoint(files['whole'], tmp_path / 'one', preset=PRESET)
  one, two = (bundle.load(tmp_path / name) for name in ('one', 'b'))
  assert one.fingerprint == two.fingerprint


def test_missing_and_unknown_tensors_are_listed(files, tmp_path):
  state = dict(TensorFile(files['whole']).items())
  del state['void_embedding.weight']
  state['backbone_t.extra'] = np.zeros(1, np.float32)
  state['frozen_backbone.clip_model.visual.extra'] = np.zeros(1, np.float32)
  write_tensors(tmp_path / 'x.safetensors', state)
  with pytest.raises(ValueError, match='2 unknown: backbone_t') as error:
    convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b')
  assert '1 missing: void_embedding.weight' in str(error.value)


def test_the_published_file_is_recognised_and_read_strictly():
  """By names and shapes alone: all 846 keys."""
  state = golden.full_size('fcclip')['state_dict']
  shapes = {key: tuple(row['shape']) for key, row in state.items()}
  assert detect(shapes, 'x') == ('fcclip', 'official')
  expected = params.flatten(params.abstract_model('fcclip', FCCLIPConfig()))
  ours = official_shapes(rules(), expected)
  assert shapes.pop('criterion.empty_weight') == (134,)
  assert ours == shapes
