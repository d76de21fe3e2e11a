"""CLIP against OpenAI's code: every block of both towers, and the preprocessing."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.clip import CLIP, CLIP_SIZES
from maskclip_jax.systems.clip.checkpoint import OPENAI
from maskclip_jax.text import tokenizer
from maskclip_jax.text.bank import encode_prompts


def load(size: str, weights) -> CLIP:
  """A CLIP of a size, filled with an official state dict."""
  model = params.abstract_model('clip', CLIP_SIZES[size])
  return params.load_into(model, convert(weights, OPENAI, params.flatten(model)))


@pytest.fixture(scope='module')
def clip():
  return load('vit_tiny', golden.weights('clip'))


def test_image_tower_block_by_block(clip):
  g, visual = golden.load('clip'), clip.visual
  x = visual.ln_pre(visual.embed(jnp.moveaxis(g['in/pixels'], 1, -1)))
  golden.assert_close(x, g['out/visual/ln_pre'], name='visual/ln_pre')
  for i, block in enumerate(visual.transformer.resblocks):
    x = block(x)
    golden.assert_close(x, g[f'out/visual/block{i}'], name=f'visual/block{i}')


def test_text_tower_block_by_block(clip):
  g, text = golden.load('clip'), clip.text
  x = text.token_embedding(g['in/tokens']) + text.positional_embedding[...]
  for i, block in enumerate(text.transformer.resblocks):
    x = block(x, jnp.tri(77, dtype=bool))
    golden.assert_close(x, g[f'out/text/block{i}'], name=f'text/block{i}')


def test_features_and_logits(clip):
  g = golden.load('clip')
  pixels = jnp.moveaxis(g['in/pixels'], 1, -1)
  tokens = jnp.asarray(g['in/tokens'])
  golden.assert_close(clip.visual(pixels), g['out/image_features'], name='image')
  golden.assert_close(clip.text(tokens), g['out/text_features'], name='text')
  golden.assert_close(clip(pixels, tokens), g['out/logits_per_image'], name='logits')


def test_a_shorter_context_gives_the_same_vectors(clip):
  tokens = golden.load('clip')['in/tokens']
  length = int((tokens != 0).sum(1).max())
  # Only the order of sums inside the matrix products may differ.
  np.testing.assert_allclose(
    clip.text(tokens[:, :length]), clip.text(tokens), atol=1e-5
  )


def test_prompts_of_all_lengths_are_encoded_as_at_full_length(clip):
  prompts = ['a cat', 'a ' * 40, 'a red dog'] * 6 + ['a green parrot ' * 6]
  programs = jax.jit(clip.text)
  vectors = encode_prompts(prompts, programs, 77)
  whole = jax.jit(lambda tokens: clip.text(tokens))(tokenizer.tokenize(prompts, 77))
  # Only the order of sums inside the matrix products may differ.
  np.testing.assert_allclose(vectors, whole, atol=2e-6)
  assert programs._cache_size() <= 3


def test_compute_in_bfloat16(clip):
  """bfloat16 keeps 8 bits: a relative error of some 1e-2 over three blocks."""
  state = nnx.split(clip)[1]
  half = params.abstract_model('clip', CLIP_SIZES['vit_tiny'], dtype=jnp.bfloat16)
  g = golden.load('clip')
  pixels = jnp.moveaxis(g['in/pixels'], 1, -1)
  logits = nnx.merge(nnx.split(half)[0], state)(pixels, g['in/tokens'])
  error = golden.relative_error(logits, g['out/logits_per_image'])
  print(f'bfloat16: relative error {error:.1e}')
  assert 1e-4 < error < 5e-2


@pytest.mark.parametrize(
  ('size', 'vision', 'total'),
  [
    ('vit_b32', 87_849_216, 151_277_313),
    ('vit_b16', 86_192_640, 149_620_737),
    ('vit_l14', 303_966_208, 427_616_513),
    ('vit_l14_336', 304_293_888, 427_944_193),
  ],
)
def test_parameter_counts(size, vision, total):
  model = params.abstract_model('clip', CLIP_SIZES[size])
  count = lambda m: sum(x.size for x in jax.tree.leaves(nnx.state(m)))
  assert count(model.visual) == vision
  assert count(model) == total


def test_bad_sizes_are_named():
  with pytest.raises(ValueError, match='225 is not a multiple of 16'):
    dataclasses.replace(CLIP_SIZES['vit_b16'], image_size=225)
  with pytest.raises(ValueError, match='activation'):
    dataclasses.replace(CLIP_SIZES['vit_b16'], activation='relu')


@pytest.mark.full_size
@pytest.mark.parametrize('size', ['vit_b16', 'vit_l14_336'])
def test_full_size(size):
  name = {'vit_b16': 'ViT-B/16', 'vit_l14_336': 'ViT-L/14@336px'}[size]
  record = golden.full_size('clip')[name]['outputs']
  model = load(size, seeded.clip_state_dict(size))
  pixels = golden.clip_photo('coffee.png', CLIP_SIZES[size].image_size)
  image = jax.jit(lambda m, x: m.visual(x))(model, pixels)
  golden.assert_matches_samples(image, record['image_features'], name='image')
  tokens = golden.load('clip')['in/tokens']
  text = jax.jit(lambda m, x: m.text(x))(model, tokens)
  golden.assert_matches_samples(text, record['text_features'], name='text')
