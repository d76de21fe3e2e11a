"""The ConvNeXt image tower against recorded official outputs, and on a canvas."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.convnext import TOWER
from maskclip_jax.mapping.rules import convert, invert
from maskclip_jax.nn.clip import PIXEL_MEAN, PIXEL_STD
from maskclip_jax.nn.convnext import (
  CONVNEXT_CLIP_SIZES,
  STAGES,
  ConvNeXtCLIPConfig,
  ConvNeXtTower,
  depthwise_conv,
)
from maskclip_jax.nn.layers import inside
from maskclip_jax.systems.contract import Images

_PREFIX = 'backbone.clip_model.visual.'


@functools.cache
def official_tower() -> dict[str, np.ndarray]:
  weights = golden.weights('fcclip')
  return {
    key.removeprefix(_PREFIX): array
    for key, array in weights.items()
    if key.startswith(_PREFIX)
  }


@functools.cache
def tower() -> ConvNeXtTower:
  """The recorded image tower."""
  config = CONVNEXT_CLIP_SIZES['convnext_tiny']
  model = params.abstract(lambda: ConvNeXtTower(config, rngs=nnx.Rngs(0)))
  flat = convert(official_tower(), TOWER, params.flatten(model))
  return params.load_into(model, flat)


@functools.cache
def photos() -> list[np.ndarray]:
  g = golden.load('fcclip')
  return [g[f'in/img{i}_uint8'] for i in (0, 1)]


@functools.cache
def program():
  graphdef, state = nnx.split(tower().trunk)

  @jax.jit
  def run(state, pixels, hw):
    return nnx.merge(graphdef, state)(pixels, hw)

  return functools.partial(run, state)


def features(images: Images) -> dict[str, jax.Array]:
  mean, std = (tuple(255 * x for x in v) for v in (PIXEL_MEAN, PIXEL_STD))
  return program()(images.standardised(mean, std), images.padded_hw)


@pytest.mark.parametrize('canvas', [(96, 128), (128, 192)])
def test_features_match_the_official_ones(canvas):
  """On a canvas that fits, and on a larger one whose rest must not be seen."""
  images = Images.from_arrays(photos(), canvas, pad_to_batch=True)
  found = features(images)
  assert list(found) == list(STAGES)
  g = golden.load('fcclip')
  for name in ('res2', 'res4', 'res5'):
    stride = STAGES[name]
    ours = found[name][:, : 96 // stride, : 128 // stride]
    golden.assert_close(jnp.moveaxis(ours, -1, 1), g[f'out/backbone/{name}'], name=name)


def test_what_lies_beyond_a_photo_changes_nothing():
  """Each photo keeps its own padded size, and the canvas holds numbers beyond it."""
  images = Images.from_arrays(photos(), (128, 192))
  clean = features(images)
  real = inside(images.padded_hw, (128, 192))[..., None]
  noise = 255 * jax.random.uniform(jax.random.key(0), images.pixels.shape)
  noisy = program()(jnp.where(real, images.pixels, noise), images.padded_hw)
  still = program()(jnp.where(real, images.pixels, 0.0), images.padded_hw)
  for name, stride in STAGES.items():
    real = inside(images.padded_hw // stride, clean[name].shape[1:3])[..., None]
    np.testing.assert_array_equal(
      jnp.where(real, noisy[name], 0), jnp.where(real, still[name], 0)
    )
  alone = features(Images.from_arrays(photos()[1:]))
  for name, official in alone.items():
    height, width = official.shape[1:3]
    # The same sums in products of another shape: float32 rounding.
    golden.assert_close(
      clean[name][1:, :height, :width], official, name=name, tolerance=1e-6
    )


def test_head_matches_the_official_one():
  g = golden.load('fcclip')
  vectors = tower().head(jnp.asarray(g['out/clip_pooled']))
  golden.assert_close(vectors, g['out/clip_pooled_embedding'], name='head')


def test_weights_go_back_byte_for_byte():
  back = invert(params.flatten(tower()), TOWER)
  official = official_tower()
  assert back.keys() == official.keys()
  for key, array in official.items():
    assert np.asarray(back[key]).tobytes() == array.tobytes(), key


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_both_forms_of_the_depthwise_convolution_are_that(platform):
  """Against sums in NumPy; for a TPU it is one convolution, which also runs here."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 5, 9, 3)).astype(np.float32)
  kernel = rng.standard_normal((7, 7, 1, 3)).astype(np.float32)
  padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (1, 2))
  expected = np.einsum('bhwcij,ijc->bhwc', windows, kernel[:, :, 0])
  program = jax.jit(depthwise_conv).trace(x, kernel)
  if platform == 'tpu':
    text = program.lower(lowering_platforms=('tpu',)).as_text()
    assert text.count('stablehlo.convolution') == 1
    assert 'stablehlo.slice' not in text
    return
  ours = program.lower().compile()(x, kernel)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_sizes_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='depths must be four numbers'):
    ConvNeXtCLIPConfig(depths=(1, 1, 1))
  with pytest.raises(ValueError, match="head must be 'linear' or 'mlp'"):
    ConvNeXtCLIPConfig(head='attention')
  with pytest.raises(ValueError, match='activation must be one of'):
    ConvNeXtCLIPConfig(activation='relu')
