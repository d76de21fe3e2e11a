"""ImageNet backbones under the names of torchvision and of detectron2."""

import json
import re

import golden
import inventory
import numpy as np
import pytest

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.backbone import read_backbone
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.mapping import resnet, rules, swin
from maskclip_jax.nn.resnet import ResNet
from maskclip_jax.nn.swin import Swin, SwinConfig
from maskclip_jax.train import config_files
from maskclip_jax.train.config import StartFrom
from maskclip_jax.train.starting import open_sources


@pytest.fixture(scope='module')
def backbone():
  """Random weights of a ResNet-50, by our paths."""
  rng = np.random.default_rng(0)
  return {
    path: rng.random(leaf.shape, np.float32)
    for path, leaf in inventory.parameters('proposals_r50').items()
    if path.startswith('backbone/')
  }


@pytest.mark.parametrize(
  ('layout', 'classifier'), [('torchvision', ''), ('detectron2', 'stem.')]
)
def test_both_layouts_give_the_parameters(tmp_path, backbone, layout, classifier):
  table = rules.prefixed(resnet.LAYOUTS[layout], ours='backbone/')
  official = rules.invert(backbone, table)
  official[f'{classifier}fc.weight'] = np.zeros((1000, 2048), np.float32)
  write_tensors(tmp_path / 'r50.safetensors', official)
  read = read_backbone(tmp_path / 'r50.safetensors')
  assert read.keys() == backbone.keys()
  for path, array in backbone.items():
    np.testing.assert_array_equal(read[path], array)


def test_torchvision_files_have_counters_too(tmp_path):
  layouts = json.loads((golden.ROOT / 'clip_layouts.json').read_text())
  state = {
    key: np.zeros(shape, np.int64 if key.endswith('tracked') else np.float32)
    for key, shape in layouts['torchvision']['shapes'].items()
  }
  write_tensors(tmp_path / 'r50.safetensors', state)
  assert len(read_backbone(tmp_path / 'r50.safetensors')) == 265


def test_other_checkpoints_and_depths_are_refused(tmp_path):
  write_tensors(tmp_path / 'x.safetensors', golden.weights('mask2former'))
  with pytest.raises(
    ValueError, match='is a Mask2Former checkpoint, not a ResNet or Swin'
  ):
    read_backbone(tmp_path / 'x.safetensors')
  names = ['layer1.0.conv1.weight', 'layer3.0.conv1.weight', 'layer3.1.conv1.weight']
  state = {name: np.zeros((1, 1, 1, 1), np.float32) for name in names}
  write_tensors(tmp_path / 'r18.safetensors', state)
  with pytest.raises(
    ValueError, match=r'has 2 blocks in its third stage: .* 50 or 101'
  ):
    read_backbone(tmp_path / 'r18.safetensors')


def test_a_swin_classifier_gives_all_but_the_norms_of_the_stages(tmp_path):
  config = SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 5)
  model = params.abstract(lambda: Swin(config, rngs=params.ConstantRngs()))
  rng = np.random.default_rng(0)
  expected = {
    f'backbone/{path}': rng.random(leaf.shape, np.float32)
    for path, leaf in params.flatten(model).items()
    if not re.match(r'norm\d/', path)
  }
  official = rules.invert(expected, rules.prefixed(swin.CLASSIFIER, ours='backbone/'))
  index = np.zeros((25, 25), np.int64)
  official |= {
    'layers.0.blocks.0.attn.relative_position_index': index,
    'layers.0.blocks.1.attn_mask': np.zeros((4, 25, 25), np.float32),
    'norm.weight': np.zeros(128, np.float32),
    'head.bias': np.zeros(21841, np.float32),
  }
  write_tensors(tmp_path / 'swin.safetensors', official)
  read = read_backbone(tmp_path / 'swin.safetensors')
  assert read.keys() == expected.keys()
  for path, array in expected.items():
    np.testing.assert_array_equal(read[path], array)
  del official['layers.2.downsample.norm.bias']
  write_tensors(tmp_path / 'cut.safetensors', official)
  with pytest.raises(ValueError, match=r'layers\.2\.downsample\.norm\.bias'):
    read_backbone(tmp_path / 'cut.safetensors')


