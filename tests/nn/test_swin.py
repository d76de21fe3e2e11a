"""Swin against the official outputs, on canvases, and by its definition."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.params import ConstantRngs
from maskclip_jax.mapping import swin as tables
from maskclip_jax.mapping.rules import convert, official_shapes, prefixed
from maskclip_jax.nn.layers import attend
from maskclip_jax.nn.swin import (
  SWIN_SIZES,
  Swin,
  SwinConfig,
  WindowAttention,
  relative_index,
)

# The recorded one: an odd window, and maps that are no multiple of it.
CONFIG = SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 5)
RULES = prefixed(tables.DETECTRON2, 'backbone.')
MEAN = np.float32([123.675, 116.28, 103.53])
STD = np.float32([58.395, 57.12, 57.375])


def abstract(config: SwinConfig) -> Swin:
  return params.abstract(lambda: Swin(config, rngs=ConstantRngs()))


@functools.cache
def recorded() -> Swin:
  weights = golden.weights('ovseg')
  state = {k: a for k, a in weights.items() if k.startswith('backbone.')}
  model = abstract(CONFIG)
  return params.load_into(model, convert(state, RULES, params.flatten(model)))


@pytest.mark.parametrize(
  ('canvas', 'valid'), [((128, 160), None), ((128, 160), True), ((224, 192), True)]
)
def test_features_match_the_official_ones(canvas, valid):
  """On any canvas: the photo of 121 x 150 pixels is padded to 128 x 160."""
  g = golden.load('ovseg')
  photo = (g['in/full/image_uint8'] - MEAN) / STD
  pixels = np.zeros((1, *canvas, 3), np.float32)
  pixels[0, :121, :150] = photo
  hw = jnp.array([[128, 160]]) if valid else None
  for name, x in jax.jit(recorded().__call__)(pixels, hw).items():
    official = np.moveaxis(g[f'out/full/backbone/{name}'], 1, -1)
    x = x[:, : official.shape[1], : official.shape[2]]
    golden.assert_close(x, official, name=f'{name} on {canvas}')


def rolled(attention: WindowAttention, x, window: int):
  """Shifted windows as the paper has them: roll the padded map, attend, mask pairs
  that are no neighbours, roll back."""
  _, height, width, channels = x.shape
  shift, heads = window // 2, attention.query.bias.shape[0]
  x = np.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
  sides = x.shape[1:3]
  x = np.roll(x, (-shift, -shift), (1, 2))
  regions = np.zeros(sides, int)
  cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
  for i, rows in enumerate(cuts):
    for j, columns in enumerate(cuts):
      regions[rows, columns] = 3 * i + j
  counts = [side // window for side in sides]

  def cut(a):
    a = a.reshape(counts[0], window, counts[1], window, -1)
    return a.swapaxes(1, 2).reshape(-1, window**2, a.shape[-1])

  tokens, labels = cut(x[0]), cut(regions)[..., 0]
  mask = labels[:, None, :, None] == labels[:, None, None, :]
  table = attention.relative_position_bias_table[...]
  bias = jnp.moveaxis(table[relative_index(window)], -1, 0)
  q = attention.query(tokens) * attention.scale
  y = attend(
    q, attention.key(tokens), attention.value(tokens), mask, lambda s: s + bias
  )
  y = np.asarray(attention.out(y))
  y = y.reshape(*counts, window, window, channels).swapaxes(1, 2)
  y = np.roll(y.reshape(*sides, channels), (shift, shift), (0, 1))
  assert heads == 2
  return y[:height, :width]


@pytest.mark.parametrize(('window', 'size'), [(4, (9, 5)), (5, (12, 7)), (4, (3, 2))])
def test_shifted_windows_are_those_of_a_rolled_map(window, size):
  attention = WindowAttention(8, 2, window, rngs=nnx.Rngs(0))
  for part in (attention.query, attention.key, attention.value):
    part.bias[...] = jax.random.normal(jax.random.key(1), part.bias.shape)
  x = np.asarray(jax.random.normal(jax.random.key(2), (1, *size, 8)))
  ours = jax.jit(functools.partial(attention, shifted=True))(x)[0]
  # The same sums in another order, in float32.
  np.testing.assert_allclose(ours, rolled(attention, x, window), atol=1e-5)


@pytest.mark.parametrize(
  ('size', 'count'),
  # What torchvision counts for windows of 7, less the classifier, plus the norms of
  # the first three maps.
  [('swin_t', 28_288_354 - 769_000 + 1_344), ('swin_s', 49_606_258 - 769_000 + 1_344)],
)
def test_parameter_counts(size, count):
  assert params.count(params.flatten(abstract(SWIN_SIZES[size]))) == count


def test_swin_b_has_the_tensors_of_the_published_model():
  shapes = {
    key: tuple(row['shape'])
    for key, row in golden.full_size('ovseg')['state_dict'].items()
    if key.startswith('backbone.') and not key.endswith('relative_position_index')
  }
  ours = params.flatten(abstract(SWIN_SIZES['swin_b']))
  assert official_shapes(RULES, ours) == shapes


def test_the_index_of_relative_places_is_the_official_one():
  key = 'backbone.layers.0.blocks.0.attn.relative_position_index'
  np.testing.assert_array_equal(relative_index(5), golden.weights('ovseg')[key])


def test_odd_maps_are_padded_before_merging():
  """Maps of 9 x 11 tokens become 5 x 6, 3 x 3 and 2 x 2."""
  pixels = np.ones((1, 35, 43, 3), np.float32)
  shapes = {k: x.shape[1:3] for k, x in jax.jit(recorded().__call__)(pixels).items()}
  assert shapes == {'res2': (9, 11), 'res3': (5, 6), 'res4': (3, 3), 'res5': (2, 2)}


def test_bad_sizes_are_named():
  with pytest.raises(ValueError, match='four stages'):
    SwinConfig(depths=(2, 2, 6))
  with pytest.raises(ValueError, match='res2 96 is not a multiple of 5 heads'):
    SwinConfig(96, heads=(5, 6, 12, 24))
