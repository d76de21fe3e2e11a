"""FC-CLIP on CLIP's ResNet against the official code [fcclip 2.5]."""

import dataclasses
import functools

import fcclip_golden
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import bundle, restore
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.nn.clip_resnet import RESNET_CLIP_SIZES, STAGES, ResNetCLIPConfig
from maskclip_jax.systems.fcclip.model import FCCLIP, SCORES, FCCLIPConfig

CONFIG = dataclasses.replace(fcclip_golden.CONFIG, clip=RESNET_CLIP_SIZES['rn_tiny'])
# A mask without a place in CLIP's map is left to the trained classifier [fcclip 6.4].
RULE = dataclasses.replace(SCORES, skip_empty=True)
_CLIP = 'backbone.clip_model.'


def recorded(name: str) -> np.ndarray:
  return golden.load('fcclip_rn')[name]


@functools.cache
def model() -> FCCLIP:
  return fcclip_golden.load(CONFIG, golden.weights('fcclip_rn'))


@functools.cache
def program():
  graphdef, state = nnx.split(model())

  @jax.jit
  def run(state, images, text):
    network = nnx.merge(graphdef, state)
    features = network.features(images)
    found = network.propose(images, features, text)
    clip = network.pool(images, features['res5'], found.mask_logits, found.mask_hw)
    return features, found, clip, network(images, text, RULE)

  return run, state


def outputs(bank: np.ndarray, canvas=None, bias: np.ndarray | None = None):
  run, state = program()
  if bias is not None:
    state = jax.tree.map(lambda leaf: leaf, state)
    state['pixel_decoder']['mask_features']['bias'].set_value(jnp.asarray(bias))
  return run(state, fcclip_golden.images(canvas), fcclip_golden.bank(bank))


@pytest.mark.slow
@pytest.mark.parametrize('canvas', [None, (128, 192)])
def test_every_stage_is_the_official_one(canvas):
  """Also on a larger canvas, whose rest nothing must see."""
  features, found, clip, joint = outputs(recorded('out/rn/text_bank'), canvas)
  for name in ('res3', 'res4', 'res5'):
    stride = STAGES[name]
    ours = jnp.moveaxis(features[name][:, : 96 // stride, : 128 // stride], -1, 1)
    golden.assert_close(ours, recorded(f'out/rn/backbone/{name}'), name=name)
  masks = found.mask_logits[:1, :, :24, :32]
  golden.assert_close(masks, recorded('out/rn/pred_masks'), name='masks')
  logits = found.class_logits[..., :8]
  golden.assert_close(logits, recorded('out/rn/pred_logits'), name='logits')
  vectors = recorded('out/rn/clip_pooled_embedding')
  golden.assert_close(clip.vectors, vectors, name='vectors of masks')
  joint = joint.class_logits[..., :8]
  golden.assert_close(joint, recorded('out/rn/ensemble_log'), name='joint')


@pytest.mark.slow
def test_masks_without_a_place():
  """They get the bias of the output layer, and count for nothing."""
  bank, bias = (
    golden.load('fcclip')['in/crafted_bank'],
    'in/rn_empty/mask_features.bias',
  )
  _, _, clip, joint = outputs(bank, bias=recorded(bias))
  empty = ~recorded('out/rn_empty/pool_mask').any((-2, -1))
  assert empty.any()
  np.testing.assert_array_equal(clip.empty, empty)
  vectors = recorded('out/rn_empty/clip_pooled_embedding')
  golden.assert_close(clip.vectors, vectors, name='vectors of masks')
  joint = joint.class_logits[..., :8]
  golden.assert_close(joint, recorded('out/rn_empty/ensemble_log'), name='joint')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """The trained part and the CLIP, each a file of its own."""
  folder, whole = tmp_path_factory.mktemp('official'), golden.weights('fcclip_rn')
  whole = {k: a for k, a in whole.items() if 'num_batches' not in k}
  clip = {k.removeprefix(_CLIP): a for k, a in whole.items() if k.startswith(_CLIP)}
  head = {k: a for k, a in whole.items() if not k.startswith(_CLIP)}
  for name, arrays in {'whole': whole, 'head': head, 'clip': clip}.items():
    write_tensors(folder / f'{name}.safetensors', arrays)
  return folder


def test_one_file_or_two_become_the_same_model_and_go_back(files, tmp_path):
  convert_checkpoint(files / 'whole.safetensors', tmp_path / 'one')
  convert_checkpoint(
    files / 'head.safetensors', tmp_path / 'two', clip=files / 'clip.safetensors'
  )
  one, two = (bundle.load(tmp_path / name) for name in ('one', 'two'))
  assert one.fingerprint == two.fingerprint
  config = restore.read_preset(one).config
  assert isinstance(config, FCCLIPConfig)
  assert isinstance(config.clip, ResNetCLIPConfig)
  assert config == CONFIG
  export_official(tmp_path / 'two', tmp_path / 'x.safetensors')
  ours = TensorFile(tmp_path / 'x.safetensors')
  theirs = TensorFile(files / 'head.safetensors')
  assert set(theirs) <= set(ours)
  for key in theirs:
    assert ours[key].tobytes() == theirs[key].tobytes(), key


def test_words_that_see_the_photo_need_a_convnext():
  with pytest.raises(ValueError, match='need a CLIP with a ConvNeXt'):
    dataclasses.replace(CONFIG, transfer='semantic')
