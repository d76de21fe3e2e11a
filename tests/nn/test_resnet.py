"""The residual network against the official outputs, and its frozen statistics."""

import golden
import jax
import jax.numpy as jnp
import mask2former_golden
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping import resnet as tables
from maskclip_jax.mapping.rules import official_shapes
from maskclip_jax.nn.layers import compiling_for
from maskclip_jax.nn.resnet import (
  ConvNorm,
  FrozenBatchNorm,
  ResNet,
  Statistic,
  Stem,
)


def test_features_match_the_official_ones():
  g = golden.load('mask2former')
  features = jax.jit(mask2former_golden.model().features)(mask2former_golden.images())
  assert list(features) == ['res2', 'res3', 'res4', 'res5']
  for name, x in features.items():
    official = mask2former_golden.channels_last(g[f'out/backbone/{name}'])
    golden.assert_close(x, official, name=f'backbone/{name}')


@pytest.mark.parametrize('deep', [False, True])
def test_the_stem_for_a_tpu_gives_the_same(deep):
  stem = Stem(8, deep=deep, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (2, 32, 64, 3))
  hw = jnp.array([[32, 64], [20, 36]])

  def both(stem, x):
    y = stem(x, hw)
    return (y**2).sum(), y

  run = nnx.value_and_grad(both, argnums=(0, 1), has_aux=True)
  plain = run(stem, x)
  with compiling_for('tpu'):
    folded = run(stem, x)
  # The same sums, in another order.
  for a, b in zip(jax.tree.leaves(folded), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  ('depth', 'kernels'),
  # Without the classifier: 25,557,032 - 2,049,000 and 44,549,160 - 2,049,000 in
  # torchvision's counts, which include two trained numbers per norm channel.
  [(50, 25_557_032 - 2_049_000 - 53_120), (101, 44_549_160 - 2_049_000 - 105_344)],
)
def test_parameter_counts(depth, kernels):
  network = params.abstract(lambda: ResNet(depth, rngs=nnx.Rngs(0)))
  trained = params.flatten(nnx.state(network, nnx.Param))
  constants = params.flatten(nnx.state(network, Statistic))
  assert params.count(trained) == kernels
  assert all(path.endswith('/kernel') for path in trained)
  assert not set(trained) & set(constants)
  assert len(constants) == 4 * len(trained)


def test_an_unknown_depth_is_refused():
  with pytest.raises(ValueError, match='depth must be one of'):
    ResNet(34, rngs=nnx.Rngs(0))


def test_statistics_get_no_gradient_but_are_part_of_the_state():
  network = mask2former_golden.model().backbone
  graphdef, trained, rest = nnx.split(network, nnx.Param, ...)
  x = jnp.ones((1, 32, 32, 3))

  def loss(trained):
    return nnx.merge(graphdef, trained, rest)(x)['res5'].sum()

  gradients = params.flatten(jax.jit(jax.grad(loss))(trained))
  assert set(gradients) == {p for p in params.flatten(network) if '/norm/' not in p}
  assert all(np.abs(v).max() > 0 for v in gradients.values())


def test_frozen_norm_is_the_batch_norm_formula():
  norm = FrozenBatchNorm(3)
  norm.scale[...] = jnp.array([1.0, 2.0, 3.0])
  norm.bias[...] = jnp.array([0.5, 0.0, -1.0])
  norm.mean[...] = jnp.array([1.0, -1.0, 0.0])
  norm.var[...] = jnp.array([4.0, 0.25, 1.0])
  x = np.random.default_rng(0).standard_normal((5, 3))
  expected = [
    (x[:, i] - m) / np.sqrt(v + 1e-5) * s + b
    for i, (s, b, m, v) in enumerate([(1, 0.5, 1, 4), (2, 0, -1, 0.25), (3, -1, 0, 1)])
  ]
  # Float32 against float64.
  np.testing.assert_allclose(norm(jnp.asarray(x)), np.stack(expected, 1), atol=1e-5)


def test_stem_pools_windows_of_three_at_stride_two():
  stem = Stem(4, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  before = np.pad(nnx.relu(stem.conv1(x))[0], ((1, 1), (1, 1), (0, 0)))
  pooled = stem(x)
  assert pooled.shape == (1, 8, 8, 4)
  window = before[2 * 3 : 2 * 3 + 3, 2 * 7 : 2 * 7 + 3].max((0, 1))
  np.testing.assert_array_equal(pooled[0, 3, 7], window)


def test_the_deep_stem_is_three_convolutions_and_a_pool():
  stem = Stem(4, deep=True, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  y = x
  for conv, stride in ((stem.conv1, 2), (stem.conv2, 1), (stem.conv3, 1)):
    kernel = conv.kernel[...]
    y = jax.lax.conv_general_dilated(
      y,
      kernel,
      (stride, stride),
      [(1, 1)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    y = nnx.relu(y / jnp.sqrt(1 + 1e-5))
  y = np.pad(y[0], ((1, 1), (1, 1), (0, 0)))
  pooled = stem(x)
  assert pooled.shape == (1, 8, 8, 8)
  # Float32 rounding of the norm.
  window = y[2 * 3 : 2 * 3 + 3, 2 * 7 : 2 * 7 + 3].max((0, 1))
  np.testing.assert_allclose(pooled[0, 3, 7], window, atol=1e-6)


def test_a_dilated_convolution_reaches_further():
  conv = ConvNorm(1, 1, 3, dilation=4, rngs=nnx.Rngs(0))
  corner = np.zeros((3, 3, 1, 1), np.float32)
  corner[0, 2] = 1
  conv.kernel[...] = jnp.asarray(corner)
  x = np.arange(100, dtype=np.float32).reshape(1, 10, 10, 1)
  y = conv(jnp.asarray(x))
  assert y.shape == x.shape
  np.testing.assert_allclose(y[0, 4:, :6], x[0, :6, 4:], rtol=1e-5)
  assert not y[0, :4].any()
  assert not y[0, :, 6:].any()


def deeplab(depth, **sizes):
  return ResNet(depth, deeplab=True, rngs=nnx.Rngs(0), **sizes)


def test_deeplab_numbers_are_those_of_the_published_file():
  """R101c: 106 convolutions with five tensors each [ovseg 1.8]."""
  flat = params.flatten(params.abstract(lambda: deeplab(101)))
  shapes = official_shapes(tables.DETECTRON2, flat)
  assert len(shapes) == 530
  assert shapes['stem.conv3.weight'] == (128, 64, 3, 3)
  assert shapes['res2.0.shortcut.weight'] == (256, 128, 1, 1)
  assert shapes['res5.2.conv2.weight'] == (512, 512, 3, 3)


def test_deeplab_sees_the_same_on_a_larger_canvas():
  """Dilation 4 at stride 32 reaches 128 pixels beyond the photo."""
  network = deeplab(26, stem=8, width=16)
  assert [block.conv2.dilation for block in network.res5] == [1, 2]
  photo = jax.random.normal(jax.random.key(0), (1, 64, 96, 3))
  run = jax.jit(network.__call__)
  alone = run(photo)
  canvas = jnp.zeros((1, 192, 160, 3)).at[:, :64, :96].set(photo)
  for name, x in run(canvas, jnp.array([[64, 96]])).items():
    expected = alone[name]
    x = x[:, : expected.shape[1], : expected.shape[2]]
    # The same sums, tiled otherwise.
    golden.assert_close(x, expected, name=name, tolerance=1e-5)
