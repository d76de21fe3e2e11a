"""MasQCLIP against the official code, and what its mask tokens must not do."""

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
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.semantic import semantic_scores
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.masqclip.model import MasQCLIPConfig


@functools.cache
def encoder_case():
  """Two photos of the encoder's recording, its made-up masks, and the text bank."""
  g = golden.load('masqclip')
  pixels = jnp.moveaxis(g['in/encoder/image_uint8'], 1, -1)
  images = Images(pixels, jnp.array([pixels.shape[1:3]] * 2))
  bank = TextBank.build(g['in/text_embeddings'], [True] * 7, void_last=True)
  masks, mask_hw = jnp.asarray(g['in/encoder/masks']), jnp.array([[32, 40]] * 2)
  return g, images, masks, mask_hw, bank


def encode(model, images, masks, mask_hw):
  encoded = official.run(model, images, masks, mask_hw, method='encode_masks')
  return encoded.vectors


def logits_of(model, images, masks, mask_hw, bank):
  vectors = encode(model, images, masks, mask_hw)
  return vectors, regions.class_similarity(vectors, bank)[..., :8]


def test_visibility_is_the_official_attention_mask():
  g, _, masks, mask_hw, _ = encoder_case()
  visible = official.small('masqclip').visibility(masks, mask_hw)
  np.testing.assert_array_equal(~visible[:, 0], g['out/encoder/attn_mask'])


def test_mask_vectors_and_logits():
  g, images, masks, mask_hw, bank = encoder_case()
  model = official.small('masqclip')
  vectors, logits = logits_of(model, images, masks, mask_hw, bank)
  golden.assert_close(vectors, g['out/encoder/final_embedding'], name='vectors')
  golden.assert_close(logits, g['out/encoder/pred_logits'], name='logits')


def test_tokens_block_by_block():
  """The mask tokens of every block; the image stream is CLIP's own (test_clip)."""
  g, images, masks, mask_hw, _ = encoder_case()
  model = official.small('masqclip')
  for blocks in (1, 2, 3):
    shorter = nnx.clone(model)
    resblocks = shorter.clip.visual.transformer.resblocks
    shorter.clip.visual.transformer.resblocks = nnx.List(list(resblocks)[:blocks])
    shorter.new_q_proj = nnx.List(list(shorter.new_q_proj)[:blocks])
    shorter.clip.visual.ln_post = _Identity()
    shorter.clip.visual.proj = _Identity()
    tokens = encode(shorter, images, masks, mask_hw)
    recorded = g[f'out/encoder/block{blocks - 1}'][:10].swapaxes(0, 1)
    golden.assert_close(tokens, recorded, name=f'mask tokens, block {blocks - 1}')


class _Identity(nnx.Module):
  def __call__(self, x):
    return x


def test_a_mask_vector_of_its_own():
  g, images, masks, mask_hw, bank = encoder_case()
  model = nnx.clone(official.small('masqclip'))
  model.mask_embeddings[...] = jnp.asarray(g['in/encoder/untied_mask_embeddings'])
  _, logits = logits_of(model, images, masks, mask_hw, bank)
  golden.assert_close(logits, g['out/encoder/pred_logits_untied'], name='untied')


@functools.cache
def evaluation_case():
  """Two photos of different size that see the padding of the larger one."""
  g = golden.load('masqclip')
  photos = [g[f'in/eval/img{i}_uint8'] for i in (0, 1)]
  bank = TextBank.build(g['in/text_embeddings_crafted'], [True] * 7, void_last=True)
  return g, photos, bank


@pytest.mark.parametrize(
  'canvas', [(128, 160), pytest.param((160, 256), marks=pytest.mark.slow)]
)
def test_photo_to_logits(canvas):
  g, photos, bank = evaluation_case()
  images = Images.from_arrays(photos, canvas, pad_to_batch=True)
  found = official.run(official.small('masqclip'), images, bank)
  masks = found.mask_logits[:, :, :32, :40]
  golden.assert_close(masks, g['out/eval/m2f_pred_masks'], name='masks')
  expected = jax.nn.log_softmax(g['out/eval/m2f_pred_logits'])[..., 0]
  golden.assert_close(found.objectness, expected, name='objectness')
  golden.assert_close(
    found.class_logits[..., :8], g['out/eval/clip_pred_logits_crafted'], name='classes'
  )
  assert found.mask_hw.tolist() == [[32, 40]] * 2


