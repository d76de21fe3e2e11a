"""MaskCLIP against the official code, and the identities its parts must satisfy."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.nn.clip import CLIP_SIZES, unit
from maskclip_jax.ops.resize import resize
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.maskclip.model import (
  MaskCLIPConfig,
  RelativeMaskAttention,
)
from maskclip_jax.text import tokenizer
from maskclip_jax.text.category import Category
from maskclip_jax.text.vocabulary import Vocabulary

STAGES = ('refined0', 'refined1', 'refined2', 'refined3_final')


@functools.cache
def module_case():
  g = golden.load('maskclip')
  pixels = jnp.moveaxis(jnp.asarray(g['in/module/x']), 1, -1)
  bank = TextBank.build(g['in/txt_embed_train'], [True] * 7, void_last=True)
  return g, pixels, jnp.asarray(g['in/module/masks']), bank


def encode(model, pixels, masks):
  return official.run(model, pixels, masks, method='encode_squares')


def test_every_refined_mask_and_the_logits():
  g, pixels, masks, bank = module_case()
  vectors, refined = encode(official.small('maskclip'), pixels, masks)
  for stage, mask in zip(STAGES, refined, strict=True):
    golden.assert_close(mask, g[f'out/module/{stage}'], name=stage)
  logits = regions.class_similarity(vectors, bank)
  golden.assert_close(logits[..., :8], g['out/module/pred_logits'], name='logits')


def test_mask_features():
  g, _, masks, _ = module_case()
  features = official.small('maskclip').rma[0].mask_features(masks[0, :8])
  recorded = g['out/module/mask_embed_conv0'].reshape(8, 64, 16).swapaxes(1, 2)
  golden.assert_close(features, recorded, name='mask features')


@pytest.mark.parametrize(
  'canvas', [(128, 160), pytest.param((192, 160), marks=pytest.mark.slow)]
)
def test_photo_to_masks_and_logits(canvas):
  """The recording was made with a torchvision that antialiases."""
  g = golden.load('maskclip')
  config = dataclasses.replace(official.SMALL['maskclip'], antialias=True)
  flat = params.flatten(official.small('maskclip'))
  model = params.load_into(params.abstract_model('maskclip', config), flat)
  images = Images.from_arrays([g['in/eval/img_uint8']], canvas)
  padding = config.proposals.pixel_mean
  pixels = regions.squash_photos(images, config.clip, padding, 'bicubic_antialiased')
  recorded = np.moveaxis(g['out/eval/images_clip'], 1, -1)
  golden.assert_close(pixels, recorded, name='what CLIP sees')
  crafted = TextBank.build(g['in/txt_embed_crafted'], [True] * 7, void_last=True)
  found = official.run(model, images, crafted)
  golden.assert_close(found.mask_logits, g['out/eval/pred_masks'], name='masks')
  golden.assert_close(
    found.class_logits[..., :8], g['out/eval_with_other/pred_logits'], name='classes'
  )
  assert found.objectness is None
  assert found.mask_hw.tolist() == [[32, 32]]
  assert len(found.aux) == 3


def test_refinement_of_zero_changes_no_mask():
  """[masqclip 13], 5: without conv3 the masks stay."""
  _, pixels, masks, _ = module_case()
  model = nnx.clone(official.small('maskclip'))
  for rma in model.rma:
    rma.conv3.kernel[...] = jnp.zeros_like(rma.conv3.kernel[...])
    rma.conv3.bias[...] = jnp.zeros_like(rma.conv3.bias[...])
  _, refined = encode(model, pixels, masks)
  np.testing.assert_array_equal(refined[-1], masks)


def test_pixel_shuffle_puts_a_channel_where_the_patch_has_it():
  """[masqclip 13], 7: channel k lights pixel (k div p, k mod p) of each patch."""
  patches = jax.nn.one_hot(jnp.full(9, 13), 16)
  maps = regions.maps_of(patches, 4)
  expected = np.zeros((12, 12))
  expected[3::4, 1::4] = 1
  np.testing.assert_array_equal(maps, expected)
  np.testing.assert_array_equal(regions.patches_of(maps, 4), patches)


def test_without_rma_a_full_mask_is_the_class_token():
  _, pixels, masks, _ = module_case()
  config = dataclasses.replace(official.SMALL['maskclip'], rma_blocks=())
  flat = params.flatten(official.small('maskclip'))
  flat = {path: a for path, a in flat.items() if not path.startswith('rma/')}
  model = params.load_into(params.abstract_model('maskclip', config), flat)
  vectors, refined = encode(model, pixels, jnp.full_like(masks[:, :3], 2.0))
  assert refined == ()
  token = official.run(model.clip.visual, pixels)
  expected = jnp.repeat(token[:, None], 3, axis=1)
  np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_masks_do_not_see_each_other_and_any_number_will_do():
  _, pixels, masks, _ = module_case()
  model = official.small('maskclip')
  together, _ = encode(model, pixels, masks)
  some, _ = encode(model, pixels, masks[:, 7:20])
  # The same sums in products of another shape: float32 rounding.
  np.testing.assert_allclose(some, together[:, 7:20], atol=1e-4)


@pytest.mark.slow
def test_bfloat16_differs_by_rounding_only():
  """24 blocks at 8 bits of mantissa turn a vector by a degree or so."""
  _, pixels, masks, _ = module_case()
  exact, _ = encode(official.small('maskclip'), pixels, masks)
  half, _ = encode(official.small('maskclip', jnp.bfloat16), pixels, masks)
  cosine = jnp.einsum('bqd,bqd->bq', unit(exact), unit(half))
  print(f'bfloat16: smallest cosine {cosine.min():.4f}')
  assert cosine.min() > 0.99
  assert not np.array_equal(exact, half)


def test_added_parameters():
  rma = nnx.eval_shape(
    lambda: RelativeMaskAttention(CLIP_SIZES['vit_l14_336'], rngs=nnx.Rngs(0))
  )
  assert 4 * sum(x.size for x in jax.tree.leaves(nnx.state(rma))) == 5_817_104


def test_blocks_that_do_not_exist_are_named():
  with pytest.raises(ValueError, match='rma_blocks'):
    MaskCLIPConfig(Mask2FormerConfig(num_classes=None), CLIP_SIZES['vit_b16'])


def test_initial_biases_are_not_zero():
  """[masqclip 4.5]: uniform(0, 1), so that a fresh module is not an identity."""
  rma = RelativeMaskAttention(official.SMALL['maskclip'].clip, rngs=nnx.Rngs(0))
  for conv in (rma.conv1, rma.conv3):
    bias = np.asarray(conv.bias[...])
    assert bias.min() >= 0
    assert bias.max() <= 1
    assert 0.3 < bias.mean() < 0.7


@pytest.mark.full_size
def test_full_size():
  """ViT-L/14@336 with relative mask attention gives the recorded outputs."""
  config = MaskCLIPConfig(
    Mask2FormerConfig(num_classes=None), CLIP_SIZES['vit_l14_336']
  )
  model, record = official.full_size('maskclip', config)
  outputs = record['outputs']['module']
  rng = np.random.default_rng(4)
  coarse = rng.standard_normal((1, 100, 12, 12)).astype(np.float32)
  masks = 2 * resize(coarse, (336, 336), 'bicubic')
  pixels = rng.standard_normal((1, 3, 336, 336)).astype(np.float32)
  vectors, refined = encode(model, jnp.moveaxis(pixels, 1, -1), masks)
  for stage, mask in zip(('refined0', 'refined1', 'refined2'), refined, strict=False):
    golden.assert_matches_samples(mask, outputs[stage], name=stage)
  golden.assert_matches_samples(refined[-1], outputs['pred_masks'], name='masks')
  names = Vocabulary(
    [Category(n) for n in golden.load('masqclip')['meta/toy_names']]
  ).for_system('maskclip')
  tokens = tokenizer.tokenize(names.prompts()[0])
  text = unit(official.run(model.clip.text, jnp.asarray(tokens)))
  golden.assert_matches_samples(text, outputs['txt_embed_train'], name='text')
  bank = TextBank.build(text, [True] * 7, void_last=True)
  logits = regions.class_similarity(vectors, bank)[..., :8]
  golden.assert_matches_samples(logits, outputs['pred_logits'], name='logits')