def test_the_stem_of_deeplab(tmp_path):
  model = params.abstract(lambda: ResNet(101, deeplab=True, rngs=params.ConstantRngs()))
  expected = {
    f'backbone/{path}': np.ones(leaf.shape, np.float32)
    for path, leaf in params.flatten(model).items()
  }
  table = rules.prefixed(resnet.DETECTRON2, ours='backbone/')
  write_tensors(tmp_path / 'r103.safetensors', rules.invert(expected, table))
  assert read_backbone(tmp_path / 'r103.safetensors').keys() == expected.keys()


def test_transformers_files_give_the_parameters(tmp_path, backbone):
  table = rules.prefixed(resnet.LAYOUTS['hugging_face'], ours='backbone/')
  official = rules.invert(backbone, table)
  official['classifier.1.weight'] = np.zeros((1000, 2048), np.float32)
  write_tensors(tmp_path / 'model.safetensors', official)
  (tmp_path / 'config.json').write_text('{"model_type": "resnet"}')
  read = read_backbone(tmp_path)
  assert read.keys() == backbone.keys()
  for path, array in backbone.items():
    np.testing.assert_array_equal(read[path], array)
  config = SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 5)
  model = params.abstract(lambda: Swin(config, rngs=params.ConstantRngs()))
  expected = {
    f'backbone/{path}': np.ones(leaf.shape, np.float32)
    for path, leaf in params.flatten(model).items()
    if not re.match(r'norm\d/', path)
  }
  table = rules.prefixed(swin.HUGGING_FACE_CLASSIFIER, ours='backbone/')
  official = rules.invert(expected, table)
  official['swin.layernorm.weight'] = np.zeros(128, np.float32)
  write_tensors(tmp_path / 'swin.safetensors', official)
  assert read_backbone(tmp_path / 'swin.safetensors').keys() == expected.keys()


@pytest.mark.parametrize(
  ('file', 'content', 'words'),
  [
    (
      'config.json',
      {'pretrained_cfg': {'mean': [0.5] * 3, 'std': [0.229, 0.224, 0.225]}},
      r'saw pixels of mean \[0\.5, 0\.5, 0\.5\]',
    ),
    ('preprocessor_config.json', {'image_std': [1, 1, 1]}, 'saw pixels of deviation'),
    ('config.json', {'downsample_in_bottleneck': True}, 'its strides are elsewhere'),
    ('config.json', {'pretrained_cfg': {'mean': [0.485, 0.456, 0.406]}}, None),
  ],
)
def test_weights_that_saw_other_pixels_are_refused(
  tmp_path, backbone, file, content, words
):
  table = rules.prefixed(resnet.TORCHVISION, ours='backbone/')
  write_tensors(tmp_path / 'model.safetensors', rules.invert(backbone, table))
  (tmp_path / file).write_text(json.dumps(content))
  if words is None:
    assert read_backbone(tmp_path).keys() == backbone.keys()
    return
  with pytest.raises(ValueError, match=words) as error:
    read_backbone(tmp_path)
  assert str(tmp_path / file) in str(error.value)
  assert '\n' not in str(error.value)


def test_training_starts_from_the_folder_of_a_repository(tmp_path, backbone):
  table = rules.prefixed(resnet.TORCHVISION, ours='backbone/')
  write_tensors(tmp_path / 'model.safetensors', rules.invert(backbone, table))
  (tmp_path / 'config.json').write_text('{"architecture": "resnet50"}')
  start = StartFrom(str(tmp_path), 'backbone', 'proposals/backbone')
  (source,) = open_sources([start])
  assert set(source) == {f'proposals/{path}' for path in backbone}


def test_what_a_swin_classifier_lacks_is_drawn_in_the_config():
  config = config_files.load('mask2former:backbone=swin_t', [])
  assert config['preset'] == 'mask2former_swin_t_coco_panoptic'
  (kept,) = config['start']['backbone']['keep_random']
  paths = inventory.parameters(config['preset'])
  drawn = {p for p in paths if re.fullmatch(kept, p)}
  names = ('scale', 'bias')
  assert drawn == {f'backbone/norm{n}/{name}' for n in (2, 3, 4, 5) for name in names}
  with pytest.raises(ValueError, match='backbone must be one of r50, swin_t'):
    config_files.load('mask2former:backbone=vgg', [])
