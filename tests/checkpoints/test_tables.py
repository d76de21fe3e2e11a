"""The tables against real key lists: published sizes, and models of the libraries."""

import functools
import json
import math

import golden
import inventory
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from flax import nnx
from mask2former_golden import CONFIG
from segclip_golden import SMALL as SEGCLIP

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping import resnet, rules
from maskclip_jax.nn.clip import CLIP, CLIP_SIZES, CLIPConfig
from maskclip_jax.nn.resnet import ResNet
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.mask2former import checkpoint as mask2former
from maskclip_jax.systems.mask2former.model import Mask2Former, Mask2FormerConfig
from maskclip_jax.systems.maskclip import checkpoint as maskclip
from maskclip_jax.systems.maskclip.model import MaskCLIP, MaskCLIPConfig
from maskclip_jax.systems.masqclip import checkpoint as masqclip
from maskclip_jax.systems.masqclip.model import MasQCLIP, MasQCLIPConfig
from maskclip_jax.systems.segclip import checkpoint as segclip
from maskclip_jax.systems.segclip.model import SegCLIP
from maskclip_jax.systems.system import find_system

LAYOUTS = json.loads((golden.ROOT / 'clip_layouts.json').read_text())
TINY_CLIP = CLIPConfig(32, 64, 16, 128, 3, 2, 64, 3, 1, vocab_size=512)


def shapes_of(model_class, *config) -> dict:
  """Path -> shape and type of a model."""
  rngs = params.ConstantRngs()
  return params.flatten(params.abstract(lambda: model_class(*config, rngs=rngs)))


def in_official_files(system: str, flat: dict) -> dict:
  """What official files of a system hold."""
  left_out = find_system(system).format.left_out
  return {path: leaf for path, leaf in flat.items() if not path.startswith(left_out)}


def official(system: str, entry: str | None = None) -> dict[str, tuple[int, ...]]:
  """Official key -> shape of a published model, without what is not published."""
  record = golden.full_size(system)
  state_dict = (record[entry] if entry else record)['state_dict']
  return {
    key: tuple(row['shape'])
    for key, row in state_dict.items()
    if not key.startswith(('criterion.', 'seq_mae_decoder.'))
  }


FULL_SIZE = {
  'ViT-L/14@336px': ('clip', 'clip_vit_l14_336', clip.OPENAI),
  'ViT-L/14': ('clip', 'clip_vit_l14', clip.OPENAI),
  'ViT-B/16': ('clip', 'clip_vit_b16', clip.OPENAI),
  'Mask2Former': ('mask2former', 'proposals_r50', mask2former.RULES),
  'MaskCLIP': ('maskclip', 'maskclip_r50_vit_l14_336', maskclip.rules()),
  'MasQCLIP': ('masqclip', 'masqclip_r50_vit_l14_336', masqclip.rules()),
  'SegCLIP': ('segclip', 'segclip_vit_b16', segclip.rules()),
}


@pytest.mark.parametrize('name', FULL_SIZE)
def test_published_models_have_exactly_the_official_tensors(name):
  system, preset, table = FULL_SIZE[name]
  theirs = official(system, name if system == 'clip' else None)
  ours = in_official_files(system, inventory.parameters(preset))
  assert rules.official_shapes(table, ours) == theirs


@pytest.mark.parametrize('name', FULL_SIZE)
def test_published_shapes_convert(name):
  """Arrays without memory of their own: every element is the same number."""
  system, preset, table = FULL_SIZE[name]
  theirs = official(system, name if system == 'clip' else None)
  ours = in_official_files(system, inventory.parameters(preset))
  number = np.zeros((), np.float32)
  state_dict = {key: np.broadcast_to(number, shape) for key, shape in theirs.items()}
  flat = rules.convert(state_dict, table, ours)
  assert {p: a.shape for p, a in flat.items()} == {p: x.shape for p, x in ours.items()}


def test_the_published_segclip_has_415_tensors():
  """Counted in the specification from the code [segclip 1.9]."""
  theirs = official('segclip')
  counts = [math.prod(shape) for shape in theirs.values()]
  assert (len(theirs), sum(counts)) == (415, 188_799_561)
  flat = inventory.parameters('segclip_vit_b16')
  assert params.count(flat, 'clip/.*') == 149_620_737
  assert params.count(flat, 'grouping/.*') == 19_011_840