def test_masks_do_not_see_each_other():
  _, images, masks, mask_hw, _ = encoder_case()
  model = official.small('masqclip')
  together = encode(model, images, masks, mask_hw)
  alone = encode(model, images, masks[:, 3:4], mask_hw)
  # The same sums in products of another shape: float32 rounding.
  np.testing.assert_allclose(alone[:, 0], together[:, 3], atol=1e-5)


def test_an_empty_mask_sees_the_class_token_only():
  _, images, masks, mask_hw, _ = encoder_case()
  model = official.small('masqclip')
  empty = jnp.full_like(masks[:, :1], -5.0)
  visible = model.visibility(empty, mask_hw)
  assert visible[..., 0].all()
  assert not visible[..., 1:].any()
  assert jnp.isfinite(encode(model, images, empty, mask_hw)).all()


def test_a_full_mask_with_clips_own_queries_is_the_class_token():
  """[masqclip 13], 4: with CLIP's query and class position, a token that sees
  everything is CLIP's class token."""
  _, images, masks, mask_hw, _ = encoder_case()
  model = nnx.clone(official.small('masqclip'))
  visual = model.clip.visual
  model.new_q_proj = nnx.List([b.attn.query for b in visual.transformer.resblocks])
  model.mask_embeddings[...] = visual.positional_embedding[...][0]
  vectors = encode(model, images, jnp.full_like(masks[:, :1], 5.0), mask_hw)
  pixels = regions.squash_photos(images, model.config.clip, (0.0, 0.0, 0.0))
  np.testing.assert_allclose(vectors[:, 0], visual(pixels), atol=1e-5)


def test_every_part_of_the_image_tower_can_be_tuned():
  """MasQ-tuning freezes CLIP by what trains, not by cutting the gradients: tuning all
  of it is what the paper compares with (Table 6)."""
  _, images, masks, mask_hw, _ = encoder_case()
  graphdef, state = nnx.split(official.small('masqclip'))

  def total(state):
    return nnx.merge(graphdef, state).encode_masks(images, masks, mask_hw).vectors.sum()

  grads = nnx.to_pure_dict(jax.jit(jax.grad(total))(state))
  assert jnp.any(grads['clip']['visual']['conv1']['kernel'])
  assert jnp.any(grads['clip']['visual']['positional_embedding'])
  assert all(jnp.any(layer['kernel']) for layer in grads['new_q_proj'].values())
  assert jnp.any(grads['mask_embeddings'])


def test_bfloat16_differs_by_rounding_only():
  """8 bits of mantissa through 6 encoder layers and 3 blocks: a few percent."""
  _, images, masks, mask_hw, bank = encoder_case()
  _, exact = logits_of(official.small('masqclip'), images, masks, mask_hw, bank)
  half = official.small('masqclip', jnp.bfloat16)
  _, rounded = logits_of(half, images, masks, mask_hw, bank)
  error = golden.relative_error(rounded, exact)
  print(f'bfloat16: relative error {error:.1e}')
  assert 1e-4 < error < 5e-2


def test_added_parameters():
  config = MasQCLIPConfig(Mask2FormerConfig(), CLIP_SIZES['vit_l14_336'])
  model = params.abstract_model('masqclip', config)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert count(nnx.state(model.new_q_proj)) == 25_190_400
  assert model.mask_embeddings.shape == (1024,)


@pytest.mark.full_size
def test_full_size():
  """ResNet-50 and ViT-L/14@336 with seeded weights give the recorded outputs."""
  config = MasQCLIPConfig(Mask2FormerConfig(), CLIP_SIZES['vit_l14_336'])
  model, record = official.full_size('masqclip', config)
  outputs = record['outputs']['256x320']
  tokens = golden.load('masqclip')['in/toy_tokens']
  text = unit(official.run(model.clip.text, tokens))
  golden.assert_matches_samples(text, outputs['text_embeddings'], name='text')
  bank = TextBank.build(text, [True] * 7, void_last=True)
  images = Images.from_arrays([golden.photo('coffee.png', (320, 256))])
  found = official.run(model, images, bank)
  golden.assert_matches_samples(
    found.mask_logits, outputs['m2f_pred_masks'], name='masks'
  )
  golden.assert_matches_samples(
    found.class_logits[..., :8], outputs['clip_pred_logits'], name='classes'
  )
  scores = class_probabilities(
    found.class_logits[0], bank.valid, bank.void, found.objectness[0]
  )
  maps = semantic_scores(
    found.mask_logits[0], scores, Geometry((64, 80), *((256, 320),) * 3)
  )
  golden.assert_matches_samples(maps[:7], outputs['sem_seg'], name='semantic scores')
