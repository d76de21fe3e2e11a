"""The pixel decoder against the official outputs, and its parts by hand."""

import golden
import jax
import jax.numpy as jnp
import mask2former_golden
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.nn.deformable import DeformableAttention, own_places
from maskclip_jax.nn.layers import GroupNorm, compiling_for, sine_positions
from maskclip_jax.nn.pixel_decoder import Conv
from maskclip_jax.ops.deformable import FORMS
from maskclip_jax.ops.sampling import sample_points


def decode(sampling='auto'):
  g = golden.load('mask2former')
  features = {
    name: jnp.asarray(mask2former_golden.channels_last(g[f'out/backbone/{name}']))
    for name in ('res2', 'res3', 'res4', 'res5')
  }
  decoder = mask2former_golden.model().pixel_decoder
  decoder.transformer.sampling = sampling
  return jax.jit(decoder.__call__)(features)


@pytest.fixture(scope='module')
def decoded():
  return decode()


def test_every_encoder_layer(decoded):
  g = golden.load('mask2former')
  assert len(decoded.encoder_layers) == 2
  for i, x in enumerate(decoded.encoder_layers):
    official = g[f'out/pixel_decoder/encoder_layer{i}']
    golden.assert_close(x, official, name=f'pixel_decoder/encoder_layer{i}')


def test_outputs(decoded):
  g = golden.load('mask2former')
  outputs = {f'multi_scale{i}': x for i, x in enumerate(decoded.multi_scale)}
  for name, x in {**outputs, 'mask_features': decoded.mask_features}.items():
    official = mask2former_golden.channels_last(g[f'out/pixel_decoder/{name}'])
    golden.assert_close(x, official, name=f'pixel_decoder/{name}')


@pytest.mark.parametrize('form', [form for form in FORMS if form != 'chunks'])
def test_official_outputs_in_every_form_of_sampling(form):
  official = golden.load('mask2former')['out/pixel_decoder/encoder_layer1']
  golden.assert_close(decode(form).encoder_layers[1], official, name=form)


def test_official_outputs_as_traced_for_a_tpu():
  """Loops, resizes by products, and places picked by comparisons."""
  with compiling_for('tpu'):
    found = decode('products')
  g = golden.load('mask2former')
  layer, mask_features = (
    g[f'out/pixel_decoder/{name}'] for name in ('encoder_layer1', 'mask_features')
  )
  golden.assert_close(found.encoder_layers[1], layer, name='encoder_layer1, TPU')
  mask_features = mask2former_golden.channels_last(mask_features)
  golden.assert_close(found.mask_features, mask_features, name='mask_features, TPU')


def test_attention_without_offsets_averages_samples_at_its_own_place():
  shapes, heads, width = ((2, 3), (4, 6), (8, 12)), 2, 8
  layer = DeformableAttention(width, heads, 3, 4, rngs=nnx.Rngs(0))
  layer.sampling_offsets.bias[...] = jnp.zeros_like(layer.sampling_offsets.bias)
  tokens = sum(h * w for h, w in shapes)
  x = jax.random.normal(jax.random.key(1), (2, tokens, width))
  values = layer.value_proj(x)
  ends = np.cumsum([h * w for h, w in shapes])[:-1]
  centres = [
    np.stack(
      np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1
    ).reshape(-1, 2)
    for h, w in shapes
  ]
  points = jnp.asarray(np.concatenate(centres), jnp.float32)
  levels = [
    sample_points(
      jnp.moveaxis(part, 1, -1).reshape(2, width, *shape), points[None, None]
    )
    for part, shape in zip(jnp.split(values, ends, axis=1), shapes, strict=True)
  ]
  expected = layer.output_proj(jnp.moveaxis(sum(levels) / 3, 1, -1))
  # Two orders of summation in float32.
  found = jax.jit(lambda x: layer(x, x, shapes))(x)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_initial_offsets_form_a_ring():
  layer = DeformableAttention(32, 8, 3, 4, rngs=nnx.Rngs(0))
  offsets = layer.sampling_offsets.bias[...].reshape(8, 3, 4, 2)
  # Head 1 looks along the diagonal, head 2 down; the point's number is the distance.
  np.testing.assert_allclose(offsets[1, 0, 3], [4, 4], atol=1e-6)
  np.testing.assert_allclose(offsets[2, 2, 1], [0, 2], atol=1e-6)
  np.testing.assert_array_equal(offsets[:, 0], offsets[:, 1])
  np.testing.assert_array_equal(layer.attention_weights.bias[...], 0)


def test_own_places_are_centres_on_every_level():
  places = np.asarray(own_places(((1, 2), (2, 4))))
  assert places.shape == (10, 2, 2)
  np.testing.assert_array_equal(places[1], [[1, 0], [2.5, 0.5]])
  # The last position of the finer level.
  np.testing.assert_array_equal(places[9], [[1.25, 0.25], [3, 1]])


def test_sine_positions_by_hand():
  x = np.asarray(sine_positions((3, 5), 8))[0]
  assert x.shape == (3, 5, 8)
  row, column = 2 / 3 * 2 * np.pi, 5 / 5 * 2 * np.pi
  expected = [
    *(np.sin(row), np.cos(row), np.sin(row / 100), np.cos(row / 100)),
    *(np.sin(column), np.cos(column), np.sin(column / 100), np.cos(column / 100)),
  ]
  # The 1e-6 in the denominator, and float32.
  np.testing.assert_allclose(x[1, 4], expected, atol=1e-5)


def test_positions_of_a_partly_filled_map_are_those_of_its_own_size():
  x = sine_positions((6, 7), 16, jnp.array([[3, 5], [6, 7]]))
  np.testing.assert_array_equal(x[0, :3, :5], sine_positions((3, 5), 16)[0])
  np.testing.assert_array_equal(x[1], sine_positions((6, 7), 16)[0])


def test_group_norm_counts_real_positions_only():
  norm = GroupNorm(8, groups=4, rngs=nnx.Rngs(0))
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (1, 4, 5, 8))
  alone = norm(x)
  groups = np.asarray(alone).reshape(-1, 4, 2)
  np.testing.assert_allclose(groups.mean((0, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(groups.std((0, 2)), 1, atol=1e-4)
  canvas = jnp.pad(x, ((0, 0), (0, 3), (0, 1), (0, 0)), constant_values=77.0)
  part = norm(canvas, jnp.array([[4, 5]]))[:, :4, :5]
  # The same sums in another order.
  np.testing.assert_allclose(part, alone, atol=1e-5)


def test_convolutions_start_within_the_published_bound():
  conv = Conv(64, 32, 3, rngs=nnx.Rngs(0))
  bound = np.sqrt(3 / (64 * 9))
  assert 0.99 * bound < np.abs(conv.kernel[...]).max() <= bound