GOLDENS = {
  'clip': (clip.OPENAI, CLIP, CLIP_SIZES['vit_tiny']),
  'mask2former': (mask2former.RULES, Mask2Former, CONFIG),
  'masqclip': (
    masqclip.rules(classes=7),
    MasQCLIP,
    MasQCLIPConfig(CONFIG, CLIP_SIZES['vit_tiny']),
  ),
  'maskclip': (
    maskclip.rules(classes=7),
    MaskCLIP,
    MaskCLIPConfig(
      Mask2FormerConfig(
        num_classes=None,
        stem=8,
        width=16,
        hidden=64,
        mask_dim=48,
        heads=4,
        encoder_layers=1,
        decoder_layers=1,
        decoder_ffn=64,
      ),
      CLIPConfig(32, 32, 8, 64, 24, 2, 64, 3, 1),
    ),
  ),
  'segclip': (segclip.rules(), SegCLIP, SEGCLIP),
}


@pytest.mark.parametrize('system', GOLDENS)
def test_recorded_weights_survive_the_round_trip_byte_for_byte(system):
  table, model_class, config = GOLDENS[system]
  theirs = dict(golden.weights(system))
  if system == 'mask2former':
    # In the recording this buffer holds seeded numbers; in a real file, constants.
    theirs['criterion.empty_weight'] = np.float32([1, 0.1])
  ours = in_official_files(system, shapes_of(model_class, config))
  flat = rules.convert(theirs, table, ours)
  back = rules.invert(flat, table)
  assert back.keys() == theirs.keys()
  for key, array in theirs.items():
    assert back[key].dtype == array.dtype, key
    assert back[key].shape == array.shape, key
    assert back[key].tobytes() == array.tobytes(), key


@functools.cache
def layout_shapes(layout: str) -> dict[str, tuple[int, ...]]:
  return {key: tuple(shape) for key, shape in LAYOUTS[layout]['shapes'].items()}


def seeded_state(layout: str) -> dict[str, np.ndarray]:
  return {k: seeded.seeded_array(k, s) for k, s in layout_shapes(layout).items()}


@pytest.mark.parametrize('layout', ['openai', 'open_clip_custom', 'hugging_face'])
def test_libraries_use_the_names_of_the_table(layout):
  ours = shapes_of(CLIP, TINY_CLIP)
  assert rules.official_shapes(clip.LAYOUTS[layout], ours) == layout_shapes(layout)
  assert clip.FORMAT.layout_of(layout_shapes(layout)) == layout


@functools.cache
def clip_features():
  """The compiled towers of the tiny CLIP, for any weights."""
  model = params.abstract(lambda: CLIP(TINY_CLIP, rngs=params.ConstantRngs()))

  @nnx.jit
  def features(module, pixels, tokens):
    return module.visual(pixels), module.text(tokens)

  return model, features


@pytest.mark.parametrize('layout', ['openai', 'open_clip_custom', 'hugging_face'])
def test_libraries_compute_the_same_features(layout):
  """Recorded from the libraries themselves; tolerance as for all parity tests."""
  rng = np.random.default_rng(0)
  pixels = rng.standard_normal((2, 64, 64, 3), np.float32)
  tokens = rng.integers(1, 511, (3, 77))
  tokens[:, 0] = 510
  for row, end in zip(tokens, (5, 30, 76), strict=True):
    row[end], row[end + 1 :] = 511, 0
  model, features = clip_features()
  flat = rules.convert(
    seeded_state(layout), clip.LAYOUTS[layout], params.flatten(model)
  )
  image, text = features(
    params.load_into(model, flat), jnp.asarray(pixels), jnp.asarray(tokens)
  )
  record = LAYOUTS[layout]
  golden.assert_close(image, record['image_features'], name=f'{layout} image')
  golden.assert_close(text, record['text_features'], name=f'{layout} text')


