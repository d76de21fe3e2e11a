"""ImageNet backbones under the names of torchvision and of detectron2."""

import json

import golden
import inventory
import numpy as np
import pytest

from maskclip_jax.checkpoints.backbone import read_backbone
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.mapping import resnet, rules


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
  with pytest.raises(ValueError, match='is a Mask2Former checkpoint, not a ResNet'):
    read_backbone(tmp_path / 'x.safetensors')
  names = ['layer1.0.conv1.weight', 'layer3.0.conv1.weight', 'layer3.1.conv1.weight']
  state = {name: np.zeros((1, 1, 1, 1), np.float32) for name in names}
  write_tensors(tmp_path / 'r18.safetensors', state)
  with pytest.raises(
    ValueError, match=r'has 2 blocks in its third stage: .* 50 or 101'
  ):
    read_backbone(tmp_path / 'r18.safetensors')