@pytest.mark.parametrize('layout', list(clip.LAYOUTS))
def test_every_layout_holds_the_same_clip(layout):
  table, expected = clip.LAYOUTS[layout], shapes_of(CLIP, TINY_CLIP)
  flat = rules.convert(seeded_state('openai'), clip.OPENAI, expected)
  again = rules.convert(rules.invert(flat, table), table, expected)
  assert again.keys() == flat.keys()
  for path, array in flat.items():
    np.testing.assert_array_equal(again[path], array)


def test_extra_keys_of_published_clip_files_are_ignored():
  expected = shapes_of(CLIP, TINY_CLIP)
  state = seeded_state('openai')
  extra = ('input_resolution', 'context_length', 'vocab_size')
  rules.convert(state | {key: np.int64(1) for key in extra}, clip.OPENAI, expected)
  state = seeded_state('hugging_face')
  for tower in ('text', 'vision'):
    state[f'{tower}_model.embeddings.position_ids'] = np.arange(77)[None]
  rules.convert(state, clip.HUGGING_FACE, expected)


def test_scenic_keeps_heads_as_its_converter_does():
  """projects/baselines/clip: (3, heads, depth, width) -> (3, width, heads, depth)."""
  expected, state = shapes_of(CLIP, TINY_CLIP), seeded_state('openai')
  flat = rules.convert(state, clip.OPENAI, expected)
  scenic = rules.invert(flat, clip.SCENIC)
  packed = state['visual.transformer.resblocks.2.attn.in_proj_weight']
  packed = packed.reshape(3, 2, 64, 128).transpose(0, 3, 1, 2)
  attention = 'params/visual/transformer/resblocks.2/attn'
  for index, role in enumerate(('query', 'key', 'value')):
    np.testing.assert_array_equal(scenic[f'{attention}/{role}/kernel'], packed[index])
  out = state['visual.transformer.resblocks.2.attn.out_proj.weight']
  np.testing.assert_array_equal(
    scenic[f'{attention}/out/kernel'], out.T.reshape(2, 64, 128)
  )
  bare = {key.removeprefix('params/'): array for key, array in scenic.items()}
  assert rules.convert(bare, clip.SCENIC, expected).keys() == flat.keys()


def test_torchvision_names():
  shapes = layout_shapes('torchvision')
  ours = shapes_of(ResNet, 50)
  theirs = rules.official_shapes(resnet.TORCHVISION, ours)
  dropped = {key for key in shapes if key not in theirs}
  assert all(k.startswith('fc.') or k.endswith('num_batches_tracked') for k in dropped)
  assert {key: shapes[key] for key in theirs} == theirs
  zeros = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
  assert rules.convert(zeros, resnet.TORCHVISION, ours).keys() == ours.keys()


def test_torchvision_and_detectron2_agree():
  """One network, renamed by the rule that detectron2 documents [masqclip 2.2]."""
  ours = shapes_of(ResNet, 50)
  names = rules.official_shapes(resnet.TORCHVISION, ours)
  renamed = {}
  for key, shape in names.items():
    new = key if key.startswith('layer') else f'stem.{key}'
    for n in (1, 2, 3, 4):
      new = new.replace(f'layer{n}', f'res{n + 1}').replace(f'bn{n}', f'conv{n}.norm')
    new = new.replace('downsample.0', 'shortcut').replace(
      'downsample.1', 'shortcut.norm'
    )
    renamed[new] = shape
  assert rules.official_shapes(resnet.DETECTRON2, ours) == renamed


def test_the_old_name_of_the_queries_is_understood():
  expected = shapes_of(Mask2Former, CONFIG)
  state = dict(golden.weights('mask2former'))
  old = 'sem_seg_head.predictor.static_query.weight'
  state[old] = state.pop('sem_seg_head.predictor.query_feat.weight')
  flat = rules.convert(state, mask2former.RULES, expected)
  np.testing.assert_array_equal(flat['predictor/query_feat/embedding'], state[old])


def test_blocks_with_relative_mask_attention_are_told_by_their_keys():
  assert maskclip.rma_blocks(golden.weights('maskclip')) == (5, 11, 17, 23)
  assert maskclip.rma_blocks(golden.weights('masqclip')) == ()
